"""ImageReward: how much people would prefer an image for a prompt, by BLIP with a head.

A differentiable version of its own on transformers' BLIP parts: the published code scores image
files without gradient.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from .aesthetic import AestheticHead, head_from
from .base import Published, Reward
from .checkpoint import (
    CheckpointError,
    Weights,
    below,
    count_below,
    read_json,
    read_weights,
    refuse_misfits,
    shape_of,
    vision_shapes,
    without,
)
from .encoders import ImageEncoder, from_transformers, warn_if_cut
from .layouts import IMAGE_REWARD, expect
from .preprocessing import Preprocessing

LENGTH = 35  # tokens that its authors read of a prompt
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of its authors: of raw scores
VISION, TEXT, HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp."
# In the file, but no part of the score: BLIP's contrastive heads and a count.
UNUSED = ("blip.vision_proj.*", "blip.text_proj.*", TEXT + "embeddings.position_ids")
# From BLIP's own names of the parts of its vision network to those of transformers.
RENAMED = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)


class Blip(nn.Module):
    """BLIP's image and text networks: the text attends to the image."""

    def __init__(self, vision: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.vision, self.text = vision, text

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Features [B, width] of the first token, which sums up text and image.

        Args:
            pixels: [B, 3, S, S], normalised.
            tokens: [1, LENGTH], a prompt's.
            mask: [1, LENGTH], 1 where the prompt is, 0 in its padding.
        """
        seen = self.vision(pixel_values=pixels).last_hidden_state
        count = pixels.shape[0]
        read = self.text(
            input_ids=tokens.expand(count, -1),
            attention_mask=mask.expand(count, -1),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], device=seen.device),
            is_decoder=False,  # here: every word sees all others
        )
        features: Tensor = read.last_hidden_state[:, 0]
        return features


class ImageRewardModel(nn.Module):
    """Everything that the published file holds."""

    def __init__(self, encoder: ImageEncoder, head: AestheticHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.eval()

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Score [B]; the head runs in float32."""
        place = self.encoder.place
        raw: Tensor = self.head(self.encoder(images, tokens.to(place), mask.to(place)))
        return (raw - MEAN) / STD


def image_reward_model(path: Path, dtype: torch.dtype) -> ImageRewardModel:
    """The model from ImageReward's published file.

    Args:
        path: ImageReward.pt, or the same tensors as safetensors; a ``med_config.json`` beside it is
            read, as published, and may name a size that was never published.
        dtype: precision of BLIP; the head is float32.

    Raises:
        CheckpointError: the file is damaged or holds something else.
    """
    from transformers import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    weights = read_weights(path)
    expect(weights, path, (IMAGE_REWARD,), f"{ImageReward.published.file} of its authors' page")
    weights = without(weights, UNUSED)
    refuse_misfits(path, (), [k for k in weights if not k.startswith((VISION, TEXT, HEAD))])
    vision = {_renamed(key): value for key, value in below(weights, VISION).items()}
    text = below(weights, TEXT)
    settings = read_json(path.parent / "med_config.json")
    vision_config, text_config = _configs(vision, text, settings, path)

    class TextModel(BlipTextModel):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config, add_pooling_layer=False)

    net = Blip(
        from_transformers(BlipVisionModel, vision_config, vision, path, dtype),
        from_transformers(TextModel, text_config, text, path, dtype),
    )
    look, width = Preprocessing(vision_config.image_size), text_config.hidden_size
    encoder = ImageEncoder(net, lambda net, *inputs: net(*inputs), look, width)
    return ImageRewardModel(encoder, head_from(below(weights, HEAD), path))


def _renamed(key: str) -> str:
    for pattern, name in RENAMED:
        key = re.sub(pattern, name, key)
    return key


