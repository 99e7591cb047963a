"""Guiders and samplers of other packs: guided as ComfyUI's own are, or refused by name."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfyui_support.executing import run_node
from comfyui_support.guided import REWARD, Case, on
from comfyui_support.weighing import case_of, demo_case
from lags_pack.guidance import DPS, FreeDoM, LiDAR, Trace, preset
from lags_pack.guidance.methods.freedom import Window
from lags_pack.rewards import Weight
from lags_pack.runtime import lookahead
from lags_pack.runtime.run import Guidance
from torch import Tensor


class PastWrappers(comfy.samplers.CFGGuider):
    """As NAG's: its call is its own evaluation, without ``outer_predict_noise``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.predict_noise(*args, **kwargs)


class OnItsOwn(comfy.samplers.CFGGuider):
    """Its call comes by no method of ComfyUI's guider at all."""

    def __call__(
        self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: int | None = None
    ) -> Tensor:
        conds = self.conds["negative"], self.conds["positive"]
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, *conds, self.cfg, model_options=model_options, seed=seed
        )


class ThroughWrappers(comfy.samplers.CFGGuider):
    """Its call adds something, and then goes ComfyUI's way."""

    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        self.calls += 1
        return super().__call__(*args, **kwargs)


class PastSampling(comfy.samplers.CFGGuider):
    """It prepares a run by itself, without the wrappers around a sampler."""

    def inner_sample(
        self, noise: Tensor, latent_image: Tensor, device: Any, sampler: Any, sigmas: Tensor,
        denoise_mask: Any, callback: Any, disable_pbar: bool, seed: int, **_: Any,
    ) -> Tensor:  # fmt: skip
        process = comfy.samplers.process_conds
        given = self.conds, device, latent_image, denoise_mask, seed
        self.conds = process(self.inner_model, noise, *given)
        extra = {"model_options": self.model_options, "seed": seed}
        samples = sampler.sample(self, sigmas, extra, callback, noise, latent_image, denoise_mask)
        return self.inner_model.process_latent_out(samples)


METHODS = {
    "balanced": lambda: preset("balanced"),
    "paper": lambda: preset("paper"),
    "fast": lambda: preset("fast"),
    "DPS": lambda: DPS(0.1, False),
    "FreeDoM": lambda: FreeDoM(0.1, 0.1, Window(0.7, 0.3, 0.3, 2)),
    "LiDAR": lambda: LiDAR(1.0, 0.5, 2, 2, 1),
}


@pytest.fixture(scope="module")
def cases(sd15) -> dict[str, Case]:
    sd15_case = case_of(sd15, batch=2, steps=3, strength=60.0)
    return {"sd15": sd15_case, "demo": demo_case(2, steps=3, strength=5.0)}


def guidance_of(case: Case, method: str, automatic: float = 0.0) -> Guidance:
    lookahead.cached.clear()
    weight = Weight.of(REWARD, case.strength, automatic)
    return Guidance(METHODS[method](), weight, case.vae, Trace())


def sampled(
    case: Case, model: Any, kind: type = comfy.samplers.CFGGuider, **changes: Any
) -> tuple[Tensor, Any]:
    """Latents of SamplerCustomAdvanced with a guider of some class, and the guider."""
    settings = {**case.settings, **changes}
    guider = kind(model)
    guider.set_conds(settings["positive"], settings["negative"])
    guider.set_cfg(settings["cfg"])
    (noise,) = run_node(custom.RandomNoise, noise_seed=settings["seed"])
    sampler = changes.get("sampler")
    if sampler is None:
        (sampler,) = run_node(custom.KSamplerSelect, sampler_name=settings["sampler_name"])
    levels = {name: settings[name] for name in ("scheduler", "steps", "denoise")}
    (sigmas,) = run_node(custom.BasicScheduler, model=model, **levels)
    given = {"noise": noise, "guider": guider, "sampler": sampler}
    given |= {"sigmas": changes.get("sigmas", sigmas), "latent_image": settings["latent_image"]}
    return run_node(custom.SamplerCustomAdvanced, **given)[0]["samples"], guider


def test_quick_images_follow_the_second_scale_of_a_dual_guider(cases):
    case = cases["sd15"]
    guidance = guidance_of(case, "LiDAR")
    model = guidance.apply(case.model)

    def cost(second: float) -> int:
        guider = custom.Guider_DualCFG(model)
        one, other = case.settings["positive"], case.settings["negative"]
        guider.set_conds(one, one, other)
        guider.set_cfg(2.0, second)
        noise, kept = case.settings["latent_image"]["samples"] + 1, torch.zeros(2, 4, 4, 4)
        sampler = comfy.samplers.ksampler("euler")
        with torch.inference_mode():
            guider.sample(noise, kept, sampler, torch.tensor([14.0, 1.0, 0.0]), seed=1)
        return guidance.trace.start.model_calls

    assert [cost(second) > 0 for second in (2.0, 2.0, 5.0)] == [True, False, True]


class Scheduled(comfy.samplers.CFGGuider):
    """As KJNodes': a scale for each part of the run."""

    def set_cfg(self, cfg: float) -> None:
        self.scales, self.cfg = [cfg, cfg], 1.0

    def predict_noise(self, x: Tensor, timestep: Tensor, *_: Any, **inputs: Any) -> Tensor:
        conds = self.conds["negative"], self.conds["positive"]
        scale = self.scales[int(float(timestep[0]) < 1)]
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, *conds, scale, **inputs
        )


