"""Schedules and runs as pictures."""

from __future__ import annotations

import csv
import io as textio
import json
import os
from contextlib import suppress
from typing import Any

import comfy.samplers
import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ...guidance import (
    MODES,
    ConstantSchedule,
    HardGateSchedule,
    Plan,
    Schedule,
    Trace,
    UncertaintySchedule,
    compared,
    plan,
    preset,
)
from ...guidance.ve import NoiseScaling
from ...plots import schedule as schedule_plot
from ...plots import trace as trace_plot
from ...plots.style import AXES, THEMES
from ...runtime.checks import check_connected, check_denoise, filled
from ...runtime.last_model import remember
from ...runtime.page import shown
from ...runtime.run import difference_step
from ..samplers.ksampler import Options, confidence_input, options_input, sampler_inputs
from ..sockets import CATEGORY, TraceSocket
from ..weights.inputs import numbers

EXPORTS = ("none", "csv", "json")
MOST_TRACES = 8


def look_inputs() -> list[Any]:
    """How a picture is drawn."""
    return [
        io.Combo.Input("axis", options=list(AXES), tooltip="Along the bottom: steps, or sigma."),
        io.Combo.Input("theme", options=list(THEMES), tooltip="Colours of the picture."),
        io.Float.Input(
            "scale",
            default=1.0,
            min=0.25,
            max=4.0,
            step=0.25,
            tooltip="1 is 1024 x 768 pixels.",
        ),
    ]


def as_sampled(model: Any, steps: int, sampler: str, scheduler: str, denoise: float) -> Tensor:
    """The noise levels that KSampler would go through, by its own code."""
    check_denoise(denoise, steps)
    sigmas: Tensor = comfy.samplers.KSampler(
        model, steps, "cpu", sampler=sampler, scheduler=scheduler, denoise=denoise
    ).sigmas
    return sigmas.float()


