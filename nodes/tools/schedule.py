"""LAGS Schedule Visualizer: what guidance will do at every noise level, as an image."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...guidance import MODES, compared
from ...plots.schedule import draw
from ...runtime.checks import UNCONNECTED, check_connected, check_one_connected, filled
from ...runtime.last_model import remember
from ...runtime.options import Options, decoding_of
from ...runtime.plans import curve, in_words, other_schedules, planned
from ...runtime.sampling import ksampler_levels, prices_before
from ..inputs import coefficient_input, dial, look_inputs, options_input, sampler_inputs
from ..sockets import CATEGORY, WeightSocket, found_by

CFG = 8.0  # as KSampler's
NO_LEVELS = "There are no noise levels: connect a model, or SIGMAS."


def price_inputs() -> list[Any]:
    """What the cost of the weight is counted by; newer than the others, so behind them."""
    return [
        io.Vae.Input("vae", optional=True, tooltip="Connect it as in KSampler (LAGS)."),
        WeightSocket.Input(
            "weight",
            optional=True,
            tooltip="Connect it as in KSampler (LAGS): its cost is counted.",
        ),
        io.Latent.Input(
            "latent_image",
            optional=True,
            tooltip="Connect it to give the image's size. Without it that is what the model was "
            "trained at: 512 x 512 for SD 1.5, 1024 x 1024 for SDXL.",
        ),
        io.Float.Input(
            "cfg",
            optional=True,
            **dial(CFG, 0.0, 100.0, 0.1),
            tooltip="Set it as in your sampler. At 1 the model has one branch, and a second "
            "evaluation costs as much as the first; at all other values it costs half.",
        ),
    ]


class LAGSScheduleVisualizer(io.ComfyNode):
    """What guidance will do at every noise level, before anything is sampled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSScheduleVisualizer",
            display_name="LAGS Schedule Visualizer",
            category=CATEGORY,
            description="Draws alpha, the share of the full shift that is applied, at every step, "
            "and says which steps are not guided and what the run costs. Connect the model, or "
            "SIGMAS; weight and vae too, and their cost is counted.",
            **found_by("guidance schedule, noise levels, sigmas, plot schedule, 噪声调度, 曲线"),
            inputs=[
                io.Model.Input(
                    "model", optional=True, tooltip="Connect the model that gives the noise levels."
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Connect noise levels instead of scheduler and steps.",
                ),
                *sampler_inputs(),
                io.Int.Input(
                    "steps", default=20, min=1, max=10000, tooltip="Set the number of steps."
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Set it as in your KSampler.",
                ),
                io.Combo.Input(
                    "mode", options=list(MODES), tooltip="Choose it as in KSampler (LAGS)."
                ),
                coefficient_input(),
                io.Float.Input(
                    "nats",
                    display_name="std of log w",
                    **dial(3.0, 0.0, 1000.0, 0.5),
                    tooltip="Set it for balanced mode, which measures alpha during the run: the "
                    "standard deviation of log w over the model's own samples. An "
                    "automatic strength is this number.",
                ),
                io.String.Input(
                    "compare",
                    default="1, 10, 100",
                    tooltip="Write values of c for which the paper's schedule is drawn too, "
                    "beside the chosen one.",
                ),
                *look_inputs(),
                options_input(),
                *price_inputs(),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The curves."),
                io.Sigmas.Output(display_name="SIGMAS", tooltip="The noise levels."),
                io.String.Output(display_name="text", tooltip="Guided steps, calls, cost."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, model: Any = UNCONNECTED, sigmas: Any = UNCONNECTED) -> bool:
        """At queueing: without noise levels nothing can be drawn, and other branches can run."""
        return check_one_connected(NO_LEVELS, model, sigmas)

    @classmethod
    def execute(
        cls,
        sampler_name: str,
        scheduler: str,
        steps: int,
        denoise: float,
        mode: str,
        c: float,
        nats: float,
        compare: str,
        model: Any = None,
        sigmas: Tensor | None = None,
        options: Options | None = None,
        vae: Any = None,
        weight: Any = None,
        latent_image: dict[str, Any] | None = None,
        cfg: float = CFG,
        **look: Any,
    ) -> io.NodeOutput:
        sockets = {"model": model, "sigmas": sigmas, "options": options}
        check_connected(**filled(**sockets, vae=vae, weight=weight, latent_image=latent_image))
        if model is None and sigmas is None:
            raise ValueError(NO_LEVELS)
        prices = prices_before(model, vae, weight, latent_image, options)
        levels = None if sigmas is None else sigmas.detach().cpu()
        remember(cls.hidden.unique_id, model, levels, prices)
        if sigmas is None:
            sigmas = ksampler_levels(model, steps, sampler_name, scheduler, denoise)
        price = prices.get(decoding_of(options, mode, False))
        made = planned(model, sigmas, mode, c, nats, options, branches=1 if cfg == 1 else 2)
        made = made if price is None else price.of(made)
        others = compared(other_schedules(compare), made.sigma_ve, nats)
        image = draw(made, mode, others, **look)
        text = in_words(made, mode, price)
        return io.NodeOutput(image, sigmas, text, ui={"text": [text], "lags_plan": [curve(made)]})
