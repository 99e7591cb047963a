"""CLIP from disk, in the layout of transformers or of open_clip: one encoder for each side."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoint import (
    CheckpointError,
    Weights,
    below,
    check_finite,
    count_below,
    fill,
    read_json,
    read_weights,
    refuse_misfits,
    shape_of,
    vision_shapes,
    without,
)
from .encoders import (
    EncoderReward,
    ImageEncoder,
    are_layers_kept,
    described,
    from_transformers,
    is_large,
    recompute,
    warn_if_cut,
)
from .layouts import CLIP, CLIP_IMAGE, CLIP_L, CLIP_TRUNK, IMAGES, TEXTS, expect
from .preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing
from .processors import preprocessing_beside, read_settings

POSITION_IDS = "*.position_ids"  # a count that older files carry along
VISION, TEXT = ("vision_model.", "visual_projection."), ("text_model.", "text_projection.")
PROJECTION = "text_projection.weight"
# What tells the sizes of an open_clip file, and the number of its dimensions.
OPEN_CLIP_SIZES = {"visual.conv1.weight": 4, "visual.positional_embedding": 2, "visual.proj": 2}
OPEN_CLIP_SIZES["text_projection"] = 2  # of a whole CLIP
OPEN_CLIP_FITS = {"shortest": "crop", "longest": "pad", "squash": "squash"}  # its resize_mode
INSTALL_OPEN_CLIP = (
    "This file is in open_clip's layout, and the package open_clip_torch is not installed. Install "
    "it with the Python that runs ComfyUI: pip install open_clip_torch"
)


class TextEncoder(nn.Module):
    """A prompt -> its features, float32."""

    def __init__(self, net: nn.Module, tokenizer: Any, length: int) -> None:
        super().__init__()
        self.net, self.tokenizer, self.length = net, tokenizer, length

    def forward(self, prompt: str) -> Tensor:
        """Features [1, D]; what does not fit into the model's context is cut, and that is said."""
        raise NotImplementedError


class _TransformersText(TextEncoder):
    def forward(self, prompt: str) -> Tensor:
        warn_if_cut(len(self.tokenizer(prompt, verbose=False)["input_ids"]), self.length)
        tokens = self.tokenizer(
            prompt, truncation=True, max_length=self.length, return_tensors="pt"
        )
        place = next(self.net.parameters()).device
        features: Tensor = self.net(input_ids=tokens["input_ids"].to(place)).text_embeds
        return features.float()


class _OpenClipText(TextEncoder):
    def forward(self, prompt: str) -> Tensor:
        warn_if_cut(len(self.tokenizer.encode(prompt)) + 2, self.length)
        tokens = self.tokenizer([prompt], context_length=self.length)
        encode: Any = self.net.encode_text
        features: Tensor = encode(tokens.to(next(self.net.parameters()).device))
        return features.float()


# ---- what a file holds ------------------------------------------------------------------------


def is_open_clip(weights: Weights) -> bool:
    """Whether the keys are open_clip's."""
    return "visual.conv1.weight" in weights


def image_encoder(path: Path, dtype: torch.dtype) -> ImageEncoder:
    """The image side of a CLIP file, into the space it shares with texts.

    Args:
        path: a CLIPModel or CLIPVisionModelWithProjection of transformers, or an open_clip model or
            its image side; a ``config.json``, ``preprocessor_config.json`` or
            ``open_clip_config.json`` in the same folder is read, and needed only for sizes that
            were never published.
        dtype: precision of the network.

    Raises:
        CheckpointError: the file is damaged or holds something else.
        ImportError: it needs open_clip, which is not installed.
    """
    weights = _prefixed(read_weights(path))
    expect(weights, path, IMAGES, f"a CLIP's image side with its projection, such as {CLIP_L}")
    if is_open_clip(weights):
        return _open_clip_image_encoder(path, weights, dtype)
    from transformers import CLIPVisionModelWithProjection

    mine, both = _side(weights, path, VISION)
    config = both.vision_config
    net = from_transformers(CLIPVisionModelWithProjection, config, mine, path, dtype)
    large = is_large(net)
    if large:
        recompute(net.vision_model.encoder.layers)  # type: ignore[union-attr, arg-type]
    look, width = _preprocessing(path, config.image_size), config.projection_dim
    scale = _logit_scale(weights, path)
    return ImageEncoder(
        net, lambda net, pixels: net(pixel_values=pixels).image_embeds, look, width, scale, large
    )


