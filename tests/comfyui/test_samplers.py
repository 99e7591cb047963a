"""The guided samplers in a real ComfyUI: on every sampler, and with all that KSampler can do."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, replace
from typing import Any

import comfy.model_management as mm
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_model_advanced as advanced
import latent_preview
import pytest
import torch
from comfyui_support import guided, tiny
from comfyui_support.executing import run_node
from comfyui_support.guided import REWARD, Case, counted, noting, on, rms
from comfyui_support.weighing import case_of, demo_case
from lags_pack.guidance import Trace, WeightError
from lags_pack.nodes import NODES
from lags_pack.rewards import ColourReward, Weight
from lags_pack.runtime.decoded_weight import DecodedLogWeight
from lags_pack.runtime.decoders import VAEDecoder
from lags_pack.runtime.particle_run import Choices
from lags_pack.runtime.run import difference_step
from lags_pack.runtime.sampling import SamplerInputs
from torch import Tensor

SAMPLERS = [name for name in comfy.samplers.KSampler.SAMPLERS if name != "dpm_adaptive"]
EACH, TINY = on("sd15", "sdxl", "demo"), on("sd15", "sdxl")
IN_EACH_MODE = pytest.mark.parametrize("mode", ["paper", "balanced", "fast"])


@pytest.fixture(scope="session")
def cases(sd15, sdxl) -> dict[str, Case]:
    """A few images of each model, four steps."""
    usual = {"strength": 60.0, "cfg": 3.0, "sampler_name": "euler"}
    return {
        "sd15": case_of(sd15, 2, 8, **usual),
        "sdxl": case_of(sdxl, 2, 8, **usual),
        "demo": demo_case(4, "circle", **usual),
    }


def check_rises(case: Case, mode: str = "balanced", **changes: Any) -> tuple[Tensor, Tensor, Trace]:
    """Guidance raises the score of KSampler's images; both, and the trace."""
    plain = case.ksampler(**changes)
    better, trace = case.lags(mode=mode, **changes)
    assert torch.isfinite(better).all()
    assert case.gain(better, plain) > 0
    return better, plain, trace


def random_start(case: Case, scale: float = 1.0) -> Tensor:
    shape = case.settings["latent_image"]["samples"].shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(5)) * scale


@EACH
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_strength_zero_is_ksampler_and_strength_raises_the_score(case, cases, sampler):
    model, calls = counted(case.model)
    plain = case.ksampler(sampler_name=sampler, model=model)
    plain_calls = len(calls)
    calls.clear()
    off, _ = case.lags(sampler_name=sampler, strength=0.0, model=model)
    assert torch.equal(off, plain)
    assert len(calls) == plain_calls
    better, trace = case.lags(sampler_name=sampler)
    assert torch.isfinite(better).all()
    assert trace.records
    # The J of random weights is no covariance: there four steps of this sampler may lose a little.
    may_lose = case is cases["sdxl"] and "sde_heun" in sampler
    assert not torch.equal(better, plain)
    assert case.gain(better, plain) > (-0.05 if may_lose else 0.0)


@on("demo")
def test_dpm_adaptive_too(case):
    """This sampler chooses its own steps, so a strong weight would make it long."""
    plain = case.ksampler(sampler_name="dpm_adaptive")
    off, _ = case.lags(sampler_name="dpm_adaptive", strength=0.0)
    better, _ = case.lags(sampler_name="dpm_adaptive", strength=0.3)
    assert torch.equal(off, plain)
    assert case.gain(better, plain) > 0


@EACH
@pytest.mark.parametrize(("mode", "per_call"), [("paper", 2), ("fast", 1)])
def test_model_evaluations_per_sampler_call(case, mode, per_call):
    model, calls = counted(case.model)
    case.ksampler(model=model)
    sampler_calls = len(calls)
    calls.clear()
    _, trace = case.lags(model=model, mode=mode)
    assert len(calls) == per_call * sampler_calls == trace.model_calls
    assert len(trace.records) == sampler_calls


@on("demo")
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if re.search("cfg_?pp", name)])
def test_second_forward_is_hidden_from_cfg_plus_plus(case, sampler):
    """These samplers catch the unconditional prediction; the moved forward must not replace it.

    The finite-difference step does not shrink with the strength, so with a weight of almost nothing
    only a caught second forward could change the image.
    """
    settings = {"sampler_name": sampler, "cfg": 3.0, "negative": case.settings["positive"]}
    plain = case.ksampler(**settings)
    same, trace = case.lags(mode="paper", strength=1e-7, **settings)
    assert trace.model_calls == 2 * len(trace.records)
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-4)


