"""Particle KSampler: plain at no strength, each image for itself, and what KSampler can do."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import comfy.k_diffusion.sampling as k_diffusion
import comfy.model_management as mm
import comfy.sample
import comfy.samplers
import comfy.utils
import pytest
import torch
from comfyui_support.executing import run_node
from comfyui_support.guided import Case, controlled, flow_of, noting, on
from comfyui_support.prompts import PARTICLES
from comfyui_support.weighing import case_of, demo_case, load_weight
from lags_pack.benchmarks._memory import peak_bytes
from lags_pack.guidance import Trace, WeightError
from lags_pack.guidance.particles import PRESETS, group_seeds
from lags_pack.guidance.particles.engine import _mixed
from lags_pack.nodes.samplers.particles import LAGSParticleSampler
from lags_pack.rewards import ColourReward, Weight
from lags_pack.rewards.base import Reward
from lags_pack.runtime.decoders import Decoding
from lags_pack.runtime.last_model import remember
from lags_pack.runtime.options import Options
from lags_pack.runtime.page import summary
from lags_pack.runtime.page_plan import schedule
from lags_pack.runtime.particle_model import SAMPLERS, Inpainting, Levels, ParticleModel
from lags_pack.runtime.particles import _arranged
from torch import Tensor

EACH = on("demo", "sd15", "sdxl")
WIDGETS = {**PARTICLES, "strength": 1.0, "method": "lags", "particles": 3}
RED = Weight.of(ColourReward("hue", 0.0), 60.0)


class Impossible(Reward):
    """Weight zero for every image."""

    name, scale, differentiable = "impossible", "minus infinity", False

    def __call__(self, images: Tensor) -> Tensor:
        return torch.full(images.shape[:1], -math.inf)


NEVER = Impossible()


@dataclass
class Ran:
    """What the node gave."""

    latent: dict[str, Any]
    log_weights: list[float]
    trace: Trace
    summary: str

    @property
    def samples(self) -> Tensor:
        return self.latent["samples"]


def ran(case: Case, **changes: Any) -> Ran:
    """The node on a case; `changes` replace its inputs."""
    inputs = {"model": case.model, "vae": case.vae, "weight": RED, **WIDGETS, **case.settings}
    return Ran(*run_node(LAGSParticleSampler, **{**inputs, **changes}))


@pytest.fixture(scope="module")
def cases(sd15, sdxl) -> dict[str, Case]:
    """Two images of each model, four steps."""
    tiny = {"sd15": case_of(sd15, 2), "sdxl": case_of(sdxl, 2)}
    return {**tiny, "demo": demo_case(2)}


def comfyui(case: Case, model: Any, sampler: str, scheduler: str) -> Tensor:
    """ComfyUI's own function of a sampler, each image with the noise that a particle has."""
    settings = case.settings
    latent = settings["latent_image"]["samples"]
    seeds = group_seeds(settings["seed"], len(latent))
    generators = [torch.Generator().manual_seed(_mixed(seed, "steps")) for seed in seeds]

    def noise(*_: Any) -> Tensor:
        return torch.stack([torch.empty(latent.shape[1:]).normal_(generator=g) for g in generators])

    def function(*args: Any, **kwargs: Any) -> Tensor:
        plain = getattr(k_diffusion, f"sample_{sampler}")
        return plain(*args, noise_sampler=noise, **kwargs)

    with torch.inference_mode():
        sampling = model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, settings["steps"])
        noise_at_the_start = comfy.sample.prepare_noise(latent, settings["seed"])
        how = settings["cfg"], comfy.samplers.KSAMPLER(function), sigmas
        prompts = settings["positive"], settings["negative"]
        return comfy.sample.sample_custom(model, noise_at_the_start, *how, *prompts, latent)


@EACH
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_strength_zero_is_comfyuis_sampler(case, sampler):
    """One particle with no weight takes the very steps of ComfyUI, whatever the method."""
    expected = comfyui(case, case.model, sampler, "karras")
    for method in ("lags", "das_1p"):
        found = ran(case, strength=0.0, particles=1, method=method, sampler_name=sampler)
        torch.testing.assert_close(found.samples, expected, rtol=1e-3, atol=1e-3)
    assert found.log_weights == [0.0, 0.0]


