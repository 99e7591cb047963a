"""The guided samplers in a real ComfyUI: on every sampler, and with all that KSampler can do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import comfy.samplers
import pytest
import torch
from comfyui_support.guided import REWARD, Case, counted, state_of
from lags_pack.guidance import WeightError
from lags_pack.nodes.samplers.guidance import LAGSGuidance
from lags_pack.nodes.tools.demo import LAGSDemoModel
from lags_pack.rewards import ColourReward, Weight
from lags_pack.runtime.sampling import SamplerInputs

import nodes

SAMPLERS = [name for name in comfy.samplers.KSampler.SAMPLERS if name != "dpm_adaptive"]
STRENGTHS = {"sd15": 60.0, "sdxl": 60.0, "demo": 60.0}


@pytest.fixture(scope="session")
def cases(run_node: Callable[..., Any], sd15: Any, sdxl: Any) -> dict[str, Case]:
    """One case per model: a few images, four steps."""

    def settings(positive: Any, negative: Any, latent: Any) -> dict[str, Any]:
        return {
            "seed": 3,
            "steps": 4,
            "cfg": 3.0,
            "sampler_name": "euler",
            "scheduler": "karras",
            "positive": positive,
            "negative": negative,
            "latent_image": latent,
            "denoise": 1.0,
        }

    found = {
        tiny: Case(
            run_node,
            loaded.model,
            loaded.vae,
            STRENGTHS[tiny],
            settings(loaded.positive, loaded.negative, loaded.latent(2)),
        )
        for tiny, loaded in (("sd15", sd15), ("sdxl", sdxl))
    }
    model, positive, negative, vae, latent = run_node(
        LAGSDemoModel, subject="circle", colour="any", batch_size=4
    )
    demo = settings(positive, negative, latent)
    found["demo"] = Case(run_node, model, vae, STRENGTHS["demo"], demo)
    return found


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "demo"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_strength_zero_is_ksampler_and_strength_raises_the_score(
    cases: dict[str, Case], sampler: str, kind: str
) -> None:
    case = cases[kind]
    model, calls = counted(case.model)
    plain = case.ksampler(sampler_name=sampler, model=model)
    plain_calls = len(calls)
    calls.clear()
    off, _ = case.lags(sampler_name=sampler, strength=0.0, model=model)
    assert torch.equal(off, plain)
    assert len(calls) == plain_calls
    guided, trace = case.lags(sampler_name=sampler)
    assert torch.isfinite(guided).all()
    assert trace.records
    assert case.score(guided).mean() > case.score(plain).mean()


def test_dpm_adaptive_too(cases: dict[str, Case]) -> None:
    """This sampler chooses its own steps, so a strong weight would make it long."""
    case = cases["demo"]
    plain = case.ksampler(sampler_name="dpm_adaptive")
    off, _ = case.lags(sampler_name="dpm_adaptive", strength=0.0)
    guided, _ = case.lags(sampler_name="dpm_adaptive", strength=0.3)
    assert torch.equal(off, plain)
    assert case.score(guided).mean() > case.score(plain).mean()


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "demo"])
@pytest.mark.parametrize(("mode", "per_call"), [("paper", 2), ("fast", 1)])
def test_model_evaluations_per_sampler_call(
    cases: dict[str, Case], kind: str, mode: str, per_call: int
) -> None:
    case = cases[kind]
    model, calls = counted(case.model)
    case.ksampler(model=model)
    sampler_calls = len(calls)
    calls.clear()
    _, trace = case.lags(model=model, mode=mode)
    assert len(calls) == per_call * sampler_calls == trace.model_calls
    assert len(trace.records) == sampler_calls


CFG_PLUS_PLUS = [name for name in SAMPLERS if "cfg_pp" in name]


@pytest.mark.parametrize("sampler", CFG_PLUS_PLUS)
def test_second_forward_is_hidden_from_cfg_plus_plus(cases: dict[str, Case], sampler: str) -> None:
    """These samplers catch the unconditional prediction; the moved forward must not replace it.

    The finite-difference step does not shrink with the strength, so with a weight of almost nothing
    only a caught second forward could change the image.
    """
    case = cases["demo"]
    settings = {"sampler_name": sampler, "cfg": 3.0, "negative": case.settings["positive"]}
    plain = case.ksampler(**settings)
    guided, trace = case.lags(mode="paper", strength=1e-7, **settings)
    assert trace.model_calls == 2 * len(trace.records)
    torch.testing.assert_close(guided, plain, rtol=1e-4, atol=1e-4)


def test_a_weight_of_strength_zero_is_ksampler_too(cases: dict[str, Case]) -> None:
    case = cases["sd15"]
    model, calls = counted(case.model)
    plain = case.ksampler(model=model)
    off, trace = case.lags(model=model, weight=Weight.of(REWARD, 0.0))
    assert torch.equal(off, plain)
    assert len(calls) == 8 and not trace.records


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_a_model_in_half_precision(cases: dict[str, Case], kind: str, dtype: torch.dtype) -> None:
    """Noise prediction in half precision: still two forwards at every noise level in `paper`."""
    case = cases[kind]
    model, calls = counted(case.model)
    model.set_model_compute_dtype(dtype)
    plain = case.ksampler(model=model)
    sampler_calls = len(calls)
    for mode, per_call in (("paper", 2), ("balanced", 2), ("fast", 1)):
        calls.clear()
        guided, trace = case.lags(model=model, mode=mode)
        assert case.score(guided).mean() > case.score(plain).mean()
        if mode != "balanced":
            assert len(calls) == per_call * sampler_calls == trace.model_calls


def test_step_follows_precision_and_parametrisation(cases: dict[str, Case], run_node: Any) -> None:
    import comfy_extras.nodes_model_advanced as advanced
    from lags_pack.runtime.run import difference_step

    model = cases["sd15"].model.clone()
    assert difference_step(model).output_gain == pytest.approx((0.1, 10.0))
    model.set_model_compute_dtype(torch.bfloat16)
    assert difference_step(model).dtype == torch.bfloat16
    (x0,) = run_node(advanced.ModelSamplingDiscrete, model=model, sampling="x0", zsnr=False)
    assert difference_step(x0).output_gain == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_survives_a_decoder_in_half_precision(dtype: torch.dtype) -> None:
    """A tiny strength gives the direction of a large one: nothing underflows on the way back."""
    from comfyui_support import tiny
    from lags_pack.runtime.decoded_weight import DecodedLogWeight
    from lags_pack.runtime.decoders import VAEDecoder

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


def test_guidance_twice_asks_for_both(cases: dict[str, Case], run_node: Any) -> None:
    case, more = cases["demo"], ColourReward("brightness")
    (first,) = run_node(
        LAGSGuidance,
        model=case.model,
        vae=case.vae,
        weight=Weight.of(more, 60.0),
        strength=1.0,
        mode="balanced",
        c=10.0,
    )
    plain, one = case.ksampler(), case.lags()[0]
    both, _ = case.lags(model=first)

    def brightness(samples: torch.Tensor) -> float:
        return float(more(case.vae.decode(samples).movedim(-1, 1)).mean())

    assert brightness(both) > brightness(one)
    assert case.score(both).mean() > case.score(plain).mean()


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "demo"])
@pytest.mark.parametrize("mode", ["paper", "balanced", "fast"])
def test_same_seed_same_picture(cases: dict[str, Case], kind: str, mode: str) -> None:
    case = cases[kind]
    first, _ = case.lags(mode=mode, sampler_name="euler_ancestral")
    second, _ = case.lags(mode=mode, sampler_name="euler_ancestral")
    assert torch.equal(first, second)


VARIANTS: dict[str, dict[str, Any]] = {
    "cfg 1": {"cfg": 1.0},
    "denoise 0.5": {"denoise": 0.5},
    "one step": {"steps": 1},
    "flow of noise: ddim_uniform": {"scheduler": "ddim_uniform"},
    "negative strength": {"strength": -1.0},
}


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "demo"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_ksampler(cases: dict[str, Case], kind: str, variant: str) -> None:
    case, changes = cases[kind], dict(VARIANTS[variant])
    sign = -1 if changes.get("strength", 1.0) < 0 else 1
    plain = case.ksampler(**{k: v for k, v in changes.items() if k != "strength"})
    guided, _ = case.lags(**changes)
    assert sign * (case.score(guided) - case.score(plain)).mean() > 0


def test_cfg_1_skips_the_negative_prompt_in_both_forwards(cases: dict[str, Case]) -> None:
    case = cases["sd15"]
    rows: list[int] = []

    def note(executor: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        rows.append(x.shape[0])
        return executor(x, *args, **kwargs)

    model = case.model.clone()
    model.add_wrapper_with_key("apply_model", "rows", note)
    case.lags(model=model, cfg=1.0, mode="paper")
    assert rows and set(rows) == {2}, "two images, one prompt: two rows in every forward"


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "demo"])
def test_batch_of_three_and_batch_index(cases: dict[str, Case], kind: str) -> None:
    """Each image of a batch is what it is alone, up to finite-difference noise."""
    case = cases[kind]
    shape = case.settings["latent_image"]["samples"].shape
    batch = {"samples": torch.zeros(3, *shape[1:])}
    together, _ = case.lags(latent_image=batch)
    plain = case.ksampler(latent_image=batch)
    assert case.score(together).mean() > case.score(plain).mean()
    for index in range(3):
        one = {"samples": torch.zeros(1, *shape[1:]), "batch_index": [index]}
        alone, _ = case.lags(latent_image=one)
        change = (together[index] - plain[index]).square().mean().sqrt()
        error = (alone[0] - together[index]).square().mean().sqrt()
        assert error < 0.05 * change


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "demo"])
@pytest.mark.parametrize("mode", ["paper", "balanced", "fast"])
def test_noise_mask_keeps_the_rest(cases: dict[str, Case], kind: str, mode: str) -> None:
    case = cases[kind]
    shape = case.settings["latent_image"]["samples"].shape
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(shape, generator=generator) * 0.5
    mask = torch.zeros(1, 1, *shape[-2:])
    mask[..., : shape[-1] // 2] = 1
    latent = {"samples": start, "noise_mask": mask}
    plain = case.ksampler(latent_image=latent)
    guided, _ = case.lags(latent_image=latent, mode=mode)
    kept = (mask == 0).expand(shape)
    assert torch.equal(guided[kept], plain[kept])
    assert case.score(guided).mean() > case.score(plain).mean()


def test_differential_diffusion_mask_is_obeyed(cases: dict[str, Case], run_node: Any) -> None:
    """The mask that counts at a noise level is the one after the model's denoise_mask_function."""
    case = cases["sd15"]
    shape = case.settings["latent_image"]["samples"].shape
    seen: list[float] = []

    def shrink(sigma: Any, mask: Any, extra_options: Any) -> Any:
        seen.append(float(sigma[0]))
        return (mask >= 0.5).to(mask.dtype)

    model = case.model.clone()
    model.set_model_denoise_mask_function(shrink)
    mask = torch.linspace(0, 1, shape[-1]).expand(1, 1, *shape[-2:]).clone()
    start = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    latent = {"samples": start, "noise_mask": mask}
    plain = case.ksampler(latent_image=latent, model=model)
    calls = len(seen)
    guided, _ = case.lags(latent_image=latent, model=model, mode="paper")
    assert len(seen) - calls == 2 * calls, "once by ComfyUI, once by the weight, per evaluation"
    kept = (mask < 0.5).expand(shape)
    assert torch.equal(guided[kept], plain[kept])
    assert case.score(guided).mean() > case.score(plain).mean()


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "demo"])
def test_start_and_end_step_split(cases: dict[str, Case], kind: str) -> None:
    """Two halves give what one run gives: the schedule knows sigma, not the step number."""
    case = cases[kind]
    whole, trace = case.advanced(steps=6)
    half, first = case.advanced(steps=6, end_at_step=3, return_with_leftover_noise="enable")
    joined, second = case.advanced(
        steps=6, start_at_step=3, add_noise="disable", latent_image={"samples": half}
    )
    plain = case.ksampler(steps=6)
    assert len(first.records) + len(second.records) == len(trace.records)
    assert trace.start and first.start, "the first noise is tilted"
    assert second.start is None, "noise that another sampler left is not"
    change = (whole - plain).square().mean().sqrt()
    assert (joined - whole).square().mean().sqrt() < 0.05 * change
    assert case.score(joined).mean() > case.score(plain).mean()


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_two_regional_prompts(cases: dict[str, Case], kind: str) -> None:
    case = cases[kind]
    left, right = (
        [[c[0], {**c[1], "area": (8, 4, 0, x), "strength": 1.0, "set_area_to_bounds": False}]]
        for c, x in ((case.settings["positive"][0], 0), (case.settings["negative"][0], 4))
    )
    regional = left + right
    plain = case.ksampler(positive=regional)
    assert not torch.equal(plain, case.ksampler())
    guided, _ = case.lags(positive=regional)
    assert case.score(guided).mean() > case.score(plain).mean()


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_controlnet(
    cases: dict[str, Case], kind: str, run_node: Any, request: pytest.FixtureRequest
) -> None:
    case = cases[kind]
    control = request.getfixturevalue(f"controlnet_{kind}")
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(6))
    positive, negative = run_node(
        nodes.ControlNetApplyAdvanced,
        positive=case.settings["positive"],
        negative=case.settings["negative"],
        control_net=control,
        image=hint,
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
    )
    plain = case.ksampler(positive=positive, negative=negative)
    assert not torch.equal(plain, case.ksampler())
    guided, _ = case.lags(positive=positive, negative=negative)
    assert case.score(guided).mean() > case.score(plain).mean()