@on("demo")
@pytest.mark.parametrize(("sampler", "own"), [("euler", 0), ("dpmpp_2m", 0), ("euler_cfg_pp", 1)])
def test_the_first_evaluation_is_foreseen_unless_the_sampler_looks_into_it(case, sampler, own):
    model, calls = counted(case.model)
    _, trace = case.lags(model=model, sampler_name=sampler, steps=12, mode="balanced", cfg=1.0)
    assert trace.records[0].model_calls == own and trace.records[0].shift_rms is not None
    assert len(calls) == trace.model_calls


def test_a_weight_of_strength_zero_is_ksampler_too(case):
    model, calls = counted(case.model)
    plain = case.ksampler(model=model)
    off, trace = case.lags(model=model, weight=Weight.of(REWARD, 0.0))
    assert torch.equal(off, plain)
    assert len(calls) == 8 and not trace.records


@TINY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision(case, dtype):
    """Noise prediction in half precision: still two forwards at every noise level in `paper`."""
    model, calls = counted(case.model)
    model.set_model_compute_dtype(dtype)
    plain = case.ksampler(model=model)
    sampler_calls = len(calls)
    for mode, per_call in (("paper", 2), ("balanced", 2), ("fast", 1)):
        calls.clear()
        better, trace = case.lags(model=model, mode=mode)
        assert case.gain(better, plain) > 0
        if mode != "balanced":
            assert len(calls) == per_call * sampler_calls == trace.model_calls


def test_step_follows_precision_and_parametrisation(case):
    model = case.model.clone()
    assert difference_step(model).output_gain == pytest.approx((0.1, 10.0))
    model.set_model_compute_dtype(torch.bfloat16)
    assert difference_step(model).dtype == torch.bfloat16
    node = advanced.ModelSamplingDiscrete
    (x0,) = run_node(node, model=model, sampling="x0", zsnr=False)
    assert difference_step(x0).output_gain == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_survives_a_decoder_in_half_precision(dtype):
    """A tiny strength gives the direction of a large one: nothing underflows on the way back."""
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    found = []
    with torch.inference_mode():
        vae = tiny.make_kl_vae()
        vae.vae_dtype = dtype
        vae.first_stage_model.to(dtype)
        for strength in (1e-6, 1e3):
            decoder = VAEDecoder(vae, lambda z: z)
            weight = DecodedLogWeight(decoder, Weight.of(REWARD, strength))
            found.append(weight.value_and_grad(latents)[1].flatten(1).double() / strength)
    cosine = torch.nn.functional.cosine_similarity(*found)
    assert (cosine > 0.999).all()
    torch.testing.assert_close(found[0].norm(dim=1), found[1].norm(dim=1), rtol=0.02, atol=0)


@on("demo")
def test_guidance_twice_asks_for_both(case):
    more = ColourReward("brightness")
    first = case.guided(weight=Weight.of(more, 60.0))
    plain, one = case.ksampler(), case.lags()[0]
    both, _ = case.lags(model=first)

    def brightness(samples: Tensor) -> float:
        return float(more(case.vae.decode(samples).movedim(-1, 1)).mean())

    assert brightness(both) > brightness(one)
    assert case.gain(both, plain) > 0


@EACH
@IN_EACH_MODE
def test_same_seed_same_picture(case, mode):
    first, second = (case.lags(mode=mode, sampler_name="euler_ancestral")[0] for _ in range(2))
    assert torch.equal(first, second)


VARIANTS: dict[str, dict[str, Any]] = {
    "cfg 1": {"cfg": 1.0},
    "denoise 0.5": {"denoise": 0.5},
    "one step": {"steps": 1},
    "flow of noise: ddim_uniform": {"scheduler": "ddim_uniform"},
}


@EACH
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_ksampler(case, variant):
    check_rises(case, **VARIANTS[variant])


@EACH
def test_negative_strength_lowers_the_score(case):
    worse, _ = case.lags(strength=-1.0)
    assert case.gain(worse, case.ksampler()) < 0


def test_cfg_1_skips_the_negative_prompt_in_both_forwards(case):
    model, rows = noting(case.model, "apply_model", lambda x, *_: x.shape[0])
    case.lags(model=model, cfg=1.0, mode="paper")
    assert rows and set(rows) == {2}, "two images, one prompt: two rows in every forward"