def variance_exploding(sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
    """The forward process of SD and SDXL, for SIGMAS without a model."""
    return latent + sigma.reshape(-1, 1, 1, 1) * noise


def other_schedules(text: str) -> dict[str, Schedule]:
    """What the chosen schedule is drawn beside."""
    others: dict[str, Schedule] = {
        f"c = {c:g}": UncertaintySchedule(c) for c in numbers(text, "values of c")
    }
    return {**others, "hard gate": HardGateSchedule(), "constant": ConstantSchedule()}


def in_words(made: Plan, label: str) -> str:
    """What a plan comes to."""
    tilted = ", the first noise tilted too" if made.start_calls else ""
    first = made.sigma[made.active]
    span = f" (sigma {float(first.max()):.4g} to {float(first.min()):.4g})" if len(first) else ""
    return (
        f"{label}: {int(made.active.sum())} of {len(made.sigma)} steps guided{span}{tilted}\n"
        f"{made.total_calls} model calls, {made.relative_cost:.2f} x plain sampling, plus "
        f"{made.weight_calls} gradients of the weight\n"
        "Counted at one evaluation per step; samplers with several (heun, dpm_2, sde) take more."
    )


class LAGSScheduleVisualizer(io.ComfyNode):
    """What guidance will do at every noise level, before anything is sampled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSScheduleVisualizer",
            display_name="LAGS Schedule Visualizer",
            category=CATEGORY,
            description="Draws how far the guidance is trusted at every step, which steps stay "
            "plain, and what that costs. Connect the model, or SIGMAS.",
            inputs=[
                io.Model.Input("model", optional=True, tooltip="Gives the noise levels."),
                io.Sigmas.Input(
                    "sigmas", optional=True, tooltip="Noise levels instead of scheduler and steps."
                ),
                *sampler_inputs(),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Number of steps."),
                io.Float.Input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="As in KSampler."
                ),
                io.Combo.Input("mode", options=list(MODES), tooltip="As in KSampler (LAGS)."),
                confidence_input(),
                io.Float.Input(
                    "nats",
                    display_name="deviation of log w",
                    default=3.0,
                    min=0.0,
                    max=1000.0,
                    step=0.5,
                    tooltip="For balanced mode, whose trust is measured in the run: how many nats "
                    "log w varies by over what the model draws. An automatic strength is this "
                    "number.",
                ),
                io.String.Input(
                    "compare",
                    default="1, 10, 100",
                    tooltip="Values of c to draw the paper's schedule for, beside the chosen one.",
                ),
                *look_inputs(),
                options_input(),
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
        axis: str,
        theme: str,
        scale: float,
        model: Any = None,
        sigmas: Tensor | None = None,
        options: Options | None = None,
    ) -> io.NodeOutput:
        check_connected(**filled(model=model, sigmas=sigmas, options=options))
        if model is None and sigmas is None:
            raise ValueError("There are no noise levels: connect a model, or SIGMAS.")
        remember(cls.hidden.unique_id, model, None if sigmas is None else sigmas.detach().cpu())
        if sigmas is None:
            sigmas = as_sampled(model, steps, sampler_name, scheduler, denoise)
        scaling: NoiseScaling = variance_exploding
        step = None
        if model is not None:
            scaling = model.get_model_object("model_sampling").noise_scaling
            step = difference_step(model)
        method = (options or Options()).applied_to(preset(mode, c, step), c)
        made = plan(method, sigmas.detach().float().cpu(), scaling, nats)
        others = compared(other_schedules(compare), made.sigma_ve, nats)
        image = schedule_plot.draw(made, mode, others, axis, theme, scale)
        text = in_words(made, mode)
        return io.NodeOutput(image, sigmas, text, ui={"text": [text], "lags_plan": [curve(made)]})


def curve(made: Plan) -> dict[str, Any]:
    """A plan in JSON's terms, for the panel."""
    return {
        "sigma": made.sigma.tolist(),
        "alpha": made.unskipped_alpha.tolist(),
        "factor": (made.sigma_ve**2 * made.unskipped_alpha).tolist(),
        "active": made.active.tolist(),
        "model_calls": made.total_calls,
        "weight_calls": made.weight_calls,
        "relative_cost": made.relative_cost,
    }


class LAGSTracePlot(io.ComfyNode):
    """What runs did, as a picture and as a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        socket = TraceSocket.Input("trace", tooltip="Of a LAGS sampler; the next socket appears.")
        return io.Schema(
            node_id="LAGSTracePlot",
            display_name="LAGS Trace Plot",
            category=CATEGORY,
            description="Draws log w, trust, size of the shift and time along one or several runs, "
            "and writes the numbers into ComfyUI's output folder.",
            inputs=[
                io.Autogrow.Input(
                    "traces",
                    template=io.Autogrow.TemplatePrefix(
                        socket, prefix="trace", min=1, max=MOST_TRACES
                    ),
                    tooltip="Runs to compare.",
                ),
                *look_inputs(),
                io.Combo.Input(
                    "export", options=list(EXPORTS), tooltip="Write the numbers as a file, too."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="lags/trace",
                    tooltip="Name of the file below ComfyUI's output folder.",
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
        image = trace_plot.draw(runs, axis, theme, scale)
        file = "" if export == EXPORTS[0] else write(runs, export, filename_prefix)
        return io.NodeOutput(image, file, ui={"text": [file]} if file else None)


def write(runs: list[Trace], export: str, prefix: str) -> str:
    """Write traces below ComfyUI's output folder; the file's name below it.

    Raises:
        ValueError: the prefix leads out of the output folder.
        OSError: the disk is full, or the folder may not be written to; no part of a file stays.
    """
    output = folder_paths.get_output_directory()
    try:
        folder, name, number, below, _ = folder_paths.get_save_image_path(prefix, output)
    except OSError as error:
        raise _not_written(prefix, error) from error
    except Exception as error:  # ComfyUI raises a bare Exception
        raise ValueError(
            f"filename_prefix is {prefix!r}, which leads out of {output}; expected a name below it."
        ) from error
    text = (
        as_csv(runs) if export == "csv" else json.dumps([run.to_dict() for run in runs], indent=1)
    )
    file = f"{name}_{number:05}_.{export}"
    path = os.path.join(folder, file)
    part = f"{path}.part"
    try:
        with open(part, "w", encoding="utf-8", newline="") as target:
            target.write(text)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            os.remove(part)
        raise _not_written(path, error) from error
    return os.path.join(below, file).replace(os.sep, "/")


def _not_written(path: str, error: OSError) -> OSError:
    """What keeps a file from being written, and what that means for the run."""
    return OSError(
        f"The trace could not be written to {path}: {error.strerror or error}. Make room there, "
        "choose another filename_prefix, or set export to none. The run itself is kept: queue "
        "again, and nothing is sampled anew."
    )


def as_csv(runs: list[Trace]) -> str:
    """One line per evaluation: run, number, and what the panel shows."""
    rows = []
    for run in runs:
        for i, record in enumerate(run.records, 1):
            rows.append({"run": run.label, "evaluation": i, **(shown(record) or {})})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    target = textio.StringIO()
    writer = csv.DictWriter(target, columns)
    writer.writeheader()
    writer.writerows(rows)
    return target.getvalue()
