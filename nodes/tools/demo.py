"""The bundled model as ComfyUI objects: pictures without any download."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management as mm
import comfy.sd
import comfy.supported_models_base
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ...demo.model import (
    PIXEL_SCALE,
    SIGMA_DATA,
    SIGMA_MAX,
    SIGMA_MIN,
    empty_shape,
    labels_to_context,
    load_network,
)
from ...demo.shapes import COLOURS, SHAPES
from ..sockets import CATEGORY

ANY = "any"


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
    sampling_settings = {
        "sigma_min": SIGMA_MIN,
        "sigma_max": SIGMA_MAX,
        "sigma_data": SIGMA_DATA,
    }
    latent_format = DemoLatents
    memory_usage_factor = 0.1


def load_model() -> ModelPatcher:
    """The demo network as a ComfyUI MODEL."""
    config = DemoConfig({"disable_unet_model_creation": True})
    model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.EDM)
    model.diffusion_model = load_network()
    return ModelPatcher(
        model, load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device()
    )


def load_vae() -> comfy.sd.VAE:
    """ComfyUI's own pixel-space VAE, in float32."""
    return comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)


class LAGSDemoModel(io.ComfyNode):
    """Model, prompts, VAE and empty latents of the bundled demo."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSDemoModel",
            display_name="LAGS Demo Model",
            category=CATEGORY,
            description="A tiny model that comes with the pack and draws coloured shapes of 32x32 "
            "pixels in a second, also without a GPU: to try weights before the big models.",
            inputs=[
                io.Combo.Input(
                    "subject",
                    options=[ANY, *SHAPES],
                    default=ANY,
                    tooltip="The shape to draw; 'any' leaves it open, so that the weight decides.",
                ),
                io.Combo.Input(
                    "colour",
                    options=[ANY, *COLOURS],
                    default=ANY,
                    tooltip="The shape's colour; 'any' leaves it open.",
                ),
                io.Int.Input(
                    "batch_size", default=16, min=1, max=256, tooltip="How many pictures."
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The demo model."),
                io.Conditioning.Output(display_name="positive", tooltip="Subject and colour."),
                io.Conditioning.Output(display_name="negative", tooltip="Nothing in particular."),
                io.Vae.Output(display_name="VAE", tooltip="Decodes the demo's latents."),
                io.Latent.Output(display_name="LATENT", tooltip="Empty latents of 32x32."),
            ],
        )

    @classmethod
    def execute(cls, subject: str, colour: str, batch_size: int) -> io.NodeOutput:
        context = labels_to_context(
            None if subject == ANY else subject, None if colour == ANY else colour
        )
        positive = [[context, {}]]
        negative = [[torch.zeros_like(context), {}]]
        samples = torch.zeros(empty_shape(batch_size), device=mm.intermediate_device())
        latent = {"samples": samples}
        return io.NodeOutput(load_model(), positive, negative, load_vae(), latent)
