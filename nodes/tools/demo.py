"""LAGS Demo Model: the bundled model, for images without any download."""

from __future__ import annotations

from comfy_api.latest import io

from ...demo.shapes import COLOURS, SHAPES
from ...runtime.demo_model import empty_latent, load_model, load_vae, prompts
from ..inputs import batch_input
from ..sockets import CATEGORY, found_by

ANY = "any"


class LAGSDemoModel(io.ComfyNode):
    """Model, prompts, VAE and empty latents of the bundled demo."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSDemoModel",
            display_name="LAGS Demo Model",
            category=CATEGORY,
            description="A tiny model that comes with the pack and draws coloured shapes of 32x32 "
            "pixels in a second, even without a GPU: for trying weights before the big models.",
            **found_by("example model, test model, tiny model, toy model, shapes, 演示, 测试模型"),
            inputs=[
                io.Combo.Input(
                    "subject",
                    options=[ANY, *SHAPES],
                    default=ANY,
                    tooltip="Choose the shape to draw; 'any' leaves it open, so that the weight "
                    "decides.",
                ),
                io.Combo.Input(
                    "colour",
                    options=[ANY, *COLOURS],
                    default=ANY,
                    tooltip="Choose the shape's colour; 'any' leaves it open.",
                ),
                batch_input(16),
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
        positive, negative = prompts(*(None if name == ANY else name for name in (subject, colour)))
        latent = empty_latent(batch_size)
        return io.NodeOutput(load_model(), positive, negative, load_vae(), latent)