@pytest.mark.parametrize("sampler", ["euler_ancestral", "lcm"])
def test_strength_zero_on_a_flow_model(case, sampler):
    model = flow_of(case.model)
    expected = comfyui(case, model, sampler, "simple")
    settings = {"particles": 1, "sampler_name": sampler, "scheduler": "simple"}
    found = ran(case, model=model, strength=0.0, **settings)
    torch.testing.assert_close(found.samples, expected, rtol=1e-2, atol=1e-2)
    assert not torch.allclose(found.samples, ran(case, strength=0.0, particles=1).samples, atol=0.1)


@EACH
@pytest.mark.parametrize("method", PRESETS)
def test_methods(case, method):
    count = 1 if method == "das_1p" else 3
    ran(case, steps=1, particles=1)  # ComfyUI notes in the layers that they are loaded
    before = case.state()
    first = ran(case, method=method, particles=count, output="all")
    assert case.state() == before
    assert first.samples.shape[0] == 2 * count and torch.isfinite(first.samples).all()
    shares = torch.tensor(first.log_weights).exp().reshape(2, count).sum(dim=1)
    torch.testing.assert_close(shares, torch.ones(2))
    best = ran(case, method=method, particles=count)
    assert torch.equal(best.samples, first.samples[::count]), "the same run, the same images"
    assert len(first.trace.records) == 4 and f"{count} particles for each of 2" in first.summary
    assert json.loads(json.dumps(first.trace.to_dict()))["particles"]["records"][0]["model_calls"]


@on("demo")
@pytest.mark.parametrize("threshold", [0.0, 1.0], ids=["never copied", "copied"])
def test_the_summary_names_the_particles_put_out(case, threshold):
    """And with which first particle each began, which is another once copies were made."""
    found = ran(case, output="all", method="smc", ess_threshold=threshold)
    roots = found.trace.particles.roots(2, 3).tolist()
    named = [re.findall(r"particle (\d) \(began as (\d)\)", line) for line in _lines(found)]
    assert all(sorted(int(one) for one, _ in line) == [0, 1, 2] for line in named)
    assert [[roots[g][int(one)] for one, _ in line] for g, line in enumerate(named)] == [
        [int(root) for _, root in line] for line in named
    ]
    assert (roots == [[0, 1, 2]] * 2) == (threshold == 0.0)
    assert "No particle has a seed of its own" in found.summary


def _lines(found: Ran) -> list[str]:
    """What the summary says of each image."""
    return [line for line in found.summary.splitlines() if line.startswith("image ")]


