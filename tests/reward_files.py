"""Small random models in the files and key layouts of the published ones.

Shared by tests with and without ComfyUI, as `lags_pack.tests.reward_files`. Every function writes
into a folder and returns the file that a loader is given.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Weights = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

SIDE, PATCH, WIDTH, SHARED = 32, 8, 32, 24  # pixels, pixels, features, features of both sides
# Their configurations, as such files have them.
_CONFIGS = json.loads(Path(__file__).with_name("small_models.json").read_text("utf-8"))
CLIP_VISION, CLIP_TEXT = _CONFIGS["CLIP_VISION"], _CONFIGS["CLIP_TEXT"]
CLIP_PROCESSOR, OPEN_CLIP = _CONFIGS["CLIP_PROCESSOR"], _CONFIGS["OPEN_CLIP"]
BLIP_WIDTH, BLIP_TEXT, BLIP_LAYERS = 32, 24, 2
LABELS = ("red", "green, lime", "blue", "grey")
VIT = {"hidden_size": WIDTH, "image_size": SIDE, "patch_size": PATCH}
VIT |= dict.fromkeys(("num_hidden_layers", "num_attention_heads"), 2)


def sharpen(module: nn.Module, seed: int) -> None:
    """Random weights of variance 1 / fan-in, not the libraries' tiny ones, so that scores vary."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(module.named_parameters()):
            if weight.ndim >= 2 or name.endswith("class_embedding"):
                scale = 1 / math.sqrt(weight[0].numel())
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
            elif name.endswith("bias") and weight.ndim:  # not SigLIP's logit_bias
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))


def pickscore(folder: Path, seed: int = 0, logit_scale: float = math.log(100.0)) -> Path:
    """PickScore_v1 as its page has it: a CLIPModel's folder with tokenizer and preprocessor."""
    return clip_folder(folder / "PickScore_v1", seed, logit_scale)


def clip_folder(folder: Path, seed: int = 0, logit_scale: float = math.log(100.0)) -> Path:
    """A CLIPModel's folder: config.json, model.safetensors, preprocessor and tokenizer files."""
    model = clip_model(seed)
    with torch.no_grad():
        model.logit_scale.fill_(logit_scale)
    save(folder / "model.safetensors", model.state_dict())
    write_json(folder / "config.json", model.config.to_dict())
    write_json(folder / "preprocessor_config.json", CLIP_PROCESSOR)
    clip_tokenizer(folder)
    return folder / "model.safetensors"


def clip_model(seed: int = 0) -> Any:
    """A small CLIPModel of transformers."""
    from transformers import CLIPConfig, CLIPModel

    sides = {"text_config": dict(CLIP_TEXT), "vision_config": dict(CLIP_VISION)}
    model = CLIPModel(CLIPConfig(**sides, projection_dim=SHARED)).eval()
    sharpen(model, seed)
    return model


def clip_tokenizer(folder: Path) -> None:
    """CLIP's tokenizer without merges: one token for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]
    start, end = "<|startoftext|>", "<|endoftext|>"
    words = [*letters, *(letter + "</w>" for letter in letters), start, end]
    write_json(folder / "vocab.json", {word: i for i, word in enumerate(words)})
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    config = {"bos_token": start, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    config |= dict.fromkeys(("eos_token", "unk_token", "pad_token"), end)
    write_json(folder / "tokenizer_config.json", config)


def clip_vision(folder: Path, seed: int = 1) -> Path:
    """An image side alone, as ComfyUI's clip_vision folder has it, with its config beside it."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP_VISION)).eval()
    sharpen(model, seed)
    save(folder / "clip_vision.safetensors", model.state_dict())
    write_json(folder / "config.json", model.config.to_dict())
    return folder / "clip_vision.safetensors"


def open_clip_model(seed: int = 2) -> Any:
    """A small CLIP of open_clip."""
    import open_clip

    sides = OPEN_CLIP["vision_cfg"], OPEN_CLIP["text_cfg"]
    model = open_clip.CLIP(OPEN_CLIP["embed_dim"], *sides).eval()
    sharpen(model, seed)
    return model