def test_lora(cases: dict[str, Case], run_node: Any, tiny_files: dict[str, str]) -> None:
    case = cases["sd15"]
    (patched,) = run_node(
        nodes.LoraLoaderModelOnly,
        model=case.model,
        lora_name=tiny_files["lora_sd15"],
        strength_model=1.0,
    )
    plain = case.ksampler(model=patched)
    assert not torch.equal(plain, case.ksampler())
    guided, _ = case.lags(model=patched)
    assert case.score(guided).mean() > case.score(plain).mean()


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "demo"])
def test_guidance_node_under_sampler_custom_advanced(
    cases: dict[str, Case], kind: str, run_node: Any
) -> None:
    import comfy_extras.nodes_custom_sampler as custom

    case, settings = cases[kind], cases[kind].settings
    (model,) = run_node(
        LAGSGuidance,
        model=case.model,
        vae=case.vae,
        weight=Weight.of(REWARD, case.strength),
        strength=1.0,
        mode="balanced",
        c=10.0,
    )

    def sample(used: Any) -> torch.Tensor:
        (guider,) = run_node(
            custom.CFGGuider,
            model=used,
            positive=settings["positive"],
            negative=settings["negative"],
            cfg=settings["cfg"],
        )
        (noise,) = run_node(custom.RandomNoise, noise_seed=settings["seed"])
        (sampler,) = run_node(custom.KSamplerSelect, sampler_name=settings["sampler_name"])
        (sigmas,) = run_node(
            custom.BasicScheduler,
            model=used,
            scheduler=settings["scheduler"],
            steps=settings["steps"],
            denoise=1.0,
        )
        latent = run_node(
            custom.SamplerCustomAdvanced,
            noise=noise,
            guider=guider,
            sampler=sampler,
            sigmas=sigmas,
            latent_image=settings["latent_image"],
        )[0]
        return latent["samples"]

    guided = sample(model)
    assert case.score(guided).mean() > case.score(sample(case.model)).mean()
    assert torch.equal(guided, case.lags()[0]), "the same hook serves both nodes"


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "demo"])
def test_nothing_is_left_on_the_users_model_and_vae(cases: dict[str, Case], kind: str) -> None:
    case = cases[kind]
    model = case.model
    case.ksampler()
    before = state_of(model.model, case.vae.first_stage_model)
    wrappers, options = str(model.wrappers), set(model.model_options)
    case.lags(mode="paper")
    assert state_of(model.model, case.vae.first_stage_model) == before
    assert str(model.wrappers) == wrappers
    assert set(model.model_options) == options


