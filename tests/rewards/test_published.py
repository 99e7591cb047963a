"""The published files: their keys and shapes, written out here, are those of our networks.

No weights of that size are made: the networks are built on the meta device.
"""

from __future__ import annotations

import json
import math
import re
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lags_pack import rewards
from lags_pack.rewards import aesthetic, classifier, clip, image_reward, reference
from lags_pack.rewards import siglip as siglip_file
from lags_pack.rewards.checkpoint import CheckpointError, below, read_weights
from lags_pack.rewards.hps import hps_encoder
from lags_pack.rewards.perceptual import perceptual_encoder
from lags_pack.tests import reward_files
from lags_pack.tests.reward_files import Shapes, Weights, expand, spelled_out
from safetensors.torch import save_file
from torch import Tensor, nn


def clip_layers(layers: str, width: int, inner: int) -> Shapes:
    """Of transformers' CLIP; layers is such as 'text_model.encoder.layers.{0..23}'."""
    return {
        layers + ".self_attn.{q_proj,k_proj,v_proj,out_proj}.{weight,bias}": (width, width),
        layers + ".{layer_norm1,layer_norm2}.{weight,bias}": (width,),
        layers + ".mlp.fc1.{weight,bias}": (inner, width),
        layers + ".mlp.fc2.{weight,bias}": (width, inner),
    }


def clip_vision(
    last: int, width: int, inner: int, patch: int, positions: int, shared: int
) -> Shapes:
    return expand(
        {
            "vision_model.embeddings.class_embedding": (width,),
            "vision_model.embeddings.patch_embedding.weight": (width, 3, patch, patch),
            "vision_model.embeddings.position_embedding.weight": (positions, width),
            "vision_model.{pre_layrnorm,post_layernorm}.{weight,bias}": (width,),
            **clip_layers(f"vision_model.encoder.layers.{{0..{last}}}", width, inner),
            "visual_projection.weight": (shared, width),
        }
    )


def clip_text(last: int, width: int, shared: int) -> Shapes:
    return expand(
        {
            "text_model.embeddings.token_embedding.weight": (49408, width),
            "text_model.embeddings.position_embedding.weight": (77, width),
            "text_model.final_layer_norm.{weight,bias}": (width,),
            **clip_layers(f"text_model.encoder.layers.{{0..{last}}}", width, 4 * width),
            "text_projection.weight": (shared, width),
        }
    )


PICKSCORE = {
    "logit_scale": (),
    **clip_text(23, 1024, 1024),
    **clip_vision(31, 1280, 5120, 14, 257, 1024),
}


def open_clip_layers(layers: str, width: int) -> Shapes:
    """Of open_clip's ViT; layers is such as 'transformer.resblocks.{0..23}'."""
    return {
        layers + ".{ln_1,ln_2}.{weight,bias}": (width,),
        layers + ".attn.in_proj_{weight,bias}": (3 * width, width),
        layers + ".attn.out_proj.{weight,bias}": (width, width),
        layers + ".mlp.c_fc.{weight,bias}": (4 * width, width),
        layers + ".mlp.c_proj.{weight,bias}": (width, 4 * width),
    }


# ViT-H-14: the state_dict of HPS_v2_compressed.pt and of HPS_v2.1_compressed.pt.
HPS = expand(
    {
        "positional_embedding": (77, 1024),
        "text_projection": (1024, 1024),
        "logit_scale": (),
        "token_embedding.weight": (49408, 1024),
        "ln_final.{weight,bias}": (1024,),
        **open_clip_layers("transformer.resblocks.{0..23}", 1024),
        "visual.class_embedding": (1280,),
        "visual.positional_embedding": (257, 1280),
        "visual.proj": (1280, 1024),
        "visual.conv1.weight": (1280, 3, 14, 14),
        "visual.{ln_pre,ln_post}.{weight,bias}": (1280,),
        **open_clip_layers("visual.transformer.resblocks.{0..31}", 1280),
    }
)
HEAD = reward_files.head_shapes(768)
IMAGE_REWARD = reward_files.image_reward_shapes(224, 16, 1024, 24, 768, 12, 30524, 512)


def vit_layers(layer: str, width: int) -> Shapes:
    """What ViT and DINOv2 of transformers have in common."""
    return {
        layer + ".attention.attention.{query,key,value}.{weight,bias}": (width, width),
        layer + ".attention.output.dense.{weight,bias}": (width, width),
    }


# google/vit-base-patch16-224 and facebook/dinov2-base.
VIT = expand(
    {
        "vit.embeddings.cls_token": (1, 1, 768),
        "vit.embeddings.position_embeddings": (1, 197, 768),
        "vit.embeddings.patch_embeddings.projection.{weight,bias}": (768, 3, 16, 16),
        "vit.encoder.layer.{0..11}.{layernorm_before,layernorm_after}.{weight,bias}": (768,),
        **vit_layers("vit.encoder.layer.{0..11}", 768),
        "vit.encoder.layer.{0..11}.intermediate.dense.{weight,bias}": (3072, 768),
        "vit.encoder.layer.{0..11}.output.dense.{weight,bias}": (768, 3072),
        "vit.layernorm.{weight,bias}": (768,),
        "classifier.{weight,bias}": (1000, 768),
    }
)