def hps(folder: Path, version: str = "2.1", seed: int = 2) -> Path:
    """An HPSv2 checkpoint: a torch file with state_dict; its size is named beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("HPS_v2_compressed.pt" if version == "2" else f"HPS_v{version}_compressed.pt")
    torch.save({"epoch": 1, "state_dict": dict(open_clip_model(seed).state_dict())}, path)
    write_json(folder / "open_clip_config.json", {"model_cfg": OPEN_CLIP})
    return path


def aesthetic(folder: Path, seed: int = 3, width: int = SHARED) -> Path:
    """The LAION aesthetic head as published: a torch file of five linear layers."""
    return _head(folder / "sac+logos+ava1-l14-linearMSE.pth", head_shapes(width), seed)


def aesthetic_25(folder: Path, seed: int = 11, width: int = WIDTH) -> Path:
    """The head of version 2.5 as published: other keys, in bfloat16."""
    shapes = head_shapes(width, "scoring_head", (0, 2, 4, 6, 8))
    return _head(folder / "aesthetic_predictor_v2_5.pth", shapes, seed, torch.bfloat16)


def _head(path: Path, shapes: Shapes, seed: int, dtype: torch.dtype = torch.float32) -> Path:
    generator, weights = torch.Generator().manual_seed(seed), {}
    for key, shape in shapes.items():
        scale = 0.1 if len(shape) == 1 else 1 / math.sqrt(shape[1])
        weights[key] = (scale * torch.randn(shape, generator=generator)).to(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights, path)
    return path


def image_reward(folder: Path, seed: int = 4, **sizes: int) -> Path:
    """ImageReward as published: BLIP's own key names, a head, BERT's vocabulary beside it."""
    folder = folder / "ImageReward"
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, shape in image_reward_shapes(**sizes).items():
        if key.endswith("position_ids"):
            weights[key] = torch.arange(shape[1])[None]
        elif "norm" in key.lower() and key.endswith("weight"):
            weights[key] = torch.ones(shape)
        elif len(shape) == 1:
            weights[key] = 0.1 * torch.randn(shape, generator=generator)
        else:
            fan_in = math.prod(shape[1:]) if len(shape) in (2, 4) else shape[-1]
            weights[key] = torch.randn(shape, generator=generator) / math.sqrt(fan_in)
    path = folder / "ImageReward.pt"
    torch.save(weights, path)
    write_json(folder / "med_config.json", {"num_attention_heads": 2})
    bert_vocabulary(folder)
    return path


def expand(patterns: Mapping[str, tuple[int, ...]]) -> Shapes:
    """{0..31} counts, {a,b} chooses; of the shape (out, ...) a bias has the first number."""
    shapes: Shapes = {}
    for pattern, shape in patterns.items():
        for key in spelled_out(pattern):
            assert key not in shapes
            shapes[key] = shape[:1] if key.endswith("bias") else shape
    return shapes


def spelled_out(pattern: str) -> list[str]:
    """The keys that a pattern stands for."""
    found = re.search(r"\{([^}]*)\}", pattern)
    if not found:
        return [pattern]
    first, dots, last = found[1].partition("..")
    choices = range(int(first), int(last) + 1) if dots else found[1].split(",")
    ends = spelled_out(pattern[found.end() :])
    return [f"{pattern[: found.start()]}{choice}{end}" for choice in choices for end in ends]


def head_shapes(
    width: int, name: str = "layers", places: tuple[int, ...] = (0, 2, 4, 6, 7)
) -> Shapes:
    """Keys and shapes of the five linear layers on features of this width."""
    sizes = zip(places, [(1024, width), (128, 1024), (64, 128), (16, 64), (1, 16)], strict=True)
    return expand({f"{name}.{i}.{{weight,bias}}": shape for i, shape in sizes})


def image_reward_shapes(
    side: int = SIDE,
    patch: int = PATCH,
    width: int = BLIP_WIDTH,
    layers: int = BLIP_LAYERS,
    text: int = BLIP_TEXT,
    text_layers: int = BLIP_LAYERS,
    words: int = 0,
    context: int = 40,
) -> Shapes:
    """Keys and shapes of an ImageReward file: BLIP-L with a head; for the published one its sizes.

    vision_proj and text_proj are BLIP's, and are not part of the score.
    """
    eye, read, both = "blip.visual_encoder.", "blip.text_encoder.", ".{weight,bias}"
    patterns: Shapes = {
        eye + "cls_token": (1, 1, width),
        eye + "pos_embed": (1, (side // patch) ** 2 + 1, width),
        eye + "patch_embed.proj" + both: (width, 3, patch, patch),
    }
    for i in range(layers):
        block = f"{eye}blocks.{i}."
        patterns[block + "{norm1,norm2}" + both] = (width,)
        patterns[block + "attn.qkv" + both] = (3 * width, width)
        patterns[block + "attn.proj" + both] = (width, width)
        patterns[block + "mlp.fc1" + both] = (4 * width, width)
        patterns[block + "mlp.fc2" + both] = (width, 4 * width)
    patterns[eye + "norm" + both] = (width,)
    patterns[read + "embeddings.position_ids"] = (1, context)
    patterns[read + "embeddings.word_embeddings.weight"] = (words or len(bert_words()), text)
    patterns[read + "embeddings.position_embeddings.weight"] = (context, text)
    patterns[read + "embeddings.LayerNorm" + both] = (text,)
    for i in range(text_layers):
        layer = f"{read}encoder.layer.{i}."
        for attention, into in (("attention", text), ("crossattention", width)):
            patterns[f"{layer}{attention}.self.query" + both] = (text, text)
            patterns[f"{layer}{attention}.self.{{key,value}}" + both] = (text, into)
            patterns[f"{layer}{attention}.output.dense" + both] = (text, text)
            patterns[f"{layer}{attention}.output.LayerNorm" + both] = (text,)
        patterns[layer + "intermediate.dense" + both] = (4 * text, text)
        patterns[layer + "output.dense" + both] = (text, 4 * text)
        patterns[layer + "output.LayerNorm" + both] = (text,)
    patterns["blip.vision_proj" + both] = (256, width)
    patterns["blip.text_proj" + both] = (256, text)
    return expand(patterns) | {f"mlp.{key}": shape for key, shape in head_shapes(text).items()}


def bert_words() -> list[str]:
    """A small vocabulary in BERT's order: specials, then letters and their continuations."""
    letters = [chr(c) for c in (*range(97, 123), *range(48, 58))] + list("一猫红的.,!?")
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters)]