class _Stop(Exception):
    pass


def test_second_run_after_an_error_is_a_first_run(cases: dict[str, Case]) -> None:
    case = cases["sd15"]
    expected, _ = case.lags()
    before = state_of(case.model.model, case.vae.first_stage_model)

    class Failing(type(REWARD)):  # type: ignore[misc]
        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            raise _Stop

    with pytest.raises(WeightError, match="failed with _Stop"):
        case.lags(weight=Weight.of(Failing("hue"), 1.0))
    assert state_of(case.model.model, case.vae.first_stage_model) == before
    again, _ = case.lags()
    assert torch.equal(again, expected)


def test_an_interrupt_stops_within_one_evaluation(cases: dict[str, Case]) -> None:
    import comfy.model_management as mm

    case = cases["sd15"]
    expected, _ = case.lags(mode="paper")
    model, calls = counted(case.model)
    before = state_of(case.model.model, case.vae.first_stage_model)

    class Interrupting(type(REWARD)):  # type: ignore[misc]
        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            mm.interrupt_current_processing(True)
            return super().__call__(images)

    with pytest.raises(mm.InterruptProcessingException):
        case.lags(model=model, mode="paper", weight=Weight.of(Interrupting("hue"), 1.0))
    assert len(calls) == 1, "the interrupt came between the two forwards of the first step"
    assert state_of(case.model.model, case.vae.first_stage_model) == before
    assert torch.equal(case.lags(mode="paper")[0], expected)