def dinov2(last: int, width: int, giant: bool = False) -> Shapes:
    """Small, base and large; giant has other inner layers."""
    layer = f"encoder.layer.{{0..{last}}}"
    inner = {".mlp.fc1": (4 * width, width), ".mlp.fc2": (width, 4 * width)}
    if giant:
        inner = {".mlp.weights_in": (8192, width), ".mlp.weights_out": (width, 4096)}
    return expand(
        {
            "embeddings.cls_token": (1, 1, width),
            "embeddings.mask_token": (1, width),
            "embeddings.position_embeddings": (1, 1370, width),
            "embeddings.patch_embeddings.projection.{weight,bias}": (width, 3, 14, 14),
            layer + ".{norm1,norm2}.{weight,bias}": (width,),
            layer + ".{layer_scale1,layer_scale2}.lambda1": (width,),
            **vit_layers(layer, width),
            **{f"{layer}{name}.{{weight,bias}}": shape for name, shape in inner.items()},
            "layernorm.{weight,bias}": (width,),
        }
    )


def siglip(last: int, width: int, inner: int, patch: int, places: int) -> Shapes:
    """The image side of a SigLIP, of either version."""
    side = "vision_model."
    layer = f"{side}encoder.layers.{{0..{last}}}."
    return expand(
        {
            side + "embeddings.patch_embedding.{weight,bias}": (width, 3, patch, patch),
            side + "embeddings.position_embedding.weight": (places, width),
            layer + "{layer_norm1,layer_norm2}.{weight,bias}": (width,),
            layer + "self_attn.{k_proj,v_proj,q_proj,out_proj}.{weight,bias}": (width, width),
            layer + "mlp.fc1.{weight,bias}": (inner, width),
            layer + "mlp.fc2.{weight,bias}": (width, inner),
            side + "post_layernorm.{weight,bias}": (width,),
            side + "head.probe": (1, 1, width),
            side + "head.attention.{in_proj_weight,in_proj_bias}": (3 * width, width),
            side + "head.attention.out_proj.{weight,bias}": (width, width),
            side + "head.layernorm.{weight,bias}": (width,),
            side + "head.mlp.fc1.{weight,bias}": (inner, width),
            side + "head.mlp.fc2.{weight,bias}": (width, inner),
        }
    ) | {side + "head.attention.in_proj_bias": (3 * width,)}


Loader = Callable[[Path, torch.dtype], nn.Module]


