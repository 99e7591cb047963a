"""FreeDoM for the method socket."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...guidance import FreeDoM, Window
from ...guidance.methods.freedom import FIRST, LAST, PLAIN_STEP, REPEATS, STEP, TRAVEL_UNTIL
from ..inputs import dial
from ..sockets import CATEGORY, MethodSocket, found_by


def step_share(name: str, default: float, tooltip: str) -> io.Float.Input:
    """A place in the run, as the share of its steps that are left."""
    return io.Float.Input(name, **dial(default, 0.0, 1.0, 0.01), tooltip=tooltip)


class LAGSMethodFreeDoM(io.ComfyNode):
    """FreeDoM for the method socket."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSMethodFreeDoM",
            display_name="Method: FreeDoM",
            category=CATEGORY,
            description="Gradient steps through the model with time travel, instead of LAGS: an "
            "ancestral sampler of its own (choose euler_ancestral). Only the sign of the weight's "
            "strength has an effect. Needs memory for a backward pass through the model.",
            **found_by(
                "freedom, training-free guidance, time travel, energy guidance, "
                "guidance method, 免训练引导, 引导方法"
            ),
            inputs=[
                io.Float.Input(
                    "step",
                    **dial(STEP, 0.0, 100.0, 0.01),
                    tooltip="Set the length of a step relative to what cfg adds. The paper uses "
                    "0.2 for style.",
                ),
                io.Float.Input(
                    "plain_step",
                    **dial(PLAIN_STEP, 0.0, 100.0, 0.005),
                    tooltip="Set the same at cfg 1, relative to the noise. The paper uses 0.02.",
                ),
                step_share(
                    "first",
                    FIRST,
                    "Set where guidance begins: at this share of remaining steps; 1 is from the "
                    "start.",
                ),
                step_share(
                    "last",
                    LAST,
                    "Set where guidance ends: at this share of remaining steps; 0 is at the end.",
                ),
                step_share(
                    "travel_until",
                    TRAVEL_UNTIL,
                    "Set where repeats end: at this share of remaining steps.",
                ),
                io.Int.Input(
                    "repeats",
                    **dial(REPEATS, 1, 100),
                    tooltip="Choose how many times each guided step before that is run; 1 is no "
                    "time travel.",
                ),
            ],
            outputs=[MethodSocket.Output(display_name="method", tooltip="For a LAGS sampler.")],
        )

    @classmethod
    def execute(cls, step: float, plain_step: float, **window: Any) -> io.NodeOutput:
        return io.NodeOutput(FreeDoM(step, plain_step, Window(**window)))