def text_encoder(path: Path, dtype: torch.dtype, tokenizer: Path | None = None) -> TextEncoder:
    """The text side of a CLIP file.

    Args:
        path: as for the image side.
        dtype: precision of the network.
        tokenizer: a folder with CLIP's tokenizer, used where the file's own folder has none.

    Raises:
        CheckpointError, ImportError: as for the image side; or there is no tokenizer.
    """
    weights = read_weights(path)
    bare = "text_model.final_layer_norm.weight" in weights and PROJECTION not in weights
    if bare and "text_model.head.weight" not in weights:  # which a SigLIP has
        raise CheckpointError(
            f"{path} is a CLIP's text side as image models use it, without {PROJECTION}, which "
            "leads to the space that texts share with images; clip_l.safetensors never has it, so "
            "another download will not help. The whole CLIP has it: model.safetensors of "
            "https://huggingface.co/openai/clip-vit-large-patch14 (choose it for both sides), and "
            "so do text encoders saved with their projection, such as SDXL's text_encoder_2 (for "
            "ViT-bigG)."
        )
    expect(weights, path, TEXTS, f"a CLIP with its text side, such as {CLIP_L}")
    if is_open_clip(weights):
        net = _open_clip_model(path, weights, dtype)
        net.visual = nn.Identity()  # so that its memory is free
        length = int(net.context_length)  # type: ignore[arg-type]
        return _OpenClipText(net, _open_clip().SimpleTokenizer(), length)
    from transformers import CLIPTextModelWithProjection

    mine, both = _side(weights, path, TEXT)
    config = both.text_config
    net = from_transformers(CLIPTextModelWithProjection, config, mine, path, dtype)
    return _TransformersText(net, _tokenizer(path, tokenizer), config.max_position_embeddings)


def early_layers(path: Path, dtype: torch.dtype, layers: int = 3) -> ImageEncoder:
    """The patch features [B, patches, width] after a CLIP's first blocks.

    Args and errors as for the image side, of transformers' layout only.
    """
    weights = read_weights(path)
    if is_open_clip(weights):
        raise CheckpointError(
            f"{path} is in open_clip's layout; expected a CLIP vision model of transformers, for "
            "example ComfyUI's clip_vision files."
        )
    expect(weights, path, (CLIP, CLIP_IMAGE, CLIP_TRUNK), f"a CLIP's image side, such as {CLIP_L}")
    from transformers import CLIPVisionModel

    vision, both = _side(weights, path, VISION)
    config = both.vision_config
    if config.num_hidden_layers < layers:
        raise CheckpointError(
            f"{path} has {config.num_hidden_layers} layers; expected at least {layers}."
        )
    config.num_hidden_layers = layers
    first = tuple(f"vision_model.encoder.layers.{i}." for i in range(layers))
    rest = ("vision_model.embeddings.", "vision_model.pre_", "vision_model.post_")
    mine = {key: value for key, value in vision.items() if key.startswith(first + rest)}
    net = from_transformers(CLIPVisionModel, config, mine, path, dtype)
    look, width = _preprocessing(path, config.image_size), config.hidden_size
    return ImageEncoder(
        net, lambda net, pixels: net(pixel_values=pixels).last_hidden_state[:, 1:], look, width
    )


# ---- transformers' layout ---------------------------------------------------------------------