def on_meta(shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def shapes_of(module: nn.Module) -> Shapes:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def built(make: Callable[[], nn.Module]) -> Shapes:
    """Keys and shapes of a network, which gets no memory."""
    with torch.device("meta"):
        return shapes_of(make())


# ---- our networks have the published keys and shapes --------------------------------------------


# As in LAION's and PickScore's config.json: the two sides name a width that is not theirs.
PICKSCORE_CONFIG = json.loads(Path(__file__).with_name("pickscore_config.json").read_text("utf-8"))


@pytest.mark.parametrize("config", [None, PICKSCORE_CONFIG], ids=["deduced", "config.json"])
def test_pickscore(config: dict[str, Any] | None, tmp_path: Path) -> None:
    from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    if config:
        reward_files.write_json(tmp_path / "config.json", config)
    found = clip._config(tmp_path / "model.safetensors", on_meta(PICKSCORE))
    vision = {key: shape for key, shape in PICKSCORE.items() if key.startswith(clip.VISION)}
    text = {key: shape for key, shape in PICKSCORE.items() if key.startswith(clip.TEXT)}
    assert built(lambda: CLIPModel(found)) == PICKSCORE
    assert built(lambda: CLIPVisionModelWithProjection(found.vision_config)) == vision
    assert built(lambda: CLIPTextModelWithProjection(found.text_config)) == text
    for side in (found.vision_config, found.text_config):
        assert (side.num_attention_heads, side.hidden_act) == (16, "gelu")
    assert found.text_config.eos_token_id == 2  # older files' sign for the largest token
    assert found.vision_config.image_size == 224


def test_hps(tmp_path: Path) -> None:
    import open_clip

    config = clip._open_clip_config(tmp_path / "HPS_v2.1_compressed.pt", on_meta(HPS))
    assert open_clip_shapes(config) == HPS
    assert config == open_clip.get_model_config("ViT-H-14") and not config.get("quick_gelu")
    assert (config["vision_cfg"]["head_width"], config["text_cfg"]["heads"]) == (80, 16)
    assert built(aesthetic.AestheticHead) == HEAD


def test_what_shapes_do_not_tell_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Red before: a file of another activation function scored wrongly without a word."""
    file = tmp_path / "model.safetensors"
    caplog.set_level("INFO")
    clip._config(file, on_meta(PICKSCORE))
    assert f"no config.json beside {file}; it is taken to be as LAION's" in caplog.text
    clip._open_clip_config(file, on_meta(HPS))
    assert f"no open_clip_config.json beside {file}; it is taken to be as open_clip's ViT-H-14" in (
        caplog.text
    )
    caplog.clear()
    settings = {"model_type": "clip", "vision_config": {}, "text_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    clip._config(file, on_meta(PICKSCORE))
    assert not caplog.text


def open_clip_shapes(config: dict[str, Any]) -> Shapes:
    import open_clip

    sides = config["vision_cfg"], config["text_cfg"]
    return built(lambda: open_clip.CLIP(config["embed_dim"], *sides))


@pytest.mark.parametrize(
    "name", ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-bigG-14"]
)
def test_open_clip_files_without_a_config_find_their_size(name: str, tmp_path: Path) -> None:
    """Sizes may have several names; what is found has to have every key and shape."""
    import open_clip

    config = open_clip.get_model_config(name)
    weights = on_meta(open_clip_shapes(config))
    assert clip._open_clip_config(tmp_path / "model.pt", weights) == config


def test_open_clip_files_without_a_config_are_not_of_openai_s_activation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    monkeypatch.setattr(open_clip, "list_models", lambda: ["ViT-H-14-quickgelu", "ViT-H-14"])
    found = clip._open_clip_config(tmp_path / "model.pt", on_meta(HPS))
    assert found == open_clip.get_model_config("ViT-H-14") and not found.get("quick_gelu")
    monkeypatch.setattr(open_clip, "list_models", lambda: ["ViT-H-14-quickgelu"])
    with pytest.raises(CheckpointError, match="shapes of none of its plain models"):
        clip._open_clip_config(tmp_path / "model.pt", on_meta(HPS))


def test_image_reward(tmp_path: Path) -> None:
    from transformers import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    weights = on_meta(IMAGE_REWARD)
    renamed = {image_reward._renamed(k): v for k, v in below(weights, image_reward.VISION).items()}
    text = below(weights, image_reward.TEXT)
    eye, read = image_reward._configs(renamed, text, {"num_attention_heads": 12}, tmp_path)
    assert built(lambda: BlipVisionModel(eye)) == {k: tuple(v.shape) for k, v in renamed.items()}
    ours = built(lambda: BlipTextModel(read, add_pooling_layer=False))
    ours["embeddings.position_ids"] = (1, 512)
    assert ours == {key: tuple(value.shape) for key, value in text.items()}
    assert (eye.num_attention_heads, eye.image_size, eye.layer_norm_eps) == (16, 224, 1e-6)
    assert (read.num_attention_heads, read.layer_norm_eps) == (12, 1e-12)
    assert image_reward._configs(renamed, text, {}, tmp_path)[1].num_attention_heads == 12
    assert eye.hidden_act == read.hidden_act == "gelu"


# As the published config.json has them, behind the table of each name.
FIELDS = ("num_attention_heads", "num_hidden_layers", "hidden_act", "image_size", "projection_dim")
CLIP_VISION = {
    "openai B/32": (clip_vision(11, 768, 3072, 32, 50, 512), 12, 12, "quick_gelu", 224, 512),
    "openai B/16": (clip_vision(11, 768, 3072, 16, 197, 512), 12, 12, "quick_gelu", 224, 512),
    "openai L/14": (clip_vision(23, 1024, 4096, 14, 257, 768), 16, 24, "quick_gelu", 224, 768),
    "openai L/14 336": (clip_vision(23, 1024, 4096, 14, 577, 768), 16, 24, "quick_gelu", 336, 768),
    "LAION H": (clip_vision(31, 1280, 5120, 14, 257, 1024), 16, 32, "gelu", 224, 1024),
    "LAION bigG": (clip_vision(47, 1664, 8192, 14, 257, 1280), 16, 48, "gelu", 224, 1280),
}


@pytest.mark.parametrize("name", CLIP_VISION)
def test_clip_vision_files_without_a_config(name: str, tmp_path: Path) -> None:
    """As in ComfyUI's clip_vision folder."""
    from transformers import CLIPVisionModelWithProjection

    shapes, *fields = CLIP_VISION[name]
    config = clip._config(tmp_path / "clip_vision.safetensors", on_meta(shapes)).vision_config
    assert built(lambda: CLIPVisionModelWithProjection(config)) == shapes
    assert [getattr(config, field) for field in FIELDS] == fields


@pytest.mark.parametrize(
    ("name", "width", "layers", "heads"),
    [("openai L/14", 768, 12, 12), ("LAION bigG", 1280, 32, 20)],
)
def test_clip_text_without_a_config(
    name: str, width: int, layers: int, heads: int, tmp_path: Path
) -> None:
    from transformers import CLIPTextModelWithProjection

    vision, *_, activation, _, shared = CLIP_VISION[name]
    text = clip_text(layers - 1, width, shared)
    config = clip._config(tmp_path / "model.safetensors", on_meta(vision | text)).text_config
    assert built(lambda: CLIPTextModelWithProjection(config)) == text
    assert (config.num_attention_heads, config.hidden_act) == (heads, activation)
    assert config.eos_token_id == 2
    assert config.max_position_embeddings == 77


def test_a_clip_of_longer_texts_reads_all_of_them(tmp_path: Path, caplog: Any) -> None:
    """Its positions are counted in the file, here 248; a head is 64 wide."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1}
    config = CLIPTextConfig(**reward_files.CLIP_TEXT | sizes, max_position_embeddings=248)
    net = CLIPTextModelWithProjection(config)
    reward_files.sharpen(net, 0)
    path = tmp_path / "model.safetensors"
    reward_files.save(path, net.state_dict())
    reward_files.clip_tokenizer(tmp_path)
    encoder = clip.text_encoder(path, torch.float32)
    few, many = encoder("a " * 75 + "b " * 5), encoder("a " * 75 + "b " * 100)
    assert "tokens;" not in caplog.text and not torch.allclose(few, many)
    encoder("a " * 300)
    assert "has 302 tokens; this model reads the first 248." in caplog.text


def test_a_text_side_without_projection_says_which_files_have_one(tmp_path: Path) -> None:
    path = altered(reward_files.clip_folder(tmp_path), lambda weights: weights.pop(clip.PROJECTION))
    said = "without text_projection.weight.*clip_l.safetensors never.*clip-vit-large-patch14 .*bigG"
    message = refusal(lambda file, dtype: clip.text_encoder(file, dtype), path)
    assert re.search(said, message) and "download it again" not in message


@pytest.mark.parametrize(
    ("kind", "loaders"),
    [
        ("hps", [hps_encoder]),
        ("clip_vision", [clip.image_encoder, clip.early_layers, reference.reference_encoder]),
        ("dinov2", [reference.reference_encoder]),
    ],
)
def test_a_file_of_unknown_size_asks_for_its_config(
    kind: str, loaders: list[Loader], tmp_path: Path
) -> None:
    said = "width 32, which is no published.*config.json"
    said = "put the open_clip_config.json of the model's page" if kind == "hps" else said
    path = without_config(getattr(reward_files, kind)(tmp_path))
    for load in loaders:
        with pytest.raises(CheckpointError, match=said):
            load(path, torch.float32)


def without_config(path: Path) -> Path:
    for config in ("config.json", "open_clip_config.json"):
        path.with_name(config).unlink(missing_ok=True)
    return path


@pytest.mark.parametrize(
    ("last", "width", "heads"),
    [(0, 384, 6), (1, 768, 12), (0, 1024, 16), (0, 1536, 24)],
    ids=["small", "base", "large", "giant"],
)
def test_dinov2_files_without_a_config(
    last: int, width: int, heads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one or two layers, loaded for good: newer releases of transformers rename these keys."""
    number, shapes = torch.tensor(0.25), dinov2(last, width, giant=width == 1536)
    weights = {key: number.expand(shape) for key, shape in shapes.items()}
    monkeypatch.setattr(reference, "read_weights", lambda path: weights)
    encoder = reference.reference_encoder(tmp_path / "model.safetensors", torch.float32)
    config, look = encoder.net.config, encoder.preprocessing
    assert (config.num_attention_heads, config.image_size) == (heads, 518)
    assert config.num_hidden_layers == last + 1
    assert sum(p.numel() for p in encoder.parameters()) == sum(map(math.prod, shapes.values()))
    assert (look.size, look.short_side) == (224, 256)


@pytest.mark.parametrize(
    ("width", "heads", "inner", "patch", "places", "size"),
    [
        *((768, 12, 3072, 16, 196, 224), (1024, 16, 4096, 16, 576, 384)),
        *((1152, 16, 4304, 14, 729, 384), (1152, 16, 4304, 14, 256, 224)),
        *((1536, 16, 6144, 16, 256, 256), (768, 12, 3072, 32, 64, 256)),
    ],
    ids=["base", "large", "so400m", "so400m 224", "SigLIP 2 giant", "SigLIP 2 base 32"],
)
def test_siglip_files_without_a_config(
    width: int,
    heads: int,
    inner: int,
    patch: int,
    places: int,
    size: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With one layer, loaded for good; as in ComfyUI's clip_vision, with nothing beside it."""
    shapes = siglip(0, width, inner, patch, places)
    weights = {key: torch.tensor(0.01).expand(shape) for key, shape in shapes.items()}
    for module in (reference, siglip_file):
        monkeypatch.setattr(module, "read_weights", lambda path: weights)
    encoder = reference.reference_encoder(tmp_path / "model.safetensors", torch.float32)
    config, look = encoder.net.config, encoder.preprocessing
    assert (config.num_attention_heads, config.image_size) == (heads, size)
    assert sum(p.numel() for p in encoder.parameters()) == sum(map(math.prod, shapes.values()))
    assert (look.size, look.fit, look.mean) == (size, "squash", (0.5,) * 3)
    assert "there is no preprocessor_config.json" in caplog.text


# ---- the small files have the published keys ----------------------------------------------------


def without_numbers(keys: object) -> set[str]:
    """Keys without the numbers of layers."""
    numbered = r"\b(blocks|resblocks|encoder\.layers?)\.\d+"
    return {re.sub(numbered, r"\1", str(key)) for key in keys}


TEXT = "text_model.encoder.layers.{0..11}."
SIGLIP = siglip(11, 768, 3072, 16, 196) | expand(
    {
        "{logit_scale,logit_bias}": (1,),
        "text_model.embeddings.token_embedding.weight": (32000, 768),
        "text_model.embeddings.position_embedding.weight": (64, 768),
        TEXT + "{layer_norm1,layer_norm2}.{weight,bias}": (768,),
        TEXT + "self_attn.{k_proj,v_proj,q_proj,out_proj}.{weight,bias}": (768, 768),
        TEXT + "mlp.fc1.{weight,bias}": (3072, 768),
        TEXT + "mlp.fc2.{weight,bias}": (768, 3072),
        "text_model.{final_layer_norm,head}.bias": (768,),
        "text_model.final_layer_norm.weight": (768,),
        "text_model.head.weight": (768, 768),
    }
)
PUBLISHED = {
    "pickscore": PICKSCORE,
    "clip_vision": CLIP_VISION["LAION H"][0],
    "hps": HPS,
    "aesthetic": HEAD,
    "aesthetic_25": reward_files.head_shapes(1152, "scoring_head", (0, 2, 4, 6, 8)),
    "image_reward": IMAGE_REWARD,
    "classifier": VIT,
    "dinov2": dinov2(11, 768),
    "siglip": SIGLIP,
    "vgg16": reward_files.vgg16_shapes(),
    "alexnet": reward_files.alexnet_shapes(),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_small_files_have_the_published_keys(kind: str, tmp_path: Path) -> None:
    weights, published = read_weights(getattr(reward_files, kind)(tmp_path)), PUBLISHED[kind]
    assert without_numbers(weights) == without_numbers(published)
    assert {without_numbers([key]).pop(): value.ndim for key, value in weights.items()} == {
        without_numbers([key]).pop(): len(shape) for key, shape in published.items()
    }


def pick_text(path: Path, dtype: torch.dtype) -> nn.Module:
    return clip.text_encoder(path, dtype)


def head(path: Path, dtype: torch.dtype) -> nn.Module:
    return aesthetic.aesthetic_head(path, dtype)


Make = Callable[[Path], Path]
CROSS = "blip.text_encoder.encoder.layer.1.crossattention.self.key.weight"
# loader, what makes its file, a key that it needs
BLOCK = "vision_model.encoder.layers.2."
READ = image_reward.image_reward_model, reward_files.image_reward
# loader, what makes its file, a key that it needs
NEEDED: dict[str, tuple[Loader, Make, str]] = {
    "CLIP image": (clip.image_encoder, reward_files.pickscore, BLOCK + "mlp.fc2.weight"),
    "CLIP text": (pick_text, reward_files.pickscore, "text_model.final_layer_norm.bias"),
    "CLIP vision": (
        clip.image_encoder,
        reward_files.clip_vision,
        "vision_model.post_layernorm.bias",
    ),
    "CLIP first layers": (
        *(clip.early_layers, reward_files.clip_vision),
        BLOCK + "self_attn.q_proj.bias",
    ),
    "HPS image": (
        *(hps_encoder, reward_files.hps),
        "visual.transformer.resblocks.1.attn.in_proj_weight",
    ),
    "HPS text": (pick_text, reward_files.hps, "token_embedding.weight"),
    "ImageReward's image side": (*READ, "blip.visual_encoder.blocks.1.attn.qkv.weight"),
    "ImageReward's text side": (*READ, CROSS),
    "ImageReward's head": (*READ, "mlp.layers.6.bias"),
    "aesthetic": (head, reward_files.aesthetic, "layers.4.weight"),
    "aesthetic 2.5": (head, reward_files.aesthetic_25, "scoring_head.6.weight"),
    "classifier": (classifier.classifier, reward_files.classifier, "classifier.bias"),
    "DINOv2": (reference.reference_encoder, reward_files.dinov2, "layernorm.weight"),
    "SigLIP": (reference.reference_encoder, reward_files.siglip, "vision_model.head.mlp.fc1.bias"),
    "VGG16": (perceptual_encoder, reward_files.vgg16, "features.19.bias"),
    "AlexNet": (perceptual_encoder, reward_files.alexnet, "features.8.bias"),
}


def shown(key: str) -> str:
    """A key as messages have it: newer releases of transformers leave one part away."""
    key = re.sub(r"^blip.visual_encoder.blocks.(\d+).attn", r"encoder.layers.\1.self_attn", key)
    key = key.replace("scoring_head.", "layers.")
    for part in ("blip.text_encoder.", "mlp.", "vision_model."):
        key = key.removeprefix(part)
    return f"(vision_model.)?{key}"


def altered(path: Path, change: Callable[[Weights], object]) -> Path:
    """The file with its weights changed."""
    weights = read_weights(path)
    change(weights)
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({key: value.clone() for key, value in weights.items()}, path)
    return path


def refusal(load: Loader, path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path, torch.float32)
    assert str(path.parent) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_a_surplus_and_a_misshapen_weight_are_listed(name: str, tmp_path: Path) -> None:
    load, make, key = NEEDED[name]
    listed = shown(key)
    more = re.sub(r"\w+$", "extra", key), re.sub(r"\w+$", "extra", listed)
    changes: dict[str, Callable[[Weights], object]] = {
        f"missing: {listed}.": lambda weights: weights.pop(key),
        f"surplus: {more[1]}.": lambda weights: weights.update({more[0]: torch.zeros(2)}),
        f"of other shapes or types: {listed}": lambda weights: weights.update(
            {key: torch.zeros(3, 5)}
        ),
    }
    load(make(tmp_path / "good"), torch.float32)
    for fault, change in changes.items():
        path = altered(make(tmp_path / fault[:7]), change)
        message = refusal(load, path)
        assert re.search(rf"Keys {fault}", message), message
        assert str(path) in message and "Choose the file that belongs to the model" in message


@pytest.mark.parametrize("name", ["CLIP image", "CLIP text", "ImageReward's head", "HPS image"])
@pytest.mark.parametrize("extra", ["extra.weight", "blip.extra.weight", "text.extra"])
def test_weights_of_no_known_part_are_listed(name: str, extra: str, tmp_path: Path) -> None:
    load, make, _ = NEEDED[name]
    path = altered(make(tmp_path), lambda weights: weights.update({extra: torch.zeros(2)}))
    assert f"Keys surplus: {extra}. Choose the file" in refusal(load, path)


SIZES = {
    # What the sizes of files without a config are read from, and what messages call it. A file of
    # open_clip without conv1 is none of open_clip's: every key is surplus.
    "CLIP image": {
        "vision_model.embeddings.patch_embedding.weight": "embeddings.patch_embedding.weight",
        "vision_model.embeddings.position_embedding.weight": "embeddings.position_embedding.weight",
        "vision_model.encoder.layers.0.mlp.fc1.weight": "layers.0.mlp.fc1.weight",
        "visual_projection.weight": "visual_projection.weight",
    },
    "HPS image": {
        "visual.conv1.weight": "(visual.conv1.weight|ln_final.bias)",
        "visual.positional_embedding": "visual.positional_embedding",
        "visual.proj": "visual.proj",
        "text_projection": "text_projection",
    },
    "ImageReward's head": {
        "blip.visual_encoder.patch_embed.proj.weight": "patch_embedding.weight",
        "blip.visual_encoder.pos_embed": "position_embedding",
        "blip.visual_encoder.blocks.0.mlp.fc1.weight": "layers.0.mlp.fc1.weight",
        "blip.text_encoder.embeddings.word_embeddings.weight": "word_embeddings.weight",
        "blip.text_encoder.embeddings.position_embeddings.weight": "position_embeddings.weight",
        "blip.text_encoder.encoder.layer.0.intermediate.dense.weight": "intermediate.dense.weight",
        "mlp.layers.0.weight": "layers.0.weight",
    },
    "aesthetic": {"layers.0.weight": "layers.0.weight"},
    "DINOv2": {
        "embeddings.patch_embeddings.projection.weight": "patch_embeddings.projection.weight",
        "embeddings.position_embeddings": "embeddings.position_embeddings",
    },
}


# Without them it is another kind of file, which has a name: see test_layouts.py.
ANOTHER = ("visual_projection.weight", "text_projection")


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        (name, key, shape)
        for name, keys in SIZES.items()
        for key in keys
        for shape in (None, (), (3,))
        if shape is not None or key not in ANOTHER
    ],
)
def test_files_whose_sizes_cannot_be_read_are_refused(
    name: str, key: str, shape: tuple[int, ...] | None, tmp_path: Path
) -> None:
    def change(weights: Weights) -> None:
        del weights[key]
        if shape is not None:
            weights[key] = torch.zeros(shape)

    load, make, _ = NEEDED[name]
    path = without_config(altered(make(tmp_path), change))
    kinds = "(missing|surplus)" if shape is None else "of other shapes or types"
    assert re.search(rf"Keys {kinds}: .*{SIZES[name][key]}", refusal(load, path))


FITTING = {  # Files that a loader does read: several scores share a network.
    "CLIP image": ("pickscore", "clip_vision", "hps"),
    "CLIP text": ("pickscore", "hps"),
    "CLIP first layers": ("pickscore", "clip_vision"),
    "ImageReward's head": ("image_reward",),
    "aesthetic": ("aesthetic", "aesthetic_25"),
    "classifier": ("classifier",),
    "DINOv2": ("dinov2", "pickscore", "clip_vision", "hps", "siglip"),
    "SigLIP": ("dinov2", "pickscore", "clip_vision", "hps", "siglip"),
    "VGG16": ("vgg16", "alexnet"),
}


NO_FOLDER = ("hps", "aesthetic", "aesthetic_25", "image_reward", "vgg16", "alexnet")


@pytest.mark.parametrize("loader", FITTING)
def test_another_model_s_file_is_refused(loader: str, tmp_path: Path) -> None:
    load = NEEDED[loader][0]
    for kind in PUBLISHED:
        path = getattr(reward_files, kind)(tmp_path / kind)
        if kind in FITTING[loader]:
            load(path, torch.float32)
        elif loader == "classifier" and kind in NO_FOLDER:
            assert "no config.json" in refusal(load, path)
        elif (loader, kind) == ("CLIP first layers", "hps"):
            assert "in open_clip's layout; expected a CLIP vision model" in refusal(load, path)
        elif loader == "classifier" and kind == "clip_vision":
            assert "expected an image classifier" in refusal(load, path)
        else:
            message = refusal(load, path)
            assert re.search(
                " is .*; expected |not hold this model. Keys (missing|surplus)", message
            )


def test_networks_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    encoder = clip.image_encoder(reward_files.clip_vision(tmp_path / "vision"), torch.float32)
    with pytest.raises(CheckpointError, match="no logit_scale.*PickScore_v1/model.safetensors of "):
        rewards.PickScore(encoder, torch.ones(1, encoder.width))
    path = reward_files.aesthetic(tmp_path, width=768)
    with pytest.raises(CheckpointError, match="reads 768 features and this CLIP gives 24: choose"):
        rewards.Aesthetic(encoder, aesthetic.aesthetic_head(path))
    newer = aesthetic.aesthetic_head(reward_files.aesthetic_25(tmp_path))
    with pytest.raises(CheckpointError, match="32 features and this SigLIP gives 24.*so400m"):
        rewards.Aesthetic(encoder, newer)


# ---- what older and wrapped files carry along ---------------------------------------------------


def pictures() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("CLIP image", "{vision_model,text_model}.embeddings.position_ids"),
        ("CLIP first layers", "vision_model.embeddings.position_ids"),
        ("HPS image", "attn_mask"),
    ],
)
def test_counts_and_masks_of_older_files_are_ignored(name: str, extra: str, tmp_path: Path) -> None:
    load, make, _ = NEEDED[name]
    plain = load(make(tmp_path / "new"), torch.float32)(pictures())
    counts = {key: torch.arange(17)[None].clone() for key in spelled_out(extra)}
    path = altered(make(tmp_path / "old"), lambda weights: weights.update(counts))
    assert torch.equal(load(path, torch.float32)(pictures()), plain)


