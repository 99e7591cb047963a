"""LAGS Sweep and LAGS Compare: one run for many settings, and their images side by side."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...guidance import MODES
from ...plots.style import THEMES
from ...runtime.adapters import as_weight
from ...runtime.checks import check_connected
from ...runtime.comparing import compare, for_the_page
from ...runtime.sweeps import connected, swept
from ..inputs import dial
from ..sockets import CATEGORY, SweepSocket, TraceSocket, WeightSocket, found_by


class LAGSSweep(io.ComfyNode):
    """Lists of settings, for which ComfyUI runs a sampler one after the other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSSweep",
            display_name="LAGS Sweep",
            category=CATEGORY,
            description="Runs a sampler once for every combination of settings, and first of all "
            "plain. Connect its outputs to the inputs of the same names of KSampler (LAGS), and "
            "look at the images with LAGS Compare.",
            **found_by(
                "xy plot, x/y plot, parameter sweep, grid search, tune strength, try strengths, "
                "参数扫描, 调强度, 对比"
            ),
            inputs=[
                io.String.Input(
                    "strengths",
                    default="0.3, 1, 3",
                    tooltip="Write values for the sampler's strength, separated by commas. "
                    "Strength 0, the plain image, is always there and needs no entry.",
                ),
                io.String.Input(
                    "c",
                    display_name="uncertainty coefficient c",
                    default="10",
                    tooltip="Write values for c, separated by commas. Leave one value unless you "
                    "compare them: all combinations are run.",
                ),
                io.String.Input(
                    "modes",
                    default=MODES[0],
                    tooltip="Write the modes to run, separated by commas: balanced, fast, paper.",
                ),
                io.String.Input(
                    "seeds",
                    default="1, 2",
                    tooltip="Write whole numbers, separated by commas. One image proves little: "
                    "take two seeds or more, or a batch.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="strength",
                    is_output_list=True,
                    tooltip="For strength of the sampler.",
                ),
                io.Float.Output(
                    display_name="c", is_output_list=True, tooltip="For c of the sampler."
                ),
                io.Combo.Output(
                    display_name="mode",
                    options=list(MODES),
                    is_output_list=True,
                    tooltip="For mode of the sampler.",
                ),
                io.Int.Output(
                    display_name="seed", is_output_list=True, tooltip="For seed of the sampler."
                ),
                SweepSocket.Output(display_name="sweep", tooltip="For LAGS Compare."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def execute(cls, **widgets: str) -> io.NodeOutput:
        sweep = swept(**widgets, taken=connected(cls.hidden.prompt, cls.hidden.unique_id))
        return io.NodeOutput(*sweep.lists(), sweep)


class LAGSCompare(io.ComfyNode):
    """The images of a sweep in one picture, with their scores."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSCompare",
            display_name="LAGS Compare",
            category=CATEGORY,
            description="Draws all images of a sweep into one, plain first, with rows and columns "
            "named by their settings, and score and log w under each. Click to enlarge.",
            **found_by(
                "xy plot, image grid, contact sheet, compare images, scores, 图像对比, 网格图"
            ),
            inputs=[
                io.Image.Input(
                    "images", tooltip="Connect VAE Decode of the sampler that the sweep runs."
                ),
                SweepSocket.Input("sweep", tooltip="Connect sweep of LAGS Sweep."),
                WeightSocket.Input(
                    "weight",
                    optional=True,
                    tooltip="Connect a weight for the scores under the images: any Weight node, "
                    "also another one than guided them.",
                ),
                TraceSocket.Input(
                    "traces",
                    optional=True,
                    tooltip="Connect trace of the sampler: adds cost to the table, and tells which "
                    "strength an automatic one was.",
                ),
                io.Int.Input(
                    "size",
                    **dial(256, 64, 2048, 16),
                    tooltip="Set the pixels of an image's longer side. Less is drawn where the "
                    "whole would be larger than 8192.",
                ),
                io.Combo.Input(
                    "theme", options=list(THEMES), tooltip="Choose the colours around the images."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="All images in one."),
                io.String.Output(
                    display_name="table",
                    tooltip="Settings, scores and cost of every image; Preview as Text (Preview "
                    "Any) shows it.",
                ),
            ],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: list[Tensor],
        sweep: list[Any],
        size: list[int],
        theme: list[str],
        weight: list[Any] | None = None,
        traces: list[Any] | None = None,
    ) -> io.NodeOutput:
        judge = weight[0] if weight else None
        check_connected(images=images, sweep=sweep[0])
        judge = None if judge is None else as_weight(judge)
        picture, table = compare(sweep[0], images, judge, traces or [], size[0], theme[0])
        shown = {"text": [table], "lags_compare": [for_the_page(picture)]}
        return io.NodeOutput(picture, table, ui=shown)