def _configs(vision: Weights, text: Weights, settings: dict[str, Any], path: Path) -> Any:
    """BlipVisionConfig and BlipTextConfig of the file's shapes."""
    from transformers import BlipTextConfig, BlipVisionConfig

    shapes = vision_shapes(
        vision, "embeddings.patch_embedding.weight", "embeddings.position_embedding", 3, path
    )
    vision_inner = shape_of(vision, "encoder.layers.0.mlp.fc1.weight", 2, path)[0]
    words, width = shape_of(text, "embeddings.word_embeddings.weight", 2, path)
    context = shape_of(text, "embeddings.position_embeddings.weight", 2, path)[0]
    inner = shape_of(text, "encoder.layer.0.intermediate.dense.weight", 2, path)[0]
    return (
        BlipVisionConfig(
            **shapes,
            intermediate_size=vision_inner,
            num_hidden_layers=count_below(vision, "encoder.layers."),
            num_attention_heads=max(1, shapes["hidden_size"] // 64),
            layer_norm_eps=1e-6,
        ),
        BlipTextConfig(
            vocab_size=words,
            hidden_size=width,
            encoder_hidden_size=shapes["hidden_size"],
            intermediate_size=inner,
            num_hidden_layers=count_below(text, "encoder.layer."),
            num_attention_heads=settings.get("num_attention_heads", max(1, width // 64)),
            max_position_embeddings=context,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            is_decoder=True,  # gives the layers their attention to the image
            # Ids of special words, which this model never generates; small ones fit any size.
            **dict.fromkeys(("bos_token_id", "pad_token_id", "eos_token_id", "sep_token_id"), 0),
        ),
    )


class ImageReward(Reward):
    """Score of about -2 to 2; the mean over its authors' images is 0, their deviation 1.

    Source: Xu et al., "ImageReward", NeurIPS 2023, arXiv 2304.05977.

    Args:
        model: of the published file.
        vocabulary: vocab.txt of bert-base-uncased, whose words it reads.
        prompt: read up to its 35th token, as its authors do.
    """

    name = "ImageReward"
    scale = "about -2 to 2, mean 0, deviation 1"
    default_strength = 100.0
    working_range = (1.0, 200.0)
    strength_source = "none published; PickScore's, for a logit of preference"
    preference_scale = STD
    published = Published(
        "ImageReward/ImageReward.pt", "https://huggingface.co/zai-org/ImageReward", gigabytes=1.8
    )

    def __init__(self, model: ImageRewardModel, vocabulary: Path, prompt: str) -> None:
        self.model = model
        self.tokens, self.mask = encode(prompt, vocabulary)
        self.input_size = model.encoder.preprocessing.size
        self.modules = (model,)

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, H, W] in 0..1."""
        return cast(Tensor, self.model(images, self.tokens, self.mask))


def encode(prompt: str, vocabulary: Path) -> tuple[Tensor, Tensor]:
    """A prompt's token ids and mask, each [1, LENGTH].

    Raises:
        CheckpointError: the vocabulary is not there, or is none.
    """
    from tokenizers import BertWordPieceTokenizer

    if not vocabulary.is_file():
        raise CheckpointError(
            f"ImageReward reads prompts by the words of BERT, and {vocabulary} is not there: put "
            "vocab.txt (0.2 MB) of https://huggingface.co/google-bert/bert-base-uncased beside "
            "ImageReward's file."
        )
    try:
        words = vocabulary.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{vocabulary} is no UTF-8 text ({error}): download it again."
        ) from error
    missing = [word for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if word not in words]
    if missing:
        raise CheckpointError(
            f"{vocabulary} has no {' '.join(missing)}, so it is no BERT vocabulary: put vocab.txt "
            "of https://huggingface.co/google-bert/bert-base-uncased in its place."
        )
    tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
    warn_if_cut(len(tokenizer.encode(prompt).ids), LENGTH, "ImageReward")
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH, pad_id=tokenizer.token_to_id("[PAD]"))
    encoded = tokenizer.encode(prompt)
    return torch.tensor([encoded.ids]), torch.tensor([encoded.attention_mask])
