"""Faults put into a run: the places where it can fail, what lies between its steps, leftovers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as mm
import torch
from comfy.patcher_extension import WrappersMP
from lags_pack.guidance import DPS, FreeDoM, LiDAR
from lags_pack.guidance.methods.freedom import Window
from lags_pack.rewards import ColourReward, Weight
from lags_pack.runtime import lookahead
from lags_pack.runtime.decoders import DECODERS, Decoding
from lags_pack.runtime.options import Options
from torch import Tensor, nn

from . import prompts
from .guided import Case

Fault = Callable[[str, int], None]
RIVALS: dict[str, Callable[[], Any]] = {
    "DPS": lambda: DPS(0.1, False),
    "FreeDoM": lambda: FreeDoM(0.1, 0.1, Window(0.7, 0.3, 0.3, 2)),
    "LiDAR": lambda: LiDAR(1.0, 0.5, 2, 2, 1),
}
PARTICLES = {"strength": 1.0, **prompts.PARTICLES, "particles_at_once": 2}


def at(wanted: int, act: Callable[[], None]) -> Fault:
    """A fault at one number of the places that a run comes by."""

    def fault(_: str, number: int) -> None:
        if number == wanted:
            act()

    return fault


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("injected")


class Places:
    """What a run comes by, in order: 'model', 'decode', 'weight' and the weight's 'backward'.

    Attributes:
        passed: their names.
        fault: called with the name and number of each, to do what goes wrong there.
    """

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.fault: Fault | None = None

    def __call__(self, place: str) -> None:
        number = len(self.passed)
        self.passed.append(place)
        if self.fault is not None:
            self.fault(place, number)

    @contextmanager
    def failing(self, fault: Fault | None) -> Iterator[None]:
        """Inside it a run fails so; `passed` is of this run."""
        self.passed, self.fault = [], fault
        try:
            yield
        finally:
            self.fault = None


class Tapped(ColourReward):
    """Redness, telling of every look and every backward pass; `spoil` may change the score."""

    spoil: Callable[[Tensor], Tensor] | None = None

    def __init__(self, places: Places) -> None:
        super().__init__("hue", 0.0)
        self.places, self.name = places, "tapped redness"

    def __call__(self, images: Tensor) -> Tensor:
        self.places("weight")
        if images.requires_grad:
            images = Told.apply(images, self.places)
        score = super().__call__(images)
        return score if self.spoil is None else self.spoil(score)


class Told(torch.autograd.Function):
    """The identity, whose backward pass is a place."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, places: Places) -> Tensor:
        ctx.places = places
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.places("backward")
        return grad, None


def last_layer(net: nn.Module) -> nn.Module:
    """The last convolution or linear layer: inside of everything that is put around a network."""
    return [part for part in net.modules() if isinstance(part, (nn.Conv2d, nn.Linear))][-1]


@contextmanager
def tapped(case: Case) -> Iterator[Places]:
    """The places of a case's runs, their model and decoder told of from within."""
    places, net = Places(), case.model.model.diffusion_model
    hooks = [last_layer(net).register_forward_pre_hook(lambda *_: places("model"))]
    decoder = getattr(case.vae.first_stage_model, "taesd_decoder", None)
    if decoder is not None:
        hook = last_layer(decoder).register_forward_pre_hook(lambda *_: places("decode"))
        hooks.append(hook)
    try:
        yield places
    finally:
        for hook in hooks:
            hook.remove()


def between_steps(model: Any, act: Callable[[int], None]) -> Any:
    """A clone of a MODEL with something to be done after each step, given the step from 0."""

    def sample(executor: Any, *args: Any, **named: Any) -> Any:
        before, callback, after = args[:3], args[3], args[4:]

        def after_step(step: int, *others: Any) -> None:
            if callback is not None:
                callback(step, *others)
            act(step)

        return executor(*before, after_step, *after, **named)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "between steps", sample)
    return clone


def loaded_networks() -> list[nn.Module]:
    patchers = [entry.model for entry in mm.current_loaded_models]
    return [patcher.model for patcher in patchers if patcher is not None]


def is_loaded(net: nn.Module) -> bool:
    return any(one is net for one in loaded_networks())


def leftovers(case: Case) -> list[Any]:
    """What a failed run could leave on the user's model and VAE, and in ComfyUI."""
    wrappers = {
        kind: sorted(map(str, keys)) for kind, keys in case.model.wrappers.items() if any(keys)
    }
    options = repr(sorted(case.model.model_options))
    nets = [_patches_of(net) for net in (case.model.model, case.vae.first_stage_model)]
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    return [nets, wrappers, options, modes, mm.processing_interrupted()]


def _patches_of(net: nn.Module) -> list[Any]:
    """All that guidance puts on a network for a while; not what ComfyUI notes of its loading."""
    found: list[Any] = []
    for name, part in net.named_modules():
        hooks = ("weight_function", "bias_function")
        found += [(name, key) for key in ("forward", *hooks) if key in vars(part)]
        found += [(name, key, [id(f) for f in getattr(part, key, [])]) for key in hooks]
        found += [(name, key, id(value)) for key, value in part._parameters.items()]
        found += [(name, key, id(value)) for key, value in part._buffers.items()]
        found.append((name, len(part._forward_hooks), len(part._forward_pre_hooks)))
    return found


class Runs:
    """One case, sampled in every way, each with a weight that tells of its looks."""

    def __init__(self, case: Case, places: Places) -> None:
        self.case, self.places = case, places
        self.reward = Tapped(places)
        self.weight = Weight.of(self.reward, 60.0)
        self._whole: dict[str, Tensor] = {}
        self._orders: dict[str, list[str]] = {}

    def __call__(self, way: str, **changes: Any) -> Tensor:
        """The samples of a run: a mode, a rival's or a decoder's name, or 'particles METHOD'."""
        if way.startswith("particles"):
            inputs = {**PARTICLES, "weight": self.weight, "method": way.split()[1], **changes}
            return self.case.particles(**inputs)
        chosen: dict[str, Any] = {"mode": way}
        if way in RIVALS:
            lookahead.cached.clear()  # each run is the first
            chosen = {"method": RIVALS[way]()}
        elif way in DECODERS:
            chosen = {"options": Options(decoding=Decoding(way))}
        return self.case.lags(weight=self.weight, **chosen, **changes)[0]

    def whole(self, way: str) -> Tensor:
        if way not in self._whole:
            with self.places.failing(None):
                self._whole[way] = self(way)
            self._orders[way] = self.places.passed
        return self._whole[way]

    def plain(self, way: str) -> Tensor:
        with self.places.failing(None):
            return self(way, strength=0.0)

    def order(self, way: str) -> list[str]:
        self.whole(way)
        return self._orders[way]

    def check_clean(self, way: str, before: list[Any]) -> None:
        """Nothing is left behind, and the next run is the same to the last bit."""
        assert leftovers(self.case) == before
        with self.places.failing(None):
            assert torch.equal(self(way), self.whole(way))
