"""The bundled model as ComfyUI objects."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management as mm
import comfy.sd
import comfy.supported_models_base
import torch
from comfy.model_patcher import ModelPatcher

from ..demo.model import (
    LABELS,
    PIXEL_SCALE,
    SIGMA_DATA,
    SIGMA_MAX,
    SIGMA_MIN,
    empty_shape,
    labels_to_context,
    load_network,
)


class DemoLatents(comfy.latent_formats.LatentFormat):
    """Latents that are pixels in -1..1, scaled to unit variance for the model."""

    scale_factor = PIXEL_SCALE
    latent_channels = 3
    spacial_downscale_ratio = 1

    def __init__(self) -> None:
        self.latent_rgb_factors = torch.eye(3).div(PIXEL_SCALE).tolist()


class DemoConfig(comfy.supported_models_base.BASE):
    """How ComfyUI shall treat the demo model."""

    unet_extra_config: dict[str, Any] = {}
    sampling_settings = {"sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX, "sigma_data": SIGMA_DATA}
    latent_format = DemoLatents
    memory_usage_factor = 0.1


def load_model() -> ModelPatcher:
    """The demo network as a ComfyUI MODEL."""
    config = DemoConfig({"disable_unet_model_creation": True, "context_dim": LABELS})
    model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.EDM)
    model.diffusion_model = load_network()
    return ModelPatcher(
        model, load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device()
    )


def load_vae() -> comfy.sd.VAE:
    """ComfyUI's own pixel-space VAE, in float32."""
    return comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)


def prompts(subject: str | None, colour: str | None) -> tuple[list[Any], list[Any]]:
    """CONDITIONING for a shape and a colour, and for nothing in particular; None leaves it open."""
    context = labels_to_context(subject, colour)
    return [[context, {}]], [[torch.zeros_like(context), {}]]


def empty_latent(batch_size: int) -> dict[str, Any]:
    """LATENT of as many images."""
    return {"samples": torch.zeros(empty_shape(batch_size), device=mm.intermediate_device())}
