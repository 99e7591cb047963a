"""DPS, FreeDoM and LiDAR on the method socket, in a real ComfyUI."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
import pytest
import torch
from comfyui_support.executing import run_node
from comfyui_support.guided import Case, counted, on
from comfyui_support.weighing import case_of, demo_case
from lags_pack.nodes.methods.dps import LAGSMethodDPS
from lags_pack.nodes.methods.freedom import LAGSMethodFreeDoM
from lags_pack.nodes.methods.lidar import LAGSMethodLiDAR
from lags_pack.nodes.methods.mpgd import LAGSMethodMPGD
from lags_pack.rewards import ColourReward, Weight
from lags_pack.runtime import lookahead

EACH = on("sd15", "sdxl", "demo")
FULL_RUN = {"first": 1.0, "last": 0.0, "travel_until": 0.0, "repeats": 1}
WIDGETS: dict[str, tuple[type, dict[str, Any]]] = {
    "dps": (LAGSMethodDPS, {"rho": 1.0, "normalised": False}),
    "normalised": (LAGSMethodDPS, {"rho": 1.0, "normalised": True}),
    "freedom": (LAGSMethodFreeDoM, {"step": 0.2, "plain_step": 0.1, **FULL_RUN, "repeats": 2}),
    "lidar": (
        LAGSMethodLiDAR,
        {"count": 6, "lookahead_steps": 3, "scale": 1.0, "sigma_end": 0.1, "lookahead_seed": 0},
    ),
    "mpgd": (LAGSMethodMPGD, {"rho": 1.0}),
}


@pytest.fixture(scope="session")
def cases(sd15, sdxl) -> dict[str, Case]:
    """One case per model, all with two branches."""
    return {
        "sd15": case_of(sd15, 2, strength=20.0),
        "sdxl": case_of(sdxl, 2, strength=20.0),
        "demo": demo_case(2, cfg=2.0, strength=20.0),
    }


def method(case: Case, name: str, **changes: Any) -> Any:
    node, widgets = WIDGETS[name]
    return run_node(node, **{**widgets, **changes})[0]


@EACH
@pytest.mark.parametrize("name", WIDGETS)
def test_every_method_raises_the_score_and_leaves_nothing(case, request, name):
    model, calls = counted(case.model)
    plain_score = case.score(case.ksampler()).mean()  # which also loads model and VAE
    before = case.state()
    guided, trace = case.lags(method=method(case, name), model=model)
    assert torch.isfinite(guided).all()
    if name != "freedom" or request.node.callspec.params["case"] == "demo":
        # Time travel draws other noise, and of a random network no two images have to do with
        # each other; the trained one shows that the score rises.
        assert case.score(guided).mean() > plain_score
    assert case.state() == before
    lookahead = 3 * 3 if name == "lidar" else 0  # 6 images in batches of 2, 3 steps each
    assert len(calls) == trace.model_calls
    assert (trace.start.model_calls if trace.start else 0) == lookahead
    assert len(trace.records) == (8 if name == "freedom" else 4)
    assert trace.label.split(",")[0] in ("DPS", "FreeDoM", "LiDAR", "MPGD")


@EACH
def test_freedom_that_does_nothing_is_ksampler_bit_for_bit(case):
    nothing = method(case, "freedom", step=0.0, plain_step=0.0, repeats=1)
    assert torch.equal(case.lags(method=nothing)[0], case.ksampler())


@on("demo")
def test_strength_zero_is_ksampler(case):
    off, trace = case.lags(method=method(case, "dps"), strength=0.0)
    assert torch.equal(off, case.ksampler()) and not trace.records


@on("demo")
@pytest.mark.parametrize("name", WIDGETS)
def test_cfg_1_mask_and_part_of_the_steps(case, name):
    latent = dict(case.settings["latent_image"])
    mask = torch.zeros(1, 1, *latent["samples"].shape[-2:])
    mask[..., : mask.shape[-1] // 2] = 1
    kept = torch.full_like(latent["samples"], 0.3)
    latent |= {"samples": kept, "noise_mask": mask}
    guided, _ = case.lags(method=method(case, name), cfg=1.0, latent_image=latent, denoise=0.8)
    assert torch.isfinite(guided).all()
    outside = (mask == 0).expand_as(guided)
    torch.testing.assert_close(guided[outside], kept[outside], atol=1e-5, rtol=0)
    assert not torch.allclose(guided[~outside], kept[~outside])


def test_gradient_is_the_models_own(case):
    """Recomputed blocks and copied weights give the gradient of a plain backward pass.

    At rho d apart the first step's shifts differ by d sigma^2 J^T v; a finite difference of log w
    along it must find the same slope as its length says.
    """
    from lags_pack.guidance import VEView
    from lags_pack.runtime.evaluations import DifferentiableEvaluations

    net = case.model.model
    with torch.inference_mode():
        mm.load_models_gpu([case.model])
        generator = torch.Generator().manual_seed(5)
        x = torch.randn(1, 4, 8, 8, generator=generator)
        v = torch.randn(1, 4, 8, 8, generator=generator)
        sigma = torch.tensor([1.0])
        context = case.settings["positive"][0][0]

        def evaluate(x: Any, timestep: Any, options: Any, seed: Any) -> Any:
            return net.apply_model(x, timestep, c_crossattn=context, transformer_options={})

        class Guider:
            model_options: dict[str, Any] = {}

        view = VEView(torch.ones(1), sigma)
        evaluation = (evaluate, Guider(), x, sigma, view, {}, 0)
        at = DifferentiableEvaluations(*evaluation, networks=[net], cfg=1.0)
        denoised, pull = at.vjp(at.x_ve, sigma)
        gradient = pull(v)
        torch.testing.assert_close(denoised, evaluate(x, sigma, {}, 0), atol=1e-4, rtol=1e-4)
        direction = torch.randn(1, 4, 8, 8, generator=generator)
        step = 0.02
        ahead = evaluate(x + step * direction, sigma, {}, 0)
        behind = evaluate(x - step * direction, sigma, {}, 0)
        slope = float(((ahead - behind) / (2 * step) * v).sum())
    assert abs(float((gradient * direction).sum()) - slope) < 0.03 * abs(slope) + 0.05


@on("demo")
def test_lidar_makes_its_pictures_once_per_prompt(case):
    model, calls = counted(case.model)
    lidar = method(case, "lidar")

    def cost(**changes: Any) -> int:
        calls.clear()
        _, trace = case.lags(method=lidar, model=model, **changes)
        assert trace.model_calls == len(calls), "the trace counts them too"
        assert trace.value_calls == 3, "six images, two at a time"
        return trace.start.model_calls

    other = [[c[0] + 0.5, c[1]] for c in case.settings["positive"]]
    assert cost() == 9
    assert cost(seed=11) == 0, "the same prompt"
    assert cost(positive=other) == 9, "another prompt"
    assert cost(cfg=3.0, positive=other) == 9, "another cfg"


@on("sd15")
def test_quick_images_follow_what_other_nodes_do_to_the_model(case):
    """RescaleCFG and its like change no weights of the model: their functions tell."""
    lidar = method(case, "lidar")

    def rescaled(share: float) -> Any:
        model = case.model.clone()
        model.set_model_sampler_cfg_function(lambda args: share * args["cond"])
        return model

    def cost(model: Any) -> int:
        return case.lags(method=lidar, model=model)[1].start.model_calls

    lookahead.cached.clear()
    half, most = rescaled(0.5), rescaled(0.9)
    assert [cost(model) for model in (half, half, most, half)] == [9, 0, 9, 0]
    del half
    assert cost(rescaled(0.7)) == 9, "it may lie where the first one lay"


@on("demo")
def test_lidar_looks_ahead_from_the_input_picture(case):
    """Its quick images keep what the run keeps: the structure, and all outside of a mask."""
    whole = {**case.settings["latent_image"], "samples": case.ksampler()}
    mask = torch.zeros(1, 1, *whole["samples"].shape[2:])
    mask[..., : mask.shape[-1] // 2] = 1
    model, calls = counted(case.model)

    def looked(latent: dict[str, Any], denoise: float, **changes: Any) -> torch.Tensor:
        lidar, made = method(case, "lidar"), {**changes, "latent_image": latent}
        calls.clear()
        _, trace = case.lags(method=lidar, model=model, denoise=denoise, **made)
        assert trace.model_calls == len(calls)
        return list(lookahead.cached.values())[-1].samples

    kept = case.model.model.process_latent_in(whole["samples"])
    near = looked(whole, 0.3)
    assert near.shape[:2] == (2, 6), "each input image has its own"
    apart = (near - kept[:, None]).square().mean()
    assert apart < 0.5 * (looked(whole, 1.0) - kept[:, None]).square().mean()
    held = looked({**whole, "noise_mask": mask}, 1.0)
    outside = (mask == 0).expand(2, 6, *kept.shape[1:])
    torch.testing.assert_close(held[outside], kept[:, None].expand_as(held)[outside])
    same = {**whole, "samples": whole["samples"][:1].repeat(2, 1, 1, 1)}
    assert looked(same, 0.3).shape[0] == 6, "one set for inputs that are alike"


@on("demo")
def test_lidar_takes_a_weight_without_gradient(case):
    class Jury(ColourReward):
        differentiable = False

    weight = Weight.of(Jury("hue", 0.0), 20.0)
    guided, _ = case.lags(method=method(case, "lidar"), weight=weight)
    assert case.score(guided).mean() > case.score(case.ksampler()).mean()
    for name in ("dps", "freedom"):
        with pytest.raises(ValueError, match="has no gradient, which guidance needs"):
            case.lags(method=method(case, name), weight=weight)


def test_refusals(cases):
    case = cases["demo"]
    with pytest.raises(ValueError, match="of its own, and the sampler is 'euler'"):
        case.lags(method=method(case, "freedom"), sampler_name="euler")
    two = [[torch.cat([c[0], c[0]]), c[1]] for c in cases["sd15"].settings["positive"]]
    with pytest.raises(ValueError, match="one prompt, and this batch has 2"):
        cases["sd15"].lags(method=method(case, "lidar"), positive=two)
    with pytest.raises(ValueError, match="rho is -1"):
        method(case, "dps", rho=-1.0)
    with pytest.raises(ValueError, match="window goes from 0.1 to 0.5"):
        method(case, "freedom", first=0.1, last=0.5)


@pytest.mark.parametrize("name", ["dps", "freedom", "lidar"])
def test_interrupt_leaves_nothing(case, name, monkeypatch):
    case.score(case.ksampler())
    before = case.state()
    looks = []

    def stop() -> None:
        looks.append(1)
        if len(looks) == 4:
            raise mm.InterruptProcessingException()

    with monkeypatch.context() as patched:
        patched.setattr(mm, "throw_exception_if_processing_interrupted", stop)
        with pytest.raises(mm.InterruptProcessingException):
            case.lags(method=method(case, name))
    assert case.state() == before


@on("demo")
def test_guidance_node_too(case):
    guided = case.ksampler(model=case.guided(method=method(case, "dps")))
    assert torch.equal(guided, case.lags(method=method(case, "dps"))[0])


@on("demo")
def test_memory_is_said_before_the_run(case, caplog):
    with caplog.at_level("INFO"):
        case.lags(method=method(case, "dps"))
    assert "DPS goes backward through the diffusion model" in caplog.text