def test_image_reward_without_blip_s_unused_heads_is_the_same(tmp_path: Path) -> None:
    path = reward_files.image_reward(tmp_path)
    tokens, mask = image_reward.encode("a cat", path.with_name("vocab.txt"))
    plain = image_reward.image_reward_model(path, torch.float32)(pictures(), tokens, mask)
    unused = [key for key in read_weights(path) if "_proj" in key or "_ids" in key]
    altered(path, lambda weights: [weights.pop(key) for key in unused])
    assert len(read_weights(path)) == len(reward_files.image_reward_shapes()) - 5
    model = image_reward.image_reward_model(path, torch.float32)
    assert torch.equal(model(pictures(), tokens, mask), plain)


@pytest.mark.parametrize("make", [reward_files.pickscore, reward_files.classifier])
def test_weights_keep_their_precision_whatever_the_config_says(make: Make, tmp_path: Path) -> None:
    path = make(tmp_path)
    load = classifier.classifier if "vit" in str(path) else clip.image_encoder
    plain = load(path, torch.float32)
    change_config(path, torch_dtype="float16", dtype="float16")
    for key, value in load(path, torch.float32).state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, plain.state_dict()[key])


def change_config(path: Path, **entries: Any) -> None:
    file = path.with_name("config.json")
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | entries))


