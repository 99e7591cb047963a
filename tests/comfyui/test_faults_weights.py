"""Full runs with weights that break on the way, and with models moved off between the steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.model_management as mm
import comfy.samplers
import pytest
import torch
from lags_pack.guidance import WeightError
from lags_pack.rewards import Weight
from lags_pack.tests.comfyui.faults import (
    Runs,
    Tapped,
    at,
    between_steps,
    is_loaded,
    leftovers,
    loaded_networks,
)
from lags_pack.tests.comfyui.guided import with_lora
from torch import Tensor, nn

STEPS = 3
WAYS = ("balanced", "fast", "paper", "DPS", "particles lags", "particles fk")
VALUES_ONLY = ("particles fk",)


class Steps:
    """Which step a run is in, from 1."""

    def __init__(self, model: Any) -> None:
        self.now = 1
        self.model = between_steps(model, self._count)

    def _count(self, step: int) -> None:
        self.now = step + 2


def looked_at(runs: Runs, way: str) -> list[int]:
    """The steps in which a run looks at its weight."""
    steps, seen = Steps(runs.case.model), set()

    def note(place: str, _: int) -> None:
        if place == "weight" and steps.now <= STEPS:
            seen.add(steps.now)

    with runs.places.failing(note):
        runs(way, model=steps.model)
    return sorted(seen)


def sigma_of(runs: Runs, step: int) -> float:
    """The noise level at which a step begins."""
    settings = runs.case.settings
    how = {"sampler": settings["sampler_name"], "scheduler": settings["scheduler"]}
    sampler = comfy.samplers.KSampler(runs.case.model, STEPS, "cpu", **how)
    return float(sampler.sigmas[step - 1])


def picked(spoiled: Callable[[Tensor], Tensor], index: int | None) -> Callable[[Tensor], Tensor]:
    """A score with one entry spoiled, or all."""

    def spoil(score: Tensor) -> Tensor:
        entries = enumerate(score)
        return torch.stack([spoiled(s) if index in (None, i) else s for i, s in entries])

    return spoil


SPOILED = {
    "nan": lambda score: score * math.nan,
    "inf": lambda score: score * 0 + math.inf,
    "nan gradient": lambda score: score + (score * 0).sqrt(),
}


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *(("nan", way) for way in WAYS),
        ("inf", "balanced"),
        ("inf", "particles fk"),
        *(("nan gradient", way) for way in ("balanced", "fast", "particles lags", "particles fk")),
    ],
)
def test_numbers_that_are_not_finite_stop_the_run_with_their_place(runs, kind, way):
    """At one step and in one image only: the whole batch stops, as none would be trustworthy."""
    if kind == "nan gradient" and way in VALUES_ONLY:
        runs.reward.spoil = picked(SPOILED[kind], 1)
        try:
            assert torch.equal(runs(way), runs.whole(way)), "it asks for no gradient"
        finally:
            runs.reward.spoil = None
        return
    runs.whole(way)
    before = leftovers(runs.case)
    for step in looked_at(runs, way):
        steps = Steps(runs.case.model)

        def fault(place: str, _: int, steps: Steps = steps, step: int = step) -> None:
            runs.reward.spoil = picked(SPOILED[kind], 1) if steps.now == step else None

        with runs.places.failing(fault), pytest.raises(WeightError) as caught:
            runs(way, model=steps.model)
        runs.reward.spoil = None
        message = str(caught.value)
        what = "NaN or +inf" if way in VALUES_ONLY else "not finite"
        assert "Weight 'tapped redness'" in message and what in message
        assert f"sigma = {sigma_of(runs, step):.4g}." in message
        assert f"in step {step} of {STEPS}." in message and message.count("in step") == 1
        assert "Lower its strength" in message
    runs.check_clean(way, before)


class Broken(RuntimeError):
    """Of a reward's own kind, with more than words in it."""

    def __init__(self, layer: int, what: str) -> None:
        super().__init__(layer, what)