@EACH
def test_batch_of_three_and_batch_index(case):
    """Each image of a batch is what it is alone, up to finite-difference noise."""
    shape = case.settings["latent_image"]["samples"].shape
    batch = {"samples": torch.zeros(3, *shape[1:])}
    together, plain, _ = check_rises(case, latent_image=batch)
    for index in range(3):
        one = {"samples": torch.zeros(1, *shape[1:]), "batch_index": [index]}
        alone, _ = case.lags(latent_image=one)
        change = rms(together[index] - plain[index])
        assert rms(alone[0] - together[index]) < 0.05 * change


@EACH
@IN_EACH_MODE
def test_noise_mask_keeps_the_rest(case, mode):
    start = random_start(case, 0.5)
    mask = torch.zeros(1, 1, *start.shape[-2:])
    mask[..., : start.shape[-1] // 2] = 1
    latent = {"samples": start, "noise_mask": mask}
    better, plain, _ = check_rises(case, mode, latent_image=latent)
    kept = (mask == 0).expand(start.shape)
    assert torch.equal(better[kept], plain[kept])


def test_differential_diffusion_mask_is_obeyed(case):
    """The mask that counts at a noise level is the one after the model's denoise_mask_function."""
    start = random_start(case)
    seen: list[float] = []

    def shrink(sigma: Any, mask: Any, extra_options: Any) -> Any:
        seen.append(float(sigma[0]))
        return (mask >= 0.5).to(mask.dtype)

    model = case.model.clone()
    model.set_model_denoise_mask_function(shrink)
    mask = torch.linspace(0, 1, start.shape[-1]).expand(1, 1, *start.shape[-2:]).clone()
    latent = {"samples": start, "noise_mask": mask}
    plain = case.ksampler(latent_image=latent, model=model)
    calls = len(seen)
    better, _ = case.lags(latent_image=latent, model=model, mode="paper")
    assert len(seen) - calls == 2 * calls, "once by ComfyUI, once by the weight, per evaluation"
    kept = (mask < 0.5).expand(start.shape)
    assert torch.equal(better[kept], plain[kept])
    assert case.gain(better, plain) > 0


@EACH
def test_start_and_end_step_split(case):
    """Two halves give what one run gives: the schedule knows sigma, not the step number."""
    whole, trace = case.advanced(steps=6)
    half, first = case.advanced(steps=6, end_at_step=3, return_with_leftover_noise="enable")
    rest = {"start_at_step": 3, "add_noise": "disable", "latent_image": {"samples": half}}
    joined, second = case.advanced(steps=6, **rest)
    plain = case.ksampler(steps=6)
    assert len(first.records) + len(second.records) == len(trace.records)
    assert trace.start and first.start, "the first noise is tilted"
    assert second.start is None, "noise that another sampler left is not"
    assert rms(joined - whole) < 0.05 * rms(whole - plain)
    assert case.gain(joined, plain) > 0


@TINY
def test_two_regional_prompts(case):
    left, right = (
        [[c[0], {**c[1], "area": (8, 4, 0, x), "strength": 1.0, "set_area_to_bounds": False}]]
        for c, x in ((case.settings["positive"][0], 0), (case.settings["negative"][0], 4))
    )
    _, plain, _ = check_rises(case, positive=left + right)
    assert not torch.equal(plain, case.ksampler())


@TINY
def test_controlnet(case, request):
    control = request.getfixturevalue(f"controlnet_{request.node.callspec.params['case']}")
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(6))
    prompts = {name: case.settings[name] for name in ("positive", "negative")}
    _, plain, _ = check_rises(case, **guided.controlled(control, hint, **prompts))
    assert not torch.equal(plain, case.ksampler())


def test_lora(case, tiny_files):
    patched = guided.with_lora(case.model, tiny_files["lora_sd15"])
    _, plain, _ = check_rises(case, model=patched)
    assert not torch.equal(plain, case.ksampler())