def bert_vocabulary(folder: Path) -> Path:
    """vocab.txt, one word a line."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(bert_words()) + "\n", encoding="utf-8")
    return folder / "vocab.txt"


def classifier(folder: Path, seed: int = 5) -> Path:
    """A ViT classifier's folder with four named classes."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        **VIT,
        intermediate_size=48,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
        architectures=["ViTForImageClassification"],
    )
    look = {"size": {"height": SIDE, "width": SIDE}, "resample": 2, "do_normalize": True}
    look |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    look["image_processor_type"] = "ViTImageProcessor"
    return _model_folder(folder / "tiny-vit", ViTForImageClassification(config), seed, look)


def dinov2(folder: Path, seed: int = 6) -> Path:
    """A DINOv2's folder, in the keys of its published files (those of transformers 4)."""
    from transformers import Dinov2Config, Dinov2Model

    look = {"size": {"shortest_edge": 36}, "crop_size": {"height": SIDE, "width": SIDE}}
    look |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3}
    return _model_folder(folder / "tiny-dinov2", Dinov2Model(Dinov2Config(**VIT)), seed, look)


def siglip(folder: Path, seed: int = 10) -> Path:
    """A SigLIP's folder, both sides, as its page has it; made of a size, without a crop."""
    from transformers import SiglipConfig, SiglipModel

    sides = {"vision_config": VIT | {"intermediate_size": 48}}
    text = dict.fromkeys(("num_hidden_layers", "num_attention_heads"), 1)
    text |= {"vocab_size": 9, "hidden_size": WIDTH, "intermediate_size": 8}
    text |= {"projection_size": WIDTH, "bos_token_id": 1, "eos_token_id": 2}
    config = SiglipConfig(**sides, text_config=text)
    look = {"size": {"height": SIDE, "width": SIDE}, "resample": 3, "do_normalize": True}
    look |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    look["image_processor_type"] = "SiglipImageProcessor"
    return _model_folder(folder / "siglip-tiny", SiglipModel(config), seed, look)


