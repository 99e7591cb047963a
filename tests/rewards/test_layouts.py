"""What a file is: recognised by keys and shapes, named where it cannot serve, joined of parts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lags_pack.rewards import Aesthetic, clip, image_reward, reference
from lags_pack.rewards import layouts as kinds
from lags_pack.rewards.aesthetic import aesthetic_head
from lags_pack.rewards.checkpoint import CheckpointError, parts_of, read_shapes, read_weights
from lags_pack.rewards.encoders import ImageEncoder
from lags_pack.rewards.layouts import LAYOUTS, Layout, Shapes, layout_of
from lags_pack.tests import reward_files
from lags_pack.tests.reward_files import Weights, save
from lags_pack.tests.reward_table import pictures
from safetensors.torch import load_file, save_file

VISION, BLOCK = "vision_model.embeddings.", "vision_model.encoder.layers.0."
DINO = {"embeddings.cls_token": (1, 1, 4), "embeddings.register_tokens": (1, 4, 4)}
HUB = {"cls_token": (1, 1, 4), "patch_embed.proj.weight": (4, 3, 2, 2)}
HUB |= {"blocks.0.attn.qkv.weight": (12, 4)}
# Files as people have them, each by the keys that tell it, and what it is called.
FOREIGN: dict[str, tuple[str, Shapes]] = {
    "SDXL": ("whole diffusion checkpoint", {"model.diffusion_model.input_blocks.0.0.weight": (4,)}),
    "Flux": ("diffusion model", {"double_blocks.0.img_attn.qkv.weight": (4, 4)}),
    "VAE": ("VAE", {"encoder.conv_in.weight": (4,), "decoder.conv_in.weight": (4,)}),
    "T5": ("T5", {"shared.weight": (4, 4), "encoder.block.0.layer.0.SelfAttention.q.weight": (4,)}),
    "LoRA": ("LoRA", {"lora_unet_down_blocks_0.lora_down.weight": (4, 4)}),
    "BLIP": ("BLIP", {VISION + "class_embedding": (4,), BLOCK + "self_attn.qkv.weight": (12, 4)}),
    "SigLIP": (
        "SigLIP without its pooling head",
        {VISION + "patch_embedding.bias": (4,), BLOCK + "layer_norm1.bias": (4,)},
    ),
    "NaFlex": (
        "SigLIP 2 that reads images of any shape (NaFlex)",
        {VISION + "patch_embedding.weight": (4, 768), BLOCK + "layer_norm1.bias": (4,)},
    ),
    "SigLIP classifier": (
        "image classifier of transformers",
        {VISION + "patch_embedding.bias": (4,), BLOCK + "bias": (4,), "classifier.weight": (2, 4)},
    ),
    "timm CLIP": ("timm", {"visual.trunk.blocks.0.attn.qkv.weight": (12, 4)}),
    "EVA": ("EVA", {"visual.blocks.0.attn.q_bias": (4,)}),
    "DINOv3": ("DINOv3", {**DINO, "layer.0.layer_scale1.lambda1": (4,)}),
    "registers": ("registers", {**DINO, "encoder.layer.0.layer_scale1.lambda1": (4,)}),
    "hub DINOv2": ("DINOv2 in torch hub's", {**HUB, "blocks.0.ls1.gamma": (4,)}),
    "hub DINO": ("torch hub, such as DINO's first", HUB),
}
LOADERS: dict[str, Callable[..., Any]] = {
    "image side": clip.image_encoder,
    "text side": clip.text_encoder,
    "style": clip.early_layers,
    "content": reference.reference_encoder,
    "head": aesthetic_head,
    "ImageReward": image_reward.image_reward_model,
}


NO_HEAD = [loader for loader in LOADERS if loader != "head"]


def random(shapes: Shapes) -> Weights:
    return {key: torch.randn(tuple(shape)) for key, shape in shapes.items()}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_cannot_serve_is_called_by_its_name(
    kind: str, loader: str, tmp_path: Path
) -> None:
    """Not "download it again", which would bring the same file."""
    name, shapes = FOREIGN[kind]
    save(tmp_path / "model.safetensors", random(shapes))
    with pytest.raises(CheckpointError) as caught:
        LOADERS[loader](tmp_path / "model.safetensors", torch.float32)
    message = str(caught.value)
    assert f"{tmp_path / 'model.safetensors'} is " in message and name in message
    assert "; expected " in message and "download it again" not in message


@pytest.mark.parametrize("loader", NO_HEAD)
def test_an_aesthetic_head_says_where_it_belongs(loader: str, tmp_path: Path) -> None:
    path = reward_files.aesthetic_25(tmp_path)
    with pytest.raises(CheckpointError, match="is the aesthetic head of version 2.5.*Load Weight"):
        LOADERS[loader](path, torch.float32)


def test_every_file_of_ours_is_recognised(tmp_path: Path) -> None:
    """As the small files of the tests are: of every kind that serves."""
    files: dict[Layout, Path] = {
        kinds.CLIP: reward_files.pickscore(tmp_path),
        kinds.CLIP_IMAGE: reward_files.clip_vision(tmp_path / "vision"),
        kinds.OPEN_CLIP: reward_files.hps(tmp_path),
        kinds.DINOV2: reward_files.dinov2(tmp_path),
        kinds.SIGLIP: reward_files.siglip(tmp_path),
        kinds.HEAD: reward_files.aesthetic(tmp_path),
        kinds.VGG16: reward_files.vgg16(tmp_path),
        kinds.ALEXNET: reward_files.alexnet(tmp_path),
        kinds.LPIPS: reward_files.lpips(tmp_path),
        kinds.SIGLIP_HEAD: reward_files.aesthetic_25(tmp_path),
        kinds.IMAGE_REWARD: reward_files.image_reward(tmp_path),
    }
    for layout, path in files.items():
        shapes = read_shapes(path)
        assert layout_of(shapes) is layout
        assert shapes == {key: tuple(value.shape) for key, value in read_weights(path).items()}
    assert layout_of(read_shapes(reward_files.classifier(tmp_path))) in LAYOUTS
    assert layout_of({"a": (1,)}) is None


def test_each_side_of_a_clip_is_told_from_the_whole(tmp_path: Path) -> None:
    whole = load_file(reward_files.pickscore(tmp_path))

    def kept(*starts: str) -> Layout | None:
        return layout_of(
            {key: value.shape for key, value in whole.items() if key.startswith(starts)}
        )

    assert kept("") is kinds.CLIP
    assert kept("vision", "visual") is kinds.CLIP_IMAGE and kept("vision") is kinds.CLIP_TRUNK
    assert kept("text") is kinds.CLIP_TEXT and kept("text_model") is kinds.CLIP_WORDS


def features(encoder: ImageEncoder) -> torch.Tensor:
    with torch.no_grad():
        return encoder(pictures(2, 40, 32))


# ---- parts ------------------------------------------------------------------------------------


def split(path: Path, count: int = 3) -> list[Path]:
    """A file as parts with an index, as large models are published."""
    weights = load_file(path)
    names = [f"{path.stem}-{i + 1:05}-of-{count:05}{path.suffix}" for i in range(count)]
    places = {key: names[i % count] for i, key in enumerate(sorted(weights))}
    for name in names:
        part = {key: value for key, value in weights.items() if places[key] == name}
        save_file(part, path.with_name(name))
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    reward_files.write_json(path.with_name(f"{path.name}.index.json"), index)
    path.unlink()
    return [path.with_name(name) for name in names]


def test_the_parts_of_a_model_are_joined(tmp_path: Path) -> None:
    """Whichever of them is chosen."""
    path = reward_files.pickscore(tmp_path)
    expected, shapes = features(clip.image_encoder(path, torch.float32)), read_shapes(path)
    parts = split(path)
    for part in parts:
        assert parts_of(part) == parts and read_shapes(part) == shapes
        assert torch.equal(features(clip.image_encoder(part, torch.float32)), expected)
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=f"no file {parts[1]}.*The model has 3 parts"):
        clip.image_encoder(parts[0], torch.float32)


@pytest.mark.parametrize("name", ["epoch-3-of-5.safetensors", "a-of-b.safetensors"])
def test_a_name_that_only_looks_like_a_part_is_a_file(name: str, tmp_path: Path) -> None:
    save(tmp_path / name, {"a": torch.ones(1)})
    assert read_weights(tmp_path / name).keys() == {"a"}


# ---- what is supported beside the published files ---------------------------------------------


@pytest.mark.parametrize("prefix", ["visual.", ""])
def test_the_image_side_of_an_open_clip_model_serves(prefix: str, tmp_path: Path) -> None:
    """By itself, under the names that it has in the whole model or without their prefix."""
    whole = reward_files.hps(tmp_path / "whole")
    expected = features(clip.image_encoder(whole, torch.float32))
    weights = read_weights(whole)
    mine = {prefix + k[7:]: v for k, v in weights.items() if k.startswith("visual.")}
    save(tmp_path / "visual" / "model.safetensors", mine)
    shutil.copy(whole.parent / "open_clip_config.json", tmp_path / "visual")
    path = tmp_path / "visual" / "model.safetensors"
    for read in (clip.image_encoder, reference.reference_encoder):
        torch.testing.assert_close(features(read(path, torch.float32)), expected)
    assert clip.image_encoder(path, torch.float32).width == reward_files.SHARED
    with pytest.raises(CheckpointError, match="the image side of a CLIP.*expected a CLIP with its"):
        clip.text_encoder(path, torch.float32)


def test_an_image_side_beside_another_text_side_serves(tmp_path: Path) -> None:
    """open_clip's models with a text network of Hugging Face."""
    path = reward_files.hps(tmp_path)
    expected, weights = features(clip.image_encoder(path, torch.float32)), read_weights(path)
    other = {k: v for k, v in weights.items() if k.startswith(("visual.", "logit_scale"))}
    mixed = path.with_name("mixed.safetensors")
    save(mixed, {**other, "text.transformer.embeddings.weight": torch.ones(2, 2)})
    torch.testing.assert_close(features(clip.image_encoder(mixed, torch.float32)), expected)