def test_quick_images_follow_what_a_guider_holds_in_a_list(cases):
    case, found = cases["demo"], []
    guidance = guidance_of(case, "fast", automatic=2.0)
    model = guidance.apply(case.model)
    for cfg in (1.0, 8.0, 8.0):
        sampled(case, model, Scheduled, cfg=cfg)
        found.append((guidance.trace.measured, dict(guidance.trace.strengths)))
    assert found[0] != found[1] == found[2]
    assert guidance.trace.start.model_calls == 0, "those of the second run served"


@pytest.mark.parametrize("kind", [PastWrappers, OnItsOwn, ThroughWrappers])
@pytest.mark.parametrize("method", METHODS)
def test_a_guider_with_a_call_of_its_own_is_guided_as_comfyuis_is(case, kind, method):
    usual = guidance_of(case, method, automatic=3.0 if method == "paper" else 0.0)
    expected, _ = sampled(case, usual.apply(case.model))
    guidance = guidance_of(case, method, automatic=3.0 if method == "paper" else 0.0)
    done, guider = sampled(case, guidance.apply(case.model), kind)
    assert torch.equal(done, expected)
    assert not torch.equal(done, sampled(case, case.model, kind)[0])
    assert any(record.active for record in guidance.trace.records)
    assert [r.model_calls for r in guidance.trace.records] == [
        r.model_calls for r in usual.trace.records
    ]
    assert type(guider) is kind and "evaluate" not in vars(guider)


@on("demo")
def test_a_guiders_own_state_is_the_guiders(case):
    """What a sampler reads and sets on the guider that it is given, and what its call counts."""
    names: list[str] = []

    def sampler(model: Any, x: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
        inner = model.inner_model
        names.append(type(inner.model_patcher).__name__)
        inner.noted_by_a_sampler = float(inner.cfg)
        return comfy.samplers.k_diffusion_sampling.sample_euler(model, x, sigmas, **options)

    own = comfy.samplers.KSAMPLER(sampler)
    model = guidance_of(case, "fast").apply(case.model)
    _, guider = sampled(case, model, ThroughWrappers, sampler=own, cfg=1.5)
    assert names and guider.noted_by_a_sampler == 1.5 and guider.calls == 3


@on("demo")
def test_two_weights_on_a_guider_with_a_call_of_its_own_both_act(case):
    first, second = guidance_of(case, "fast"), guidance_of(case, "fast")
    both, _ = sampled(case, second.apply(first.apply(case.model)), PastWrappers)
    one, _ = sampled(case, guidance_of(case, "fast").apply(case.model), PastWrappers)
    assert first.trace.records and second.trace.records
    assert case.gain(both, one) > 0


@on("demo")
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_guidance_never_saw_is_an_error_with_the_guiders_class(case, method):
    """Whether the guider's preparation or the sampler goes past the wrappers."""
    guided = guidance_of(case, method).apply(case.model)
    with pytest.raises(ValueError, match=r"guider PastSampling .* \(CFGGuider, BasicGuider\)"):
        sampled(case, guided, PastSampling)
    assert torch.isfinite(sampled(case, case.model, PastSampling)[0]).all()


def past_the_guider(model: Any, x: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
    """A sampler that evaluates the network by itself."""
    guider = model.inner_model
    for sigma in sigmas[:-1]:
        prompt = guider.conds["positive"]
        x, _ = comfy.samplers.calc_cond_batch(
            guider.inner_model, [prompt, None], x, sigma.expand(len(x)), {}
        )
    return x


@on("demo")
def test_a_sampler_that_goes_past_the_guider_is_named(case):
    sampler = comfy.samplers.KSAMPLER(past_the_guider)
    guided = guidance_of(case, "balanced").apply(case.model)
    with pytest.raises(ValueError, match="CFGGuider with sampler 'past_the_guider'"):
        sampled(case, guided, sampler=sampler)
    assert torch.isfinite(sampled(case, case.model, sampler=sampler)[0]).all()


@on("demo")
def test_a_run_without_a_guided_step_is_none_of_them(case):
    """Mode `fast` lets high noise levels pass; so may a sampler that evaluates nothing itself."""
    sampler, high = comfy.samplers.KSAMPLER(past_the_guider), torch.tensor([70.0, 60.0, 50.0])
    guidance = guidance_of(case, "fast")
    assert not guidance.method.is_active(high).any()
    done, _ = sampled(case, guidance.apply(case.model), sampler=sampler, sigmas=high)
    assert torch.isfinite(done).all()


@on("demo")
def test_another_packs_wrapper_keeps_its_place_before_a_served_guider(case):
    """What is around whole evaluations of a guider that skips it is skipped as ever."""
    seen: list[int] = []

    def wrapper(executor: Any, *args: Any) -> Tensor:
        seen.append(1)
        return executor(*args)

    model = case.model.clone()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "theirs", wrapper)
    sampled(case, guidance_of(case, "balanced").apply(model), PastWrappers)
    assert not seen
    sampled(case, guidance_of(case, "balanced").apply(model), ThroughWrappers)
    assert seen
