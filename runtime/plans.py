"""What guidance will do at every noise level: for the visualizer's image and for the page."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..guidance import (
    ConstantSchedule,
    HardGateSchedule,
    Plan,
    Schedule,
    UncertaintySchedule,
    plan,
    preset,
)
from ..guidance.ve import NoiseScaling, per_sample
from .checks import numbers
from .options import Options
from .price import Price, cost_in_words
from .run import difference_step


def planned(
    model: Any,
    sigmas: Tensor,
    mode: str,
    c: float,
    nats: float,
    options: Options | None,
    branches: int = 2,
) -> Plan:
    """The plan of a mode at these noise levels.

    Args:
        model: a MODEL; None plans as for SD and SDXL.
        sigmas: noise levels, the last one included.
        mode: one of ``MODES``.
        c: of the mode.
        nats: standard deviation of log w.
        options: of LAGS Options.
        branches: of the model in one evaluation.
    """
    scaling: NoiseScaling = _variance_exploding
    step = None
    if model is not None:
        scaling = model.get_model_object("model_sampling").noise_scaling
        step = difference_step(model)
    method = (options or Options()).applied_to(preset(mode, c, step), c)
    starts = sigmas[:-1].detach().float().cpu()  # the run ends at the last one
    return plan(method, starts, scaling, nats, branches)


def _variance_exploding(sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
    """The forward process of SD and SDXL, for SIGMAS without a model."""
    return latent + per_sample(sigma, noise) * noise


def other_schedules(text: str) -> dict[str, Schedule]:
    """What the chosen schedule is drawn beside."""
    others: dict[str, Schedule] = {
        f"c = {c:g}": UncertaintySchedule(c) for c in numbers(text, "values of c")
    }
    return {**others, "hard gate": HardGateSchedule(), "constant": ConstantSchedule()}


def in_words(made: Plan, label: str, price: Price | None = None) -> str:
    """What a plan comes to, with a price that is in it already."""
    tilted = ", the initial noise tilted too" if made.start_calls else ""
    first = made.sigma[made.active]
    span = f" (sigma {float(first.max()):.4g} to {float(first.min()):.4g})" if len(first) else ""
    return (
        f"{label}: {int(made.active.sum())} of {len(made.sigma)} steps guided{span}{tilted}\n"
        f"{made.total_calls} model calls, {cost_in_words(made, price)}\n"
        "Counted at one evaluation per step; samplers with several (heun, dpm_2, sde) take more."
    )


def curve(made: Plan) -> dict[str, Any]:
    """A plan in JSON's terms, for the panel."""
    return {
        "sigma": made.sigma.tolist(),
        "alpha": made.unskipped_alpha.tolist(),
        "factor": (made.sigma_ve**2 * made.unskipped_alpha).tolist(),
        "active": made.active.tolist(),
        "model_calls": made.total_calls,
        "model_backwards": made.total_backwards,
        "weight_calls": made.weight_calls,
        "relative_cost": made.relative_cost,
        "is_priced": made.is_priced,
    }
