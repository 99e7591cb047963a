"""What LAGS Options overrides, and guidance on a MODEL for the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ..guidance import (
    AUTO_DAMPING_PER_C,
    CHORD_DAMPING_PER_C,
    LAGS,
    MODES,
    AutoSchedule,
    Balanced,
    ChordSchedule,
    ConstantSchedule,
    DifferenceStep,
    HardGateSchedule,
    Paper,
    Schedule,
    Trace,
    UncertaintySchedule,
    preset,
)
from ..rewards import Weight
from ..rewards.base import check_strength
from .adapters import as_method
from .checks import without_gradient
from .decoded_weight import DecodedLogWeight
from .decoders import AS_NEEDED, DECODERS, Decoding, decoder_of
from .price import Price, price_of
from .run import Guidance, difference_step

SCHEDULES = ("from mode", "chord", "auto", "uncertainty", "hard gate", "constant")
SECOND_FORWARDS = ("from mode", "full", "conditional")
FROM_MODE = -1.0


@dataclass(frozen=True)
class Options:
    """What LAGS Options overrides; -1 or 'from mode' leaves the mode's own choice."""

    schedule: str = SCHEDULES[0]
    sigma_gate: float = 0.56
    skip_below: float = FROM_MODE
    shift_limit: float = 0.0
    relative_step: float = 0.0
    absolute_step: float = 0.0
    decoding: Decoding = Decoding()
    second_forward: str = SECOND_FORWARDS[0]
    reuse_gradient: int = 0

    @classmethod
    def of(cls, widgets: dict[str, Any]) -> Options:
        """From the widgets of LAGS Options, by their names."""
        numbers = ("sigma_gate", "skip_below", "shift_limit", "relative_step", "epsilon")
        decoder = str(widgets.get("decoder", DECODERS[0]))
        return cls(
            str(widgets["schedule"]),
            *(float(widgets[name]) for name in numbers),
            Decoding(decoder, int(widgets.get("decode_size", AS_NEEDED))),
            str(widgets.get("second_forward", SECOND_FORWARDS[0])),
            int(widgets.get("reuse_gradient", 0)),
        )

    def difference(self, step: DifferenceStep) -> DifferenceStep:
        """The finite difference with these choices made."""
        relative, absolute = self.relative_step or None, self.absolute_step or None
        return replace(step, relative=relative, absolute=absolute)

    def applied_to(self, method: LAGS, c: float) -> LAGS:
        """The mode's method with these choices made."""
        method = replace(
            method,
            difference=self.difference(method.difference),
            shift_limit=self.shift_limit or None,
            reuse=self.reuse_gradient or method.reuse,
        )
        if self.reuse_gradient and isinstance(method, Balanced):
            method = replace(method, serves=1.0)  # a second evaluation in every guided step
        if self.skip_below != FROM_MODE:
            method = replace(method, skip_below=self.skip_below)
        if self.second_forward != SECOND_FORWARDS[0]:
            method = replace(method, conditional=self.second_forward == "conditional")
        if self.schedule == SCHEDULES[0]:
            return method
        schedule = self._schedule(c)
        if schedule.needs_shift and not method.compares:
            # It measures <v, J v>, so it needs the second evaluation that `fast` leaves out.
            method = Paper(**{field.name: getattr(method, field.name) for field in fields(method)})
        return replace(method, schedule=schedule)

    def _schedule(self, c: float) -> Schedule:
        if self.schedule == "chord":
            return ChordSchedule(CHORD_DAMPING_PER_C * c)
        if self.schedule == "auto":
            return AutoSchedule(AUTO_DAMPING_PER_C * c)
        if self.schedule == "uncertainty":
            return UncertaintySchedule(c)
        if self.schedule == "hard gate":
            return HardGateSchedule(self.sigma_gate)
        if self.schedule == "constant":
            return ConstantSchedule()
        raise ValueError(f"schedule is {self.schedule!r}; expected one of {SCHEDULES}.")


def decoding_of(options: Options | None, mode: str, other_method: bool) -> Decoding:
    """Through what the weight looks: the paper's mode takes the VAE at full size by itself."""
    decoding = (options or Options()).decoding
    return decoding.faithful() if mode == "paper" and not other_method else decoding


@dataclass(frozen=True, kw_only=True)
class GuidanceInputs:
    """What guidance asks for, by the names of the nodes' inputs."""

    model: Any
    vae: Any
    weight: Any
    strength: float = 1.0
    mode: str = MODES[0]
    c: float = 10.0
    options: Options | None = None
    method: Any = None


def guided(inputs: GuidanceInputs, weight: Weight, trace: Trace) -> Any:
    """The MODEL with guidance; the MODEL itself, untouched, where the strength is 0.

    Args:
        inputs: of the node.
        weight: what came through its socket, as a weight.
        trace: of the run; a method from the socket renames it.

    Raises:
        ValueError: a number out of range, or a VAE of another family than the model.
    """
    check_strength(inputs.strength, weight.name)
    options, c = inputs.options or Options(), inputs.c
    lags = options.applied_to(preset(inputs.mode, c, difference_step(inputs.model)), c)
    method = lags if inputs.method is None else as_method(inputs.method)
    if inputs.strength == 0 or weight.is_off:
        return inputs.model
    weight = weight.without_off
    if not weight.differentiable and method.needs_gradient:
        raise ValueError(
            f"Weight '{without_gradient(weight)}' has no gradient, which guidance needs: sample "
            "with Particle KSampler (method smc or fk) or Search KSampler, which need none, or "
            "take it out of the weight."
        )
    weight = weight.power(inputs.strength)
    decoding = decoding_of(options, inputs.mode, inputs.method is not None)
    if inputs.method is not None:
        trace.label = f"{method.name}, {weight.name}"
    return Guidance(method, weight, inputs.vae, trace, decoding).apply(inputs.model)


def prices_of(
    model: Any, vae: Any, weight: Weight, shape: Sequence[int], options: Options | None
) -> dict[Decoding, Price]:
    """What a weight costs through each decoder that a mode may choose, as far as it is known.

    Args:
        model: a MODEL.
        vae: its own.
        weight: log w on images.
        shape: of the latents.
        options: of LAGS Options.

    Raises:
        ValueError, ModelFileError: the latents have no such decoder.
    """
    found = {}
    for decoding in {decoding_of(options, mode, False) for mode in MODES}:
        decoder = decoder_of(decoding, vae, model)
        log_weight = DecodedLogWeight(decoder, weight.without_off, decoding.side_for(weight))
        price = price_of(model, log_weight, shape)
        if price is not None:
            found[decoding] = price
    return found