def test_preview_shows_the_guided_picture(cases: dict[str, Case], monkeypatch: Any) -> None:
    import latent_preview

    case = cases["sd15"]
    shown: list[torch.Tensor] = []
    monkeypatch.setattr(
        latent_preview,
        "prepare_callback",
        lambda *args, **kwargs: lambda step, x0, x, total: shown.append(x0.clone()),
    )
    case.ksampler()
    plain, shown = shown, []
    case.lags(mode="paper")
    assert len(shown) == len(plain) == 4
    assert not torch.equal(plain[-1], shown[-1])


def test_a_real_autoencoder_carries_the_gradient(cases: dict[str, Case], kl_vae: Any) -> None:
    case = cases["sd15"]
    model_vae = case.vae
    try:
        case.vae = kl_vae
        guided, _ = case.lags(mode="paper", strength=3.0)
        assert case.score(guided).mean() > case.score(case.ksampler()).mean()
    finally:
        case.vae = model_vae


@pytest.mark.parametrize("sampling", ["v_prediction", "x0", "lcm"])
def test_other_parametrisations(cases: dict[str, Case], run_node: Any, sampling: str) -> None:
    import comfy_extras.nodes_model_advanced as advanced

    case = cases["sd15"]
    (model,) = run_node(
        advanced.ModelSamplingDiscrete, model=case.model, sampling=sampling, zsnr=False
    )
    plain = case.ksampler(model=model)
    guided, _ = case.lags(model=model)
    assert case.score(guided).mean() > case.score(plain).mean()