ERRORS = [
    (ValueError("no such hue: 400"), "ValueError: no such hue: 400."),
    (KeyError("hue"), "KeyError: 'hue'."),
    (Broken(3, "mat1 and mat2"), "Broken: (3, 'mat1 and mat2')."),
]


@pytest.mark.parametrize(
    ("way", "error", "words"),
    [
        *(("balanced", *error) for error in ERRORS),
        *((way, *ERRORS[1]) for way in WAYS if way != "balanced"),
    ],
)
def test_a_weight_that_raises_is_named_with_its_own_error(runs, way, error, words):
    order, before = runs.order(way), leftovers(runs.case)
    looks = [number for number, place in enumerate(order) if place == "weight"]
    backwards = [number for number, place in enumerate(order) if place == "backward"]
    middle = backwards[len(backwards) // 2 :][:1]  # only in the backward pass

    def fault() -> None:
        raise error

    for k in [looks[0], looks[len(looks) // 2], *middle]:
        with runs.places.failing(at(k, fault)), pytest.raises(WeightError) as caught:
            runs(way)
        assert len(runs.places.passed) == k + 1, "nothing was done after it"
        assert caught.value.__cause__ is error
        functions = [entry.name for entry in caught.traceback]
        assert "fault" in functions, "the traceback shows where in the weight it was"
        message = str(caught.value)
        assert f"Weight 'tapped redness' failed with {words}" in message
        assert "leave it out" in message and f" of {STEPS}." in message
    runs.check_clean(way, before)


def free_memory(*kept: Any) -> None:
    mm.free_memory(1e30, mm.get_torch_device(), kept)


def unload_only(module: nn.Module) -> None:
    loaded = mm.current_loaded_models
    free_memory(*(entry for entry in loaded if getattr(entry.model, "model", 0) is not module))


class WithModel(Tapped):
    """A reward with a network of its own, which is to be loaded at every look."""

    def __init__(self, places: Any) -> None:
        super().__init__(places)
        with torch.inference_mode(False):
            self.net = nn.Linear(3, 1)
        self.modules = (self.net,)


@pytest.mark.parametrize(
    ("way", "what"),
    [
        *(("balanced", what) for what in ("all", "memory", "model", "vae", "reward")),
        *((way, "all") for way in ("fast", "DPS", "LiDAR")),
        ("particles lags", "model"),
        ("particles lags", "reward"),
        ("particles das", "all"),
    ],
)
def test_models_moved_off_between_two_steps_come_back(runs, tiny_files, way, what):
    """With a LoRA, which is off whenever the model is: its images tell."""
    reward = WithModel(runs.places)
    model = with_lora(runs.case.model, tiny_files["lora_sd15"])
    net, vae = runs.case.model.model, runs.case.vae.first_stage_model
    off = {
        "all": mm.unload_all_models,
        "memory": free_memory,
        "model": lambda: unload_only(net),
        "vae": lambda: unload_only(vae),
        "reward": lambda: unload_only(reward.net),
    }[what]
    needed = {"model": net, "decode": vae, "weight": reward.net, "backward": reward.net}
    gone = []

    def check(place: str, _: int) -> None:
        assert is_loaded(needed[place]), f"{place} without its model"

    def act(step: int) -> None:
        before = len(loaded_networks())
        off()
        gone.append(before - len(loaded_networks()))

    own = Runs(replace(runs.case, model=model), runs.places)
    own.reward, own.weight = reward, Weight.of(reward, 60.0)
    expected = own.whole(way)
    assert not torch.equal(expected, runs.whole(way)), "the LoRA acts"
    with runs.places.failing(check):
        done = own(way, model=between_steps(model, act))
    assert torch.equal(done, expected)
    assert len(gone) == STEPS and max(gone) >= 1
    assert torch.equal(runs(way), runs.whole(way)), "the model without the LoRA is as it was"