def test_a_published_size_is_found_by_its_image_side_alone() -> None:
    """Without open_clip_config.json."""
    shapes = {
        "visual.conv1.weight": (1280, 3, 14, 14),
        "visual.positional_embedding": (257, 1280),
        "visual.proj": (1280, 1024),
        **{f"visual.transformer.resblocks.{i}.ln_1.bias": (1280,) for i in range(32)},
    }
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    config = clip._open_clip_config(Path("nowhere") / "visual.safetensors", weights)
    assert config["vision_cfg"]["width"] == 1280 and config["embed_dim"] == 1024


def test_laions_first_heads_are_one_layer(tmp_path: Path) -> None:
    """weight . features / |features| + bias, as published."""
    width = reward_files.SHARED
    weights = {"weight": torch.randn(1, width), "bias": torch.randn(1)}
    torch.save(weights, tmp_path / "sa_0_4_vit_l_14_linear.pth")
    head = aesthetic_head(tmp_path / "sa_0_4_vit_l_14_linear.pth")
    encoder = clip.image_encoder(reward_files.pickscore(tmp_path), torch.float32)
    images = pictures(2, 40, 32)
    with torch.no_grad():
        seen = encoder(images)
        expected = (seen / seen.norm(dim=1, keepdim=True)) @ weights["weight"][0] + weights["bias"]
        torch.testing.assert_close(Aesthetic(encoder, head)(images), expected)
    small = aesthetic_head(reward_files.aesthetic(tmp_path / "other", width=9))
    with pytest.raises(CheckpointError, match="reads 9 features and this CLIP gives 24.*ViT-B/32"):
        Aesthetic(encoder, small)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_program_is_named_and_not_run(tmp_path: Path) -> None:
    """As OpenAI publishes ViT-L-14.pt."""
    program = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(program, tmp_path / "ViT-L-14.pt")
    with pytest.raises(CheckpointError, match="TorchScript program.*not run.*safetensors"):
        read_weights(tmp_path / "ViT-L-14.pt")