def _side(weights: Weights, path: Path, side: tuple[str, str]) -> tuple[Weights, Any]:
    """One side's weights of a CLIP, and its CLIPConfig; what is of no CLIP is an error."""
    weights = without(weights, [POSITION_IDS])
    strays = [k for k in weights if not k.startswith(VISION + TEXT) and k != "logit_scale"]
    if strays or not any(key.startswith(side) for key in weights):
        refuse_misfits(path, [] if strays else [f"{side[0]}*"], strays)
    mine = {key: value for key, value in weights.items() if key.startswith(side)}
    return mine, _config(path, weights)


def _config(path: Path, weights: Weights) -> Any:
    """A CLIPConfig: the one beside the file, or the published one that has these shapes."""
    from transformers import CLIPConfig, CLIPVisionConfig

    found = read_json(path.parent / "config.json")
    if found.get("model_type") == "clip":
        config = described(CLIPConfig, found, path)
        # A CLIPModel reads it here; LAION's files and their offspring have it wrong in the sides.
        for side in (config.vision_config, config.text_config):
            side.projection_dim = config.projection_dim
        return config
    if found.get("model_type") == "clip_vision_model":
        return CLIPConfig(vision_config=described(CLIPVisionConfig, found, path).to_dict())
    vision, text = _vision_shapes(weights, path), _text_shapes(weights, path)
    shared = (vision or text)["projection_dim"]
    # OpenAI trained sizes up to L with its own approximation of GELU, LAION sizes from H without.
    large = vision["hidden_size"] > 1024 if vision else text["hidden_size"] > 768
    act = {"hidden_act": "gelu" if large else "quick_gelu", "projection_dim": shared}
    _say_what_is_taken(path, "config.json", "LAION's" if large else "OpenAI's")
    return CLIPConfig(
        vision_config=vision | act,
        text_config=text | act | {"eos_token_id": 2},  # 2: pool at the largest id
        projection_dim=shared,
    )


def _say_what_is_taken(path: Path, file: str, taken: str) -> None:
    """Shapes do not tell the activation function, and another one gives other scores."""
    logging.info(
        "LAGS: there is no %s beside %s; it is taken to be as %s of these shapes. If it is another "
        "one's, put that file of its page into the same folder.",
        *(file, path, taken),
    )


def _vision_shapes(weights: Weights, path: Path) -> dict[str, Any]:
    prefix = "vision_model."
    if not any(key.startswith(VISION) for key in weights):
        return {}
    patch, positions = (
        f"{prefix}embeddings.{name}_embedding.weight" for name in ("patch", "position")
    )
    shapes = vision_shapes(weights, patch, positions, 2, path)
    inner = shape_of(weights, prefix + "encoder.layers.0.mlp.fc1.weight", 2, path)[0]
    width = projection = shapes["hidden_size"]
    if "visual_projection.weight" in weights:  # a style needs none
        projection = shape_of(weights, "visual_projection.weight", 2, path)[0]
    if width not in (768, 1024, 1280, 1664):
        raise CheckpointError(
            f"{path} is a CLIP of width {width}, which is no published size: put its config.json "
            "into the same folder."
        )
    return {
        **shapes,
        "intermediate_size": inner,
        "num_hidden_layers": count_below(weights, prefix + "encoder.layers."),
        "num_attention_heads": 12 if width == 768 else 16,
        "projection_dim": projection,
    }


def _text_shapes(weights: Weights, path: Path) -> dict[str, Any]:
    embedding = "text_model.embeddings.token_embedding.weight"
    if not any(key.startswith(TEXT) for key in weights):
        return {}
    words, width = shape_of(weights, embedding, 2, path)
    places = shape_of(weights, "text_model.embeddings.position_embedding.weight", 2, path)[0]
    return {
        "max_position_embeddings": places,
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": count_below(weights, "text_model.encoder.layers."),
        "num_attention_heads": width // 64,
        "projection_dim": shape_of(weights, PROJECTION, 2, path)[0],
    }


def _logit_scale(weights: Weights, path: Path) -> float | None:
    """The authors' factor on cosines; None where the file has none."""
    if "logit_scale" not in weights:
        return None
    value = weights["logit_scale"]
    check_finite({"logit_scale": value}, path)
    if value.numel() != 1:
        refuse_misfits(path, [], [], [f"logit_scale is {tuple(value.shape)}"])
    return math.exp(value.item())