@EACH
def test_guidance_node_under_sampler_custom_advanced(case):
    settings = case.settings

    def of(*names: str) -> dict[str, Any]:
        return {name: settings[name] for name in names}

    def sample(model: Any) -> Tensor:
        prompts = of("positive", "negative", "cfg")
        (guider,) = run_node(custom.CFGGuider, model=model, **prompts)
        (noise,) = run_node(custom.RandomNoise, noise_seed=settings["seed"])
        (sampler,) = run_node(custom.KSamplerSelect, **of("sampler_name"))
        levels = of("scheduler", "steps", "denoise")
        (sigmas,) = run_node(custom.BasicScheduler, model=model, **levels)
        given = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas}
        made = run_node(custom.SamplerCustomAdvanced, **given, **of("latent_image"))
        return made[0]["samples"]

    better = sample(case.guided())
    assert case.gain(better, sample(case.model)) > 0
    assert torch.equal(better, case.lags()[0]), "the same hook serves both nodes"


@EACH
def test_nothing_is_left_on_the_users_model_and_vae(case):
    case.ksampler()
    before, model = case.state(), case.model
    wrappers, options = str(model.wrappers), set(model.model_options)
    case.lags(mode="paper")
    assert case.state() == before
    assert str(model.wrappers) == wrappers
    assert set(model.model_options) == options


class _Stop(Exception):
    pass


def test_second_run_after_an_error_is_a_first_run(case):
    expected, _ = case.lags()
    before = case.state()

    class Failing(type(REWARD)):  # type: ignore[misc]
        def __call__(self, images: Tensor) -> Tensor:
            raise _Stop

    with pytest.raises(WeightError, match="failed with _Stop"):
        case.lags(weight=Weight.of(Failing("hue"), 1.0))
    assert case.state() == before
    again, _ = case.lags()
    assert torch.equal(again, expected)


def test_an_interrupt_stops_within_one_evaluation(case):
    expected, _ = case.lags(mode="paper")
    model, calls = counted(case.model)
    before = case.state()

    class Interrupting(type(REWARD)):  # type: ignore[misc]
        def __call__(self, images: Tensor) -> Tensor:
            mm.interrupt_current_processing(True)
            return super().__call__(images)

    with pytest.raises(mm.InterruptProcessingException):
        case.lags(model=model, mode="paper", weight=Weight.of(Interrupting("hue"), 1.0))
    assert len(calls) == 1, "the interrupt came between the two forwards of the first step"
    assert case.state() == before
    assert torch.equal(case.lags(mode="paper")[0], expected)


def test_preview_shows_the_guided_picture(case, monkeypatch):
    shown: list[Tensor] = []

    def prepare_callback(*_: Any, **__: Any) -> Any:
        return lambda step, x0, x, total: shown.append(x0.clone())

    monkeypatch.setattr(latent_preview, "prepare_callback", prepare_callback)
    case.ksampler()
    case.lags(mode="paper")
    plain, better = shown[:4], shown[4:]
    assert len(better) == len(plain) == 4
    assert not torch.equal(plain[-1], better[-1])


def test_a_real_autoencoder_carries_the_gradient(case, kl_vae):
    check_rises(replace(case, vae=kl_vae, strength=180.0), "paper")


@pytest.mark.parametrize("sampling", ["v_prediction", "x0", "lcm"])
def test_other_parametrisations(case, sampling):
    node = advanced.ModelSamplingDiscrete
    (model,) = run_node(node, model=case.model, sampling=sampling, zsnr=False)
    check_rises(case, model=model)


def test_flow_model(case):
    """A flow schedule on the tiny model: its first noise level has no signal, and stays plain."""
    settings = {"model": guided.flow_of(case.model), "scheduler": "simple", "steps": 6}
    _, _, trace = check_rises(case, **settings)
    assert len(trace.records) == 5, "sigma = 1 is not guided"
    assert trace.unrecorded == 1
    assert trace.model_calls == 1 + sum(record.model_calls for record in trace.records)


def test_all_nodes_validate():
    for node in NODES:
        node.VALIDATE_CLASS()
        schema = node.define_schema()
        assert schema.node_id == node.__name__
        assert schema.category == "sampling/weighted"
        for given in schema.inputs:
            assert given.tooltip, f"{schema.node_id}.{given.id} has no tooltip"


def test_what_a_sampler_node_asks_for_arrives():
    """A widget in the schema is an argument of execute or a field of what it hands on."""
    known, seen = {field.name for kind in (SamplerInputs, Choices) for field in fields(kind)}, 0
    for node in NODES:
        asked = {given.id for given in node.define_schema().inputs}
        if asked >= {"latent_image", "positive"}:
            named = set(inspect.signature(node.execute).parameters)
            assert asked - named <= known, node.__name__
            assert not asked & named & known - {"method"}, "these would not arrive"
            seen += 1
    assert seen == 4
