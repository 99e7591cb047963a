"""Runs of a few steps: what would do nothing says so, distilled models are told from others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import comfy.samplers
import pytest
import torch
from comfyui_support.guided import Case, counted, flow_of
from comfyui_support.weighing import demo_case
from lags_pack.rewards import ColourReward, Weight
from lags_pack.runtime.run import kind_of
from torch import Tensor

BRIGHT = ColourReward("brightness")
NATS = 2.0


@pytest.fixture(scope="module")
def case() -> Case:
    """The demo model at cfg 1, four steps, eight images."""
    return demo_case(batch=8, steps=4, cfg=1.0, sampler_name="euler", scheduler="karras")


def drawn_by(model: Any, denoise: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """A MODEL whose network is a function of x and sigma."""
    clone = model.clone()

    def answer(apply_model: Any, args: dict[str, Any]) -> Tensor:
        return denoise(args["input"], args["timestep"].view(-1, 1, 1, 1))

    clone.set_model_unet_function_wrapper(answer)
    return clone


def finished(x: Tensor, sigma: Tensor) -> Tensor:
    """Where the probability flow of N(0, 1) leads to."""
    return x / (1 + sigma**2).sqrt()


def posterior_mean(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + sigma**2)


def lift(case: Case, model: Any, **changes: Any) -> tuple[float, Any]:
    """Of the brightness, in units of what a tilt by ``NATS`` gives it."""
    # To first order about grey, as guidance sees it; a pixel is a quarter of a latent, and a half.
    grey = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    (slope,) = torch.autograd.grad(BRIGHT(grey).sum(), grey)
    strength = NATS / float(slope.norm() / 4)
    weight = Weight.of(BRIGHT, strength)
    latents, trace = case.lags(model=model, weight=weight, **changes)
    plain = case.ksampler(model=model, **changes)
    scores = [BRIGHT(case.vae.decode(part).movedim(-1, 1)) for part in (latents, plain)]
    return strength * float((scores[0] - scores[1]).mean()) / NATS**2, trace


@pytest.mark.parametrize("sampler", ["euler", "lcm", "euler_ancestral"])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_a_distilled_model_is_guided_by_its_noise(case, sampler, steps):
    """Within a factor of two of what was asked for; 4 to 15 times too far before."""
    model = drawn_by(case.model, finished)
    found, trace = lift(case, model, sampler_name=sampler, steps=steps)
    assert 0.4 < found < 2.0
    assert trace.start is not None and trace.start.model_calls == 3


@pytest.mark.parametrize("steps", [1, 4])
def test_other_models_are_not(case, steps):
    model = drawn_by(case.model, posterior_mean)
    found, trace = lift(case, model, steps=steps)
    assert 0.7 < found < 1.3
    assert trace.start.model_calls == 3, "it was asked"


@pytest.mark.parametrize(
    ("changes", "calls"),
    [({"steps": 8}, 3), ({"steps": 9}, 2), ({"cfg": 2.0}, 2), ({"mode": "fast"}, None)],
)
def test_only_few_steps_without_guidance_ask(case, changes, calls):
    model, evaluations = counted(case.model)
    weight = Weight.of(BRIGHT, 3.0)
    _, trace = case.lags(model=model, weight=weight, **changes)
    assert trace.model_calls == len(evaluations)
    assert calls is None or trace.start.model_calls == calls


def test_the_demo_model_is_no_distilled_one(case):
    """What it draws in few steps does not hang on being asked."""
    weight = Weight.of(BRIGHT, 3.0)
    eight, _ = case.lags(weight=weight, steps=8)
    plain = case.ksampler(steps=8)
    assert float((BRIGHT(eight) - BRIGHT(plain)).mean()) > 0.02


KINDS = {
    **{"lcm": "redrawing", "euler_ancestral": "ancestral", "ddpm": "ancestral"},
    **{"euler": "plain", "ddim": "plain", "dpmpp_2m": None, "euler_cfg_pp": None},
}


@pytest.mark.parametrize("name", KINDS)
def test_the_kind_of_a_sampler(name):
    assert kind_of(comfy.samplers.sampler_object(name)) == KINDS[name]


def test_a_run_of_pure_noise_alone_says_so(case, caplog):
    """No mode, and no c, could act there."""
    with caplog.at_level(logging.WARNING):
        settings = {"model": flow_of(case.model), "scheduler": "simple", "steps": 1}
        _, trace = case.lags(weight=Weight.of(BRIGHT, 3.0), mode="balanced", **settings)
    assert "pure noise" in caplog.text and "changes next to nothing" not in caplog.text
    assert not trace.records and trace.model_calls == trace.unrecorded == 1


@pytest.mark.parametrize("mode", ["balanced", "fast", "paper"])
@pytest.mark.parametrize("steps", [1, 20])
def test_a_mode_that_would_do_nothing_says_so(case, mode, steps, caplog):
    with caplog.at_level(logging.WARNING):
        latents, _ = case.lags(weight=Weight.of(BRIGHT, 3.0), mode=mode, steps=steps)
    said = "changes next to nothing in these 1 steps" in caplog.text
    assert said == (mode != "balanced" and steps == 1)
    if said:
        assert "mode 'balanced' acts" in caplog.text.replace("only mode ", "mode ")
        assert (latents - case.ksampler(steps=steps)).abs().max() < 1e-3