def _preprocessing(path: Path, image_size: int) -> Preprocessing:
    if not read_settings(path.parent):  # as in ComfyUI's clip_vision: all CLIPs have the same
        return Preprocessing(image_size, crop_rounds_down=True)
    look = preprocessing_beside(path, "clip")
    if look.size != image_size:
        raise CheckpointError(
            f"The preprocessor_config.json beside {path} makes images of {look.size} pixels, and "
            f"the network reads {image_size}: put the one of its own page there."
        )
    return look


def _tokenizer(path: Path, fallback: Path | None) -> Any:
    from transformers import CLIPTokenizer, CLIPTokenizerFast

    for folder in (path.parent, fallback):
        if folder is not None and (folder / "vocab.json").is_file():
            return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        if folder is not None and (folder / "tokenizer.json").is_file():
            return CLIPTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    raise CheckpointError(
        f"There is no CLIP tokenizer beside {path}: put vocab.json and merges.txt, or "
        "tokenizer.json, from the model's page into the same folder."
    )


# ---- open_clip's layout -----------------------------------------------------------------------


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(INSTALL_OPEN_CLIP) from error
    return open_clip


def _open_clip_image_encoder(path: Path, weights: Weights, dtype: torch.dtype) -> ImageEncoder:
    visual = _open_clip_visual(path, weights, dtype)
    large, blocks = is_large(visual), getattr(getattr(visual, "transformer", 0), "resblocks", None)
    if large and blocks is not None:  # open_clip's own way refuses torch.autograd.grad until 2.31
        recompute(blocks)

    def features(net: Any, pixels: Tensor) -> Tensor:
        if large and blocks is None:  # convolutions
            net.set_grad_checkpointing(not are_layers_kept())
        seen: Tensor = net(pixels)
        return seen

    look, width = _open_clip_preprocessing(path, visual), int(visual.output_dim)  # type: ignore[arg-type]
    return ImageEncoder(visual, features, look, width, _logit_scale(weights, path), large)


def _open_clip_preprocessing(path: Path, visual: Any) -> Preprocessing:
    """What open_clip's own transform of these settings does to images; its size is the network's.

    Raises:
        CheckpointError: a setting that open_clip has not, or that a ``Preprocessing`` has not.
    """
    file = path.parent / "open_clip_config.json"
    look = read_json(file).get("preprocess_cfg") or {}
    sizes = {visual.image_size} if isinstance(visual.image_size, int) else {*visual.image_size}
    wanted = {
        "resize_mode": (look.get("resize_mode", "shortest"), tuple(OPEN_CLIP_FITS)),
        "interpolation": (look.get("interpolation", "bicubic"), ("bicubic", "bilinear")),
        "mode": (look.get("mode", "RGB"), ("RGB",)),
        "fill_color": (look.get("fill_color", 0), (0,)),
        "number of lengths of the network's sides": (len(sizes), (1,)),
    }
    for name, (value, known) in wanted.items():
        if value not in known:
            raise CheckpointError(f"{file} has {name} {value!r}; expected one of {known}.")
    return Preprocessing(
        sizes.pop(),
        fit=OPEN_CLIP_FITS[wanted["resize_mode"][0]],  # type: ignore[arg-type]
        mean=tuple(look.get("mean") or CLIP_MEAN),
        std=tuple(look.get("std") or CLIP_STD),
        interpolation=wanted["interpolation"][0],
    )


def _open_clip_model(path: Path, weights: Weights, dtype: torch.dtype) -> nn.Module:
    open_clip = _open_clip()
    config = _open_clip_config(path, weights)
    with torch.device("meta"):
        net: nn.Module = open_clip.CLIP(
            config["embed_dim"],
            config["vision_cfg"],
            config["text_cfg"],
            quick_gelu=config.get("quick_gelu", False),
        )
    fill(net, without(weights, [POSITION_IDS, "attn_mask"]), path, dtype)
    # The one buffer that is in no file: what a token may look at.
    length = int(net.context_length)  # type: ignore[arg-type]
    mask = torch.full((length, length), -math.inf, dtype=dtype).triu(1)
    net.register_buffer("attn_mask", mask, persistent=False)
    return net