VARIANTS: dict[str, dict[str, Any]] = {
    "denoise 0.5": {"denoise": 0.5},
    "cfg 1": {"cfg": 1.0},
    "one step": {"steps": 1},
    "ddim_uniform": {"scheduler": "ddim_uniform"},
    "multinomial": {"resampling": "multinomial", "ess_threshold": 1.0},
    "adaptive": {"tempering": "adaptive"},
    "every second": {"evaluate_every": 2},
    "latent-rgb": {"options": Options(decoding=Decoding("latent-rgb"))},
    "lcm": {"sampler_name": "lcm"},
    "das": {"method": "das", "cfg": 1.0},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_raise_the_score(variant):
    """On the trained model, against plain particles of the same run."""
    case, changes = demo_case(6), dict(VARIANTS[variant])
    noise = torch.Generator().manual_seed(4)
    start = 0.3 * torch.randn(case.settings["latent_image"]["samples"].shape, generator=noise)
    changes["latent_image"] = {"samples": start if variant == "denoise 0.5" else 0 * start}
    settings = {"steps": 6, "output": "all", **changes}
    weighed, plain = ran(case, **settings), ran(case, **settings, strength=0.0)
    scores, shares = case.score(weighed.samples), torch.tensor(weighed.log_weights).exp()
    assert (scores * shares).sum() / 6 > case.score(plain.samples).mean() + 0.002


def test_particles_beat_plain_sampling_and_best_of_n():
    """Mean score of the best of four, the published weight's strength, equal particles."""
    case = demo_case(24, steps=12)
    found = {
        "plain": ran(case, strength=0.0, particles=1),
        "best of 4": ran(case, method="smc", particles=4, ess_threshold=0.0, evaluate_every=100),
        "smc": ran(case, method="smc", particles=4),
        "lags": ran(case, method="lags", particles=4),
    }
    means = {name: float(case.score(run.samples).mean()) for name, run in found.items()}
    assert means["best of 4"] > means["plain"] + 0.02
    assert means["lags"] > means["plain"] + 0.02
    assert means["lags"] > means["best of 4"] - 0.01


@EACH
def test_a_batch_equals_its_singles(case):
    """Noise, prompts and masks of each image are its own, however particles are parted."""
    shape = case.settings["latent_image"]["samples"].shape
    start = torch.randn(shape, generator=torch.Generator().manual_seed(5)) * 0.5
    mask = torch.zeros(2, 1, *shape[-2:])
    mask[0, ..., : shape[-1] // 2] = mask[1, ..., : shape[-2] // 2, :] = 1
    prompts = [case.settings[name][0] for name in ("positive", "negative")]
    both = [[torch.cat([prompt[0] for prompt in prompts]), prompts[0][1]]]
    settings = {"method": "smc", "output": "all"}
    latent = {"samples": start, "noise_mask": mask}
    together = ran(case, latent_image=latent, positive=both, particles_at_once=2, **settings)
    assert torch.equal(together.latent["noise_mask"], mask.repeat_interleave(3, 0))
    for i in range(2):
        one = {"samples": start[i : i + 1], "noise_mask": mask[i : i + 1], "batch_index": [i]}
        positive = [[prompts[i][0], prompts[0][1]]]
        alone = ran(case, latent_image=one, positive=positive, particles_at_once=1, **settings)
        own = together.samples[3 * i : 3 * i + 3]
        torch.testing.assert_close(alone.samples, own, rtol=1e-3, atol=2e-3)
        kept = (mask[i] == 0).expand(own.shape)
        original = start[i].expand(own.shape)[kept]
        torch.testing.assert_close(own[kept], original, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(own[0], own[1], atol=0.05), "particles differ where painted"


@pytest.mark.parametrize("method", ["smc", "lags", "das"])
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_rows_in_one_evaluation(case, method, at_once):
    """Model and decoder never see more rows than asked for, however many particles there are."""
    decoded = []

    def look(_: Any, args: tuple[Tensor, ...]) -> None:
        decoded.append(len(args[0]))

    model, rows = noting(case.model, "apply_model", lambda x, *_: len(x))
    handle = case.vae.first_stage_model.taesd_decoder.register_forward_pre_hook(look)
    try:
        few = ran(case, model=model, method=method, cfg=1.0, particles_at_once=at_once)
        assert max(rows) == max(decoded) == 2 * at_once
        if method == "smc":
            assert sum(rows) == 4 * 3 * 2
    finally:
        handle.remove()
    all_at_once = ran(case, method=method, cfg=1.0, particles_at_once=9)
    torch.testing.assert_close(few.samples, all_at_once.samples, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("masks", "order"), [(1, "000000"), (2, "001100"), (3, "001122"), (5, "001122")]
)
@pytest.mark.parametrize("flat", [True, False])
def test_the_masks_that_come_out_are_those_of_the_images(masks, order, flat):
    """KSampler repeats masks over the batch: each particle has the mask of its image."""
    mask = torch.arange(float(masks)).reshape(-1, 1, 1).expand(masks, 4, 4)
    given = mask[0] if masks == 1 and flat else mask if flat else mask[:, None]
    latent = {"samples": torch.zeros(6, 4, 4, 4), "noise_mask": given, "batch_index": [0, 1, 2]}
    out = _arranged(latent, 2)
    assert out["noise_mask"].shape == (6, 1, 4, 4) and "batch_index" not in out
    assert "".join(f"{value:g}" for value in out["noise_mask"][:, 0, 0, 0].tolist()) == order


@on("demo")
def test_what_comes_out(case):
    settings = {"particles": 5, "strength": 0.2}
    every = ran(case, output="all", **settings).samples.unflatten(0, (2, 5))
    for output, count in (("best", 1), ("draw", 4), ("diverse", 3)):
        found = ran(case, output=output, count=count, **settings)
        pictures = found.samples.unflatten(0, (2, count))
        assert len(found.log_weights) == 2 * count
        for some, full in zip(pictures, every, strict=True):
            apart = torch.cdist(some.flatten(1), full.flatten(1))
            assert (apart.min(dim=1).values < 1e-3).all(), "each is one of the particles"
            if output == "diverse":
                assert len(apart.argmin(dim=1).unique()) == count
    other = ran(case, output="best", seed=2**64 - 1, **settings)
    assert not torch.allclose(other.samples, every[:, 0], atol=0.05)


@on("sd15", "sdxl")
def test_regions_and_controlnet(case, request):
    """A hint for each image of a batch, and prompts for halves, stay with their image."""
    control = request.getfixturevalue(f"controlnet_{request.node.callspec.params['case']}")
    hints = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(6))
    area = {"area": (4, 2, 0, 0), "strength": 1.0, "set_area_to_bounds": False}
    negative = case.settings["negative"]
    ((half, options),) = negative
    prompts = {"negative": negative}
    prompts["positive"] = [*case.settings["positive"], [half, {**options, **area}]]

    def hinted(image: Tensor) -> dict[str, Any]:
        return controlled(control, image, **prompts)

    settings = {"method": "smc", "output": "all", "particles": 2}
    plain = ran(case, **settings)
    both = ran(case, **settings, **hinted(hints), particles_at_once=2)
    assert not torch.allclose(both.samples, plain.samples, atol=0.01)
    for i in range(2):
        latent = {"samples": case.settings["latent_image"]["samples"][:1], "batch_index": [i]}
        alone = ran(case, **settings, **hinted(hints[i : i + 1]), latent_image=latent)
        own = both.samples[2 * i : 2 * i + 2]
        torch.testing.assert_close(alone.samples, own, rtol=1e-3, atol=2e-3)
    assert torch.isfinite(ran(case, method="das", **hinted(hints)).samples).all()


def test_gradient_through_the_model(case):
    """<v, J u> by differences of the model is <J^T v, u> by the way back, with a mask."""
    found: dict[str, Tensor] = {}

    def sample(
        executor: Any, guider: Any, sigmas: Tensor, extra: Any, _: Any, noise: Tensor, *rest: Any
    ) -> Tensor:
        levels = Levels.of(guider.inner_model.model_sampling, sigmas)
        mask = torch.ones_like(noise)
        mask[..., 0] = 0
        around = Inpainting.of(noise, 0 * noise, mask)
        model = ParticleModel(guider, levels, around, extra, at_once=2)
        generator = torch.Generator().manual_seed(1)
        shape = (6, *noise.shape[1:])
        x, u, v = (torch.randn(shape, generator=generator) for _ in range(3))
        x, sigma = x * levels.sigma_ve[1], levels.sigma_ve[1].expand(6)
        denoised, pull = model.vjp(x, sigma)
        h = 3e-3 * float(sigma[0])
        ju = (model(x + h * u, sigma) - model(x - h * u, sigma)) / (2 * h)
        found["there"] = (v * ju).flatten(1).sum(dim=1)
        found["back"] = (pull(v) * u).flatten(1).sum(dim=1)
        found["masked"] = pull(v)[..., 0]
        found["denoised"] = denoised - model(x, sigma)
        return noise

    model = case.model.clone()
    model.add_wrapper_with_key("sampler_sample", "probe", sample)
    case.ksampler(model=model)
    torch.testing.assert_close(found["back"], found["there"], rtol=2e-2, atol=2e-2)
    assert not found["masked"].any() and not found["denoised"].any()


@on("demo")
def test_automatic_strength_and_a_weight_without_gradient(case, caplog):
    caplog.set_level("INFO")
    auto = ran(case, weight=Weight.of(ColourReward("hue", 0.0), 1.0, 3.0))
    (strength,) = auto.trace.strengths.values()
    assert auto.trace.measured and 1 < strength < 1000
    assert f"the strength of weight 'colour (hue)' is {strength:.6g}: 3 nats" in caplog.text
    more = ran(case, weight=Weight.of(ColourReward("hue", 0.0), 1.0, 3.0), particles=6)
    (same,) = more.trace.strengths.values()
    assert same == pytest.approx(strength, rel=1e-3), "whatever the number of particles"
    black = load_weight("JPEG size")
    for method in ("smc", "fk"):
        assert torch.isfinite(ran(case, weight=black, method=method).samples).all()


@on("demo")
def test_preview_progress_and_stop(case, progress):
    ran(case)
    assert progress.told == [(step, 4) for step in range(1, 5)]
    progress.told.clear()
    progress.act = lambda _: mm.interrupt_current_processing()
    with pytest.raises(mm.InterruptProcessingException):
        ran(case)
    assert len(progress.told) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampler_name": "euler"}, "'euler'.*euler_ancestral, ddpm, lcm"),
        ({"sampler_name": "dpmpp_2m_sde"}, "of higher order"),
        ({"particles": 0}, "particles is 0; expected 1 or more"),
        ({"method": "das_1p"}, "one particle, and particles is 3"),
        ({"method": "magic"}, "method is 'magic'"),
        ({"output": "diverse", "count": 4}, "count is 4 and particles is 3"),
        ({"ess_threshold": 2.0}, "ess_threshold is 2.0"),
        ({"weight": Weight.of(NEVER, 1.0)}, "'impossible' has no gradient.*'lags'.*'smc'"),
        ({"weight": Weight.of(NEVER, 1.0, 1.0), "method": "smc"}, "automatic strength needs"),
        ({"latent_image": {"samples": torch.zeros(1, 4, 3, 8, 8)}}, "not video"),
        ({"latent_image": {"samples": torch.zeros(0, 4, 8, 8)}}, "at least one image"),
        ({"strength": math.nan}, "strength.*nan"),
    ],
)
def test_refused(case, changes, said):
    with pytest.raises(ValueError, match=said):
        ran(case, **changes)


