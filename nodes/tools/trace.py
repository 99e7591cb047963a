"""LAGS Trace Plot: what runs did, as an image and as a file."""

from __future__ import annotations

from comfy_api.latest import io

from ...guidance import Trace
from ...plots.trace import draw
from ...runtime.checks import check_connected, filled
from ...runtime.trace_files import EXPORTS, write
from ..inputs import look_inputs
from ..sockets import CATEGORY, TraceSocket, found_by

MOST_TRACES = 8


class LAGSTracePlot(io.ComfyNode):
    """What runs did, as an image and as a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        socket = TraceSocket.Input(
            "trace", tooltip="Connect the trace of a LAGS sampler; the next socket appears."
        )
        return io.Schema(
            node_id="LAGSTracePlot",
            display_name="LAGS Trace Plot",
            category=CATEGORY,
            description="Draws log w, alpha, size of the shift and time along one or several runs, "
            "and writes the numbers into ComfyUI's output folder.",
            **found_by("guidance curves, log, chart, csv, plot trace, 曲线, 图表"),
            inputs=[
                io.Autogrow.Input(
                    "traces",
                    template=io.Autogrow.TemplatePrefix(
                        socket, prefix="trace", min=1, max=MOST_TRACES
                    ),
                    tooltip="Connect the runs to compare.",
                ),
                *look_inputs(),
                io.Combo.Input(
                    "export",
                    options=list(EXPORTS),
                    tooltip="Choose a format to write the numbers to a file too.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="lags/trace",
                    tooltip="Choose the name of the file below ComfyUI's output folder.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The curves."),
                io.String.Output(display_name="file", tooltip="What was written; empty for none."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        traces: dict[str, Trace],
        axis: str,
        theme: str,
        scale: float,
        export: str,
        filename_prefix: str,
    ) -> io.NodeOutput:
        connected = filled(**traces)
        check_connected(**connected)
        runs = list(connected.values())
        image = draw(runs, axis, theme, scale)
        file = "" if export == EXPORTS[0] else write(runs, export, filename_prefix)
        return io.NodeOutput(image, file, ui={"text": [file]} if file else None)