# Numbers of the convolutions, and channels: those of the published files, and of small ones.
VGG16_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG16_WIDTHS = (64, 64, 128, 128, *(256,) * 3, *(512,) * 6)
ALEXNET_CONVS, ALEXNET_WIDTHS = (0, 3, 6, 8, 10), (64, 192, 384, 256, 256)


def vgg16(folder: Path, seed: int = 12) -> Path:
    """torchvision's VGG16, with few channels and its classifier."""
    widths = (4, 4, 5, 5, 6, 6, 6, *(7,) * 6)
    return _backbone(folder / "vgg16-397923af.pth", vgg16_shapes(widths, 9), seed)


def alexnet(folder: Path, seed: int = 13) -> Path:
    """torchvision's AlexNet, with few channels and its classifier."""
    return _backbone(folder / "alexnet-owt.pth", alexnet_shapes((5, 6, 7, 8, 9), 9), seed)


def vgg16_shapes(widths: tuple[int, ...] = VGG16_WIDTHS, inner: int = 4096) -> Shapes:
    """Keys and shapes of a VGG16 of torchvision; for the published one its sizes."""
    kernels = (3,) * len(widths)
    return _convolutions(VGG16_CONVS, widths, kernels) | _classifier((0, 3, 6), 49, widths, inner)


def alexnet_shapes(widths: tuple[int, ...] = ALEXNET_WIDTHS, inner: int = 4096) -> Shapes:
    """Keys and shapes of an AlexNet of torchvision."""
    kernels = (11, 5, 3, 3, 3)
    return _convolutions(ALEXNET_CONVS, widths, kernels) | _classifier((1, 4, 6), 36, widths, inner)


def _convolutions(
    numbers: tuple[int, ...], widths: tuple[int, ...], kernels: tuple[int, ...]
) -> Shapes:
    before = (3, *widths)
    sizes = zip(numbers, widths, before, kernels, strict=False)
    return expand({f"features.{n}.{{weight,bias}}": (w, b, k, k) for n, w, b, k in sizes})


def _classifier(
    numbers: tuple[int, ...], places: int, widths: tuple[int, ...], inner: int
) -> Shapes:
    sizes = zip(numbers, [(inner, places * widths[-1]), (inner, inner), (1000, inner)], strict=True)
    return expand({f"classifier.{n}.{{weight,bias}}": shape for n, shape in sizes})


def _backbone(path: Path, shapes: Shapes, seed: int) -> Path:
    """Most of its ReLUs let through what they are given: at a kink no gradient can be measured."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for key, shape in shapes.items():
        weights[key] = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
        if len(shape) == 1:
            weights[key] = 1 + 0.1 * weights[key]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights, path)
    return path


def lpips(folder: Path, channels: tuple[int, ...] = (4, 5, 6, 7, 7), seed: int = 14) -> Path:
    """LPIPS's heads as published, for the small VGG16: none is below 0."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        f"lin{i}.model.1.weight": torch.rand(1, count, 1, 1, generator=generator)
        for i, count in enumerate(channels)
    }
    path = folder / "lpips" / "vgg.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights, path)
    return path


def _model_folder(folder: Path, model: Any, seed: int, look: dict[str, Any]) -> Path:
    """A model in the keys of published files, which newer releases rename, and what it sees."""
    sharpen(model.eval(), seed)
    model.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", look)
    return folder / "model.safetensors"


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def save(path: Path, weights: Weights) -> None:
    """Write safetensors, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.detach().contiguous().clone() for key, value in weights.items()}, path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, default=str), encoding="utf-8")