@on("demo")
def test_weight_zero_everywhere_is_said(case):
    with pytest.raises(WeightError, match="All 3 particles of group 0 have weight zero"):
        ran(case, weight=Weight.of(NEVER, 1.0), method="smc", ess_threshold=0.0)


def test_ddpm_on_a_flow_model_is_refused(case):
    with pytest.raises(ValueError, match="'ddpm'.*choose euler_ancestral"):
        ran(case, model=flow_of(case.model), sampler_name="ddpm")


# ---- the panel --------------------------------------------------------------------------------


def asked_of(case: Case, **changes: Any) -> dict[str, Any]:
    """What the page asks with the node's widgets."""
    known = {"node": "particles", **WIDGETS, **case.settings, **changes}
    return {name: v for name, v in known.items() if not isinstance(v, dict | list)}


@on("demo")
def test_the_plan_at_strength_0_is_what_runs(case):
    remember("particles", case.model)
    planned = schedule(asked_of(case, strength=0.0))
    told = summary(ran(case, strength=0.0).trace)
    assert planned["model_calls"] == told["model_calls"]
    assert planned["active"] == [point["alpha"] is not None for point in told["points"]]


@on("demo")
@pytest.mark.parametrize("method", [name for name in PRESETS if name != "das_1p"])
def test_the_plan_of_the_widgets_is_what_runs(case, method):
    remember("particles", case.model)
    planned = schedule(asked_of(case, method=method))
    trace = ran(case, method=method).trace
    told = summary(trace)
    assert planned["model_calls"] == told["model_calls"]
    assert planned["model_backwards"] == told["model_backwards"]
    assert (told["model_backwards"] > 0) == PRESETS[method].needs_vjp
    points = told["points"]
    assert planned["sigma"] == pytest.approx([point["sigma"] for point in points], rel=1e-4)
    weighed = [point["alpha"] is not None for point in points]
    assert planned["active"] == weighed
    for one, point, there in zip(planned["alpha"], points, weighed, strict=True):
        assert not there or one == pytest.approx(point["alpha"])
    assert planned["particles"] == 3