def _open_clip_visual(path: Path, weights: Weights, dtype: torch.dtype) -> nn.Module:
    """The image side; of a file that holds nothing else, or another text side, too."""
    if "text_projection" in weights:
        visual: Any = _open_clip_model(path, weights, dtype).visual
        return visual  # type: ignore[no-any-return]
    open_clip = _open_clip()
    config = _open_clip_config(path, weights)
    with torch.device("meta"):
        text = {"width": 8, "heads": 1, "layers": 1, "vocab_size": 8}
        net = open_clip.CLIP(
            config["embed_dim"],
            config["vision_cfg"],
            text,
            quick_gelu=config.get("quick_gelu", False),
        )
    fill(net.visual, below(weights, "visual."), path, dtype)
    return net.visual  # type: ignore[no-any-return]


def _prefixed(weights: Weights) -> Weights:
    """The weights, of an image side that was saved by itself under the names it has in a whole."""
    bare = "conv1.weight" in weights and "class_embedding" in weights
    return {f"visual.{key}": value for key, value in weights.items()} if bare else weights


def _open_clip_config(path: Path, weights: Weights) -> dict[str, Any]:
    """The architecture named beside the file, or the published one that has these shapes."""
    beside = read_json(path.parent / "open_clip_config.json").get("model_cfg")
    if beside:
        return dict(beside)
    for key, dimensions in OPEN_CLIP_SIZES.items():
        if key != "text_projection" or key in weights:
            shape_of(weights, key, dimensions, path)
    open_clip = _open_clip()
    for name in sorted(open_clip.list_models()):
        config = open_clip.get_model_config(name)
        if not config.get("quick_gelu") and _fits(config, weights):
            _say_what_is_taken(path, "open_clip_config.json", f"open_clip's {name}")
            return dict(config)
    raise CheckpointError(
        f"{path} is in open_clip's layout, but has the shapes of none of its plain models: put the "
        "open_clip_config.json of the model's page into the same folder."
    )


def _fits(config: dict[str, Any], weights: Weights) -> bool:
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "width" not in vision or "hf_model_name" in text or not isinstance(vision["layers"], int):
        return False
    patch, projection = weights["visual.conv1.weight"], weights["visual.proj"]
    positions = weights["visual.positional_embedding"].shape[0]
    grid = (vision["image_size"] // vision["patch_size"]) if "patch_size" in vision else 0
    return (
        patch.shape[0] == vision["width"]
        and patch.shape[-1] == vision.get("patch_size")
        and positions == grid * grid + 1
        and count_below(weights, "visual.transformer.resblocks.") == vision["layers"]
        and projection.shape == (vision["width"], config["embed_dim"])
        and _fits_text(text, weights)
    )


def _fits_text(text: dict[str, Any], weights: Weights) -> bool:
    if "text_projection" not in weights:
        return True
    layers = count_below(weights, "transformer.resblocks.")
    return (weights["text_projection"].shape[0], layers) == (text["width"], text["layers"])


# ---- scores -----------------------------------------------------------------------------------


class CosineReward(EncoderReward):
    """factor * cosine between an image's features and given ones.

    Args:
        encoder: images to features [B, D].
        target: [1, D], for example of a prompt; encoded once, outside of the run.
        factor: 1, or the authors' scale.
    """

    def __init__(self, encoder: ImageEncoder, target: Tensor, factor: float = 1.0) -> None:
        super().__init__(encoder)
        self.target, self.factor = target.detach().float().cpu(), factor

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, H, W] in 0..1."""
        features = self.encoder(images)
        cosine = F.cosine_similarity(features, self.target.to(features.device), dim=1)
        return self.factor * cosine
