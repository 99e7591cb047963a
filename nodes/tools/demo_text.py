"""LAGS Demo Text Model: the bundled text-to-image model, for prompts without any download."""

from __future__ import annotations

from comfy_api.latest import io

from ...runtime.scene_model import empty_latent, load_clip, load_model, load_vae
from ..inputs import batch_input
from ..sockets import CATEGORY, found_by


class LAGSDemoTextModel(io.ComfyNode):
    """Model, text encoder, VAE and empty latents of the bundled text-to-image model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSDemoTextModel",
            display_name="LAGS Demo Text Model",
            category=CATEGORY,
            description="A small Stable Diffusion that comes with the pack: prompts like 'a cat "
            "and a balloon on a blue background', 128x128 pixels, in seconds even without a GPU. "
            "Use it with the ordinary CLIP Text Encode, KSampler and VAE Decode nodes.",
            **found_by(
                "example model, test model, tiny stable diffusion, small model, "
                "text to image, 演示, 小模型, 文生图"
            ),
            inputs=[
                batch_input(4),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The diffusion model."),
                io.Clip.Output(
                    display_name="CLIP", tooltip="Its text encoder, for CLIP Text Encode."
                ),
                io.Vae.Output(display_name="VAE", tooltip="Decodes and encodes its latents."),
                io.Latent.Output(display_name="LATENT", tooltip="Empty latents of 128x128 pixels."),
            ],
        )

    @classmethod
    def execute(cls, batch_size: int) -> io.NodeOutput:
        return io.NodeOutput(load_model(), load_clip(), load_vae(), empty_latent(batch_size))