@on("demo")
def test_the_curves_hold_the_effective_size(case):
    trace = ran(case, method="smc", particles=4, ess_threshold=1.0).trace
    points = summary(trace)["points"]
    weighings = [record.weighing for record in trace.particles.records]
    for point, weighing in zip(points, weighings, strict=True):
        if weighing is None:
            assert point["ess"] is None and point["resampled"] is None
            continue
        assert point["ess"] == pytest.approx(100 * float(weighing.ess.mean()) / 4, rel=1e-5)
        assert point["resampled"] == 100 * float(weighing.resampled.double().mean())
    assert any(point["resampled"] for point in points if point["resampled"] is not None)


@on("demo")
def test_a_bad_question_is_answered(case):
    asked = asked_of(case)
    for bad in ({"method": "magic"}, {"particles": 0}, {"steps": 0}, {"sampler_name": "euler"}):
        with pytest.raises(ValueError):
            schedule({**asked, **bad})


@pytest.mark.parametrize("method", ["smc", "lags", "das"])
def test_memory_grows_by_latents_alone(case, method):
    """One at a time, more particles take latents of their own: some, where a model takes 8,000."""
    few, many = 2, 8
    settings = {"method": method, "particles_at_once": 1, "steps": 2}
    ran(case, particles=few, **settings)  # loads

    def peak(particles: int) -> int:
        return peak_bytes(lambda: ran(case, particles=particles, **settings))

    latents = case.settings["latent_image"]["samples"].numel() * 4
    assert peak(many) - peak(few) < 20 * latents * (many - few)
