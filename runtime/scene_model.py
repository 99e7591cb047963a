"""The bundled text-to-image model as ComfyUI objects: MODEL, CLIP, VAE, empty LATENT."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management as mm
import comfy.sd
import comfy.supported_models_base
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd1_clip import (
    ClipTokenWeightEncoder,
    escape_important,
    token_weights,
    unescape_important,
)
from torch import Tensor, nn

from ..demo.scenes.diffusion import (
    FOLDER,
    LATENT_RGB_FILE,
    SMALL_DECODER_FILE,
    VAE_FILE,
    latent_shape,
    text_weights,
    unet_weights,
)
from ..demo.scenes.text import END, PAD, START, TOKENS, SceneTextEncoder, split_words
from ..demo.scenes.unet import UNET_CONFIG
from ..demo.scenes.vae import DDCONFIG, EMBED_DIM
from ..demo.weights import read_weights
from ..guidance import Message
from .page import notice

TOKENS_KEY = "scenes"  # of this text encoder's tokens in what CLIP.tokenize gives


class SceneLatents(comfy.latent_formats.LatentFormat):
    """Latents of the bundled VAE: zero mean and unit variance by themselves."""

    scale_factor = 1.0
    latent_channels = 4
    lags_small_decoder = FOLDER / SMALL_DECODER_FILE  # in place of a file of TAESD's

    def __init__(self) -> None:
        table = FOLDER / LATENT_RGB_FILE
        if table.is_file():
            linear = json.loads(table.read_text("utf-8"))
            self.latent_rgb_factors = linear["factors"]
            self.latent_rgb_factors_bias = linear["bias"]


class SceneConfig(comfy.supported_models_base.BASE):
    """How ComfyUI shall treat the scene model."""

    unet_extra_config: dict[str, Any] = {}
    latent_format = SceneLatents
    memory_usage_factor = 0.1


def load_model(folder: Path = FOLDER) -> ModelPatcher:
    """The UNet as a ComfyUI MODEL: ComfyUI's own UNetModel, v-prediction, in float32."""
    config = SceneConfig(UNET_CONFIG)
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(
        config, model_type=comfy.model_base.ModelType.V_PREDICTION, device=mm.unet_offload_device()
    )
    model.diffusion_model.load_state_dict(unet_weights(folder))
    return ModelPatcher(
        model, load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device()
    )


def load_vae(folder: Path = FOLDER) -> comfy.sd.VAE:
    """The VAE: ComfyUI's own AutoencoderKL."""
    config = {"params": {"ddconfig": dict(DDCONFIG), "embed_dim": EMBED_DIM}}
    return comfy.sd.VAE(sd=read_weights(folder / VAE_FILE), config=config)


def load_clip(folder: Path = FOLDER) -> comfy.sd.CLIP:
    """The text encoder as a ComfyUI CLIP, for the ordinary CLIP Text Encode node."""
    target = SimpleNamespace(params={}, clip=SceneCLIPModel, tokenizer=SceneTokenizer)
    weights = text_weights(folder)
    return comfy.sd.CLIP(target, parameters=_count(weights), state_dict=[weights])


def empty_latent(batch_size: int) -> dict[str, Any]:
    """LATENT of as many images."""
    return {"samples": torch.zeros(latent_shape(batch_size), device=mm.intermediate_device())}


class SceneTokenizer:
    """Prompts to word numbers, with ComfyUI's (word:1.3) weights; chunks of ``TOKENS``."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        del embedding_directory, tokenizer_data  # what ComfyUI's own tokenizers take

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **_: object
    ) -> dict[str, list[list[tuple[Any, ...]]]]:
        """Chunks of (token, weight), or (token, weight, word id)."""
        words: list[tuple[int, float]] = []
        unknown: list[str] = []
        for segment, weight in token_weights(escape_important(text), 1.0):
            numbers, lacking = split_words(unescape_important(segment))
            words += [(number, weight) for number in numbers]
            unknown += [word for word in lacking if word not in unknown]
        if unknown:
            notice(unknown_words(unknown))
        room = TOKENS - 2
        starts = range(0, max(len(words), 1), room)
        chunks = [_chunk(words[start : start + room], start) for start in starts]
        if not return_word_ids:
            return {TOKENS_KEY: [[entry[:2] for entry in chunk] for chunk in chunks]}
        return {TOKENS_KEY: chunks}

    def untokenize(self, token_weight_pair: list[tuple[Any, ...]]) -> list[Any]:
        from ..demo.scenes.text import VOCABULARY

        return [(pair, VOCABULARY[pair[0]]) for pair in token_weight_pair]

    def state_dict(self) -> dict[str, Tensor]:
        return {}


def unknown_words(words: list[str]) -> Message:
    """What to tell the user about words that the scene model does not know."""
    return Message(
        "unknown_words",
        "LAGS Demo Text Model does not know {words} and leaves them out: its help page lists the "
        "subjects and colours that it draws.",
        {"words": ", ".join(repr(word) for word in words)},
    )


class SceneCLIPModel(nn.Module, ClipTokenWeightEncoder):
    """What ComfyUI's CLIP asks of a text model, around the scene text encoder."""

    disable_offload = True  # its layers are torch's own: load it whole
    special_tokens = {"start": START, "end": END, "pad": PAD}

    def __init__(
        self, device: Any = "cpu", dtype: torch.dtype | None = None, model_options: Any = None
    ) -> None:
        super().__init__()
        del dtype, model_options  # 0.2 million weights: always float32
        self.encoder = SceneTextEncoder().to(device).eval().requires_grad_(False)
        self.dtypes = {torch.float32}

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Nothing to set: there is one layer to take, and no projection."""

    def reset_clip_options(self) -> None:
        """Nothing to reset."""

    def load_sd(self, weights: dict[str, Tensor]) -> Any:
        return self.encoder.load_state_dict(weights, strict=False)

    def encode_token_weights(self, token_weight_pairs: dict[str, Any]) -> Any:
        return super().encode_token_weights(token_weight_pairs[TOKENS_KEY])

    def encode(self, tokens: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Tokens in rows -> [rows, TOKENS, width], and the end token's vector as pooled output."""
        place = next(self.encoder.parameters()).device
        numbers = torch.tensor(tokens, device=place)
        encoded = self.encoder(numbers)
        end = (numbers == END).int().argmax(dim=1)
        return encoded, encoded[torch.arange(len(tokens), device=place), end]


def _chunk(words: list[tuple[int, float]], start: int) -> list[tuple[Any, ...]]:
    inside = [(number, weight, start + i + 1) for i, (number, weight) in enumerate(words)]
    padding = [(PAD, 1.0, 0)] * (TOKENS - 2 - len(inside))
    return [(START, 1.0, 0), *inside, (END, 1.0, 0), *padding]


def _count(weights: dict[str, Tensor]) -> int:
    return sum(value.numel() for value in weights.values())