# ---- open_clip and tokenizers -------------------------------------------------------------------


def test_without_open_clip_only_its_own_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = reward_files.hps(tmp_path / "hps")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for load in (hps_encoder, clip.image_encoder, clip.text_encoder, reference.reference_encoder):
        with pytest.raises(ImportError, match="not installed.*pip install open_clip_torch$"):
            load(path, torch.float32)
    for name, (load, make, *_) in NEEDED.items():
        if not name.startswith("HPS"):
            load(make(tmp_path / name), torch.float32)


def test_a_missing_tokenizer_is_told_and_a_fallback_folder_is_used(tmp_path: Path) -> None:
    path = reward_files.pickscore(tmp_path)
    prompt = "a red cat"
    expected = clip.text_encoder(path, torch.float32)(prompt)
    fallback = tmp_path / "clip_tokenizer"
    fallback.mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        path.with_name(name).rename(fallback / name)
    for other in (None, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="no CLIP tokenizer beside .*put vocab.json and"):
            clip.text_encoder(path, torch.float32, other)
    assert torch.equal(clip.text_encoder(path, torch.float32, fallback)(prompt), expected)


def test_a_folder_with_only_tokenizer_json_has_its_tokenizer(tmp_path: Path) -> None:
    """As newer releases of transformers save it."""
    from transformers import CLIPTokenizerFast

    path, prompt = reward_files.pickscore(tmp_path), "a red cat, 2 dogs"
    expected = clip.text_encoder(path, torch.float32)(prompt)
    CLIPTokenizerFast.from_pretrained(str(path.parent)).save_pretrained(path.parent)
    for name in ("vocab.json", "merges.txt"):
        path.with_name(name).unlink(missing_ok=True)
    assert path.with_name("tokenizer.json").is_file()
    assert torch.equal(clip.text_encoder(path, torch.float32)(prompt), expected)