def test_flow_model(cases: dict[str, Case], run_node: Any) -> None:
    """A flow schedule on the tiny model: its first noise level has no signal, and stays plain."""
    import comfy.model_sampling as ms

    case = cases["sd15"]

    class Flow(ms.ModelSamplingDiscreteFlow, ms.CONST):
        pass

    model = case.model.clone()
    model.add_object_patch("model_sampling", Flow(case.model.model.model_config))
    settings = {"model": model, "scheduler": "simple", "steps": 6}
    plain = case.ksampler(**settings)
    guided, trace = case.lags(**settings)
    assert torch.isfinite(guided).all()
    assert len(trace.records) == 5, "sigma = 1 is not guided"
    assert case.score(guided).mean() > case.score(plain).mean()


def test_all_nodes_validate(pack: Any) -> None:
    from lags_pack.nodes import NODES

    for node in NODES:
        node.VALIDATE_CLASS()
        schema = node.define_schema()
        assert schema.node_id == node.__name__
        assert schema.category == "sampling/weighted"
        for given in schema.inputs:
            assert given.tooltip, f"{schema.node_id}.{given.id} has no tooltip"


def test_what_a_sampler_node_asks_for_arrives(pack: Any) -> None:
    """A widget in the schema is an argument of execute or a field of what it hands on."""
    from lags_pack.nodes import NODES

    known, seen = {field.name for field in fields(SamplerInputs)}, 0
    for node in NODES:
        asked = {given.id for given in node.define_schema().inputs}
        if "latent_image" in asked:
            named = set(inspect.signature(node.execute).parameters)
            assert asked - named <= known, node.__name__
            assert not asked & named & known - {"method"}, "these would not arrive"
            seen += 1
    assert seen == 4