def test_the_tokenizer_beside_the_file_comes_first(tmp_path: Path) -> None:
    path = reward_files.pickscore(tmp_path)
    expected = clip.text_encoder(path, torch.float32)("a cat")
    other = tmp_path / "other"
    other.mkdir()
    words = json.loads(path.with_name("vocab.json").read_text(encoding="utf-8"))
    last = {"<|startoftext|>": 512, "<|endoftext|>": 513}
    turned = {word: 511 - number for word, number in words.items() if word not in last}
    reward_files.write_json(other / "vocab.json", turned | last)
    (other / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    assert torch.equal(clip.text_encoder(path, torch.float32, other)("a cat"), expected)
    path.with_name("vocab.json").unlink()
    assert not torch.allclose(clip.text_encoder(path, torch.float32, other)("a cat"), expected)


NO_BERT = {
    word: (
        "\n".join(w for w in reward_files.bert_words() if w != word).encode(),
        f" has no {word}, so it is no BERT vocabulary: put vocab.txt",
    )
    for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
}
NO_BERT["missing"] = None, " is not there: put vocab.txt (0.2 MB)"
NO_BERT["damaged"] = b"[PAD]\n\xff\xfe\n", " is no UTF-8 text"


@pytest.mark.parametrize(("content", "said"), NO_BERT.values(), ids=NO_BERT)
def test_a_vocabulary_that_is_none_of_bert_s_is_refused(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        image_reward.encode("a cat", path)
    assert f"{path}{said}" in str(caught.value)
    assert "UTF-8" not in said or "download it again" in str(caught.value)


def test_a_classifier_reads_its_folder_and_is_refused_without_its_config(tmp_path: Path) -> None:
    path = reward_files.classifier(tmp_path)
    model = classifier.classifier(path, torch.float32)
    assert model.names == reward_files.LABELS and model.width == 4
    assert rewards.ClassReward(model, [1]).name == "green"
    assert "There is no config.json beside" in refusal(classifier.classifier, without_config(path))


TIMM = {"architecture": "resnet10t", "num_classes": 4, "model_args": {"checkpoint_path": "a.pt"}}
WRONG_TYPES = ["nothing-known", None, 7, ["vit"], {"vit": 1}]
NO_CLASSIFIERS = ["bert", "clip_vision_model", "timm_wrapper"]  # timm's may name further files


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        *(({"model_type": kind}, f"a model of type {kind!r}, which") for kind in WRONG_TYPES),
        *(
            ({"model_type": kind, **TIMM}, f"tiny-vit holds a {kind}; expected an image classifier")
            for kind in NO_CLASSIFIERS
        ),
        ({"hidden_act": "no such"}, "config"),
        ({"num_attention_heads": 0}, "config"),
        ({"hidden_size": "wide"}, "config"),
    ],
)
def test_a_config_that_makes_no_classifier_is_refused(
    entries: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = reward_files.classifier(tmp_path)
    change_config(path, **entries)
    message = refusal(classifier.classifier, path)
    assert said in message
    assert len(message) < 1000 or "model_type" not in entries  # not every type that it does know
    assert str(path.with_name("config.json")) in message or "a model of type" not in message


@pytest.mark.parametrize("make", [reward_files.pickscore, reward_files.dinov2])
def test_a_config_that_transformers_cannot_read_is_refused(make: Make, tmp_path: Path) -> None:
    path = make(tmp_path)
    change_config(path, id2label=7, vision_config=7, problem_type="none")
    assert str(path.with_name("config.json")) in refusal(reference.reference_encoder, path)


def custom_code(folder: Path) -> Path:
    """A module in the folder that leaves a mark when it is run; where the mark would be."""
    mark = folder / "mark"
    code = f"""
from pathlib import Path
from transformers import PretrainedConfig, PreTrainedModel
Path({str(mark)!r}).touch()
class Config(PretrainedConfig):
    model_type = "custom"
class Model(PreTrainedModel):
    config_class = Config
"""
    (folder / "custom.py").write_text(code, encoding="utf-8")
    return mark


@pytest.mark.parametrize("kind", ["custom", "vit"])
def test_code_in_a_classifier_s_folder_does_not_run(kind: str, tmp_path: Path) -> None:
    path = reward_files.classifier(tmp_path)
    mark = custom_code(path.parent)
    auto = {"AutoConfig": "custom.Config", "AutoModelForImageClassification": "custom.Model"}
    change_config(path, model_type=kind, auto_map=auto, trust_remote_code=True)
    if kind == "custom":
        assert "'custom', which the installed" in refusal(classifier.classifier, path)
    else:
        assert classifier.classifier(path, torch.float32).names == reward_files.LABELS
    assert not mark.exists()
    runpy.run_path(str(path.with_name("custom.py")))
    assert mark.exists()  # the module would have left it


@pytest.mark.parametrize("name", ["classifier", "DINOv2", "CLIP vision", "CLIP image"])
def test_a_config_does_not_choose_the_code_that_runs_it(name: str, tmp_path: Path) -> None:
    """A kernel from the network, or a quantiser, by two entries that transformers obeys."""
    load, make, _ = NEEDED[name]
    path = make(tmp_path)
    plain = load(path, torch.float32)(pictures())
    entries: dict[str, Any] = {"_attn_implementation": "someone/kernel"}
    entries["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    change_config(path, **entries)
    if make is reward_files.pickscore:
        sides = json.loads(path.with_name("config.json").read_text(encoding="utf-8"))
        change_config(path, vision_config=sides["vision_config"] | entries)
    assert torch.equal(load(path, torch.float32)(pictures()), plain)
