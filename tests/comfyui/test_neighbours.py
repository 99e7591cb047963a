"""Other nodes' patches beside guidance: alone as ever at strength 0, and in either order the same.

ComfyUI's own nodes where it has them; for other packs, small ones of the kind that they are.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfyui_support import tiny
from comfyui_support.executing import run_node
from comfyui_support.guided import REWARD, Case, Probe, noting
from comfyui_support.weighing import case_of
from lags_pack.guidance import Trace
from lags_pack.nodes.methods.dps import LAGSMethodDPS
from lags_pack.nodes.methods.lidar import LAGSMethodLiDAR
from lags_pack.nodes.samplers.search import LAGSSearchSampler
from lags_pack.rewards import Weight
from lags_pack.runtime import lookahead
from lags_pack.runtime.caches import caches_on
from lags_pack.runtime.run import Guidance
from torch import Tensor

import nodes

# An SD1.5 with a middle block, which PAG and SAG hook.
DEPTHS = {"transformer_depth_middle": 1, "transformer_depth_output": [0] * 2}
FULL = tiny._SD15 | DEPTHS | {"out_channels": 4}
Log = pytest.LogCaptureFixture
Patch = Callable[[Case, Any], Any]
# Every MODEL, as in a graph: ComfyUI looks for memory at each run once one has gone that it loaded.
ALIVE: list[Any] = []


def kept(model: Any) -> Any:
    ALIVE.append(model)
    return model


@pytest.fixture(scope="module")
def case(comfy_base) -> Iterator[Case]:
    """An image of 64 x 64 in two steps, on a model with all that patches look for."""
    name = "tiny_whole_sd15.safetensors"
    tiny._save_checkpoint(comfy_base / "models" / "checkpoints" / name, FULL, 5, 0.18215)
    model, _, vae = run_node(nodes.CheckpointLoaderSimple, ckpt_name=name)
    prompts = (tiny.make_conditioning(768, None, seed) for seed in (1, 2))
    loaded = tiny.TinyModel(name, model, vae, *prompts)
    yield case_of(loaded, batch=1, size=8, steps=2, cfg=4.0, strength=20.0)
    ALIVE.clear()


def guidance(case: Case, model: Any, mode: str = "balanced", **changes: Any) -> Any:
    """LAGS Guidance on a MODEL."""
    return kept(case.guided(model=model, mode=mode, **changes))


def in_both_orders(
    case: Case, patch: Patch, mode: str = "balanced", **changes: Any
) -> tuple[Tensor, Tensor]:
    """Guided latents with a patch put on before guidance, and with it put on after."""
    before = guidance(case, patch(case, case.model), mode)
    after = patch(case, guidance(case, case.model, mode))
    return case.ksampler(model=before, **changes), case.ksampler(model=after, **changes)


# ---- the neighbours ---------------------------------------------------------------------------


def of_comfyui(module: str, node: str, **inputs: Any) -> Patch:
    """A node of ComfyUI that patches a MODEL."""

    def patch(case: Case, model: Any) -> Any:
        found = importlib.import_module(f"comfy_extras.{module}")
        return kept(run_node(getattr(found, node), model=model, **inputs)[0])

    return patch


def on_clone(change: Callable[[Any], None]) -> Patch:
    """Another pack's patch: a change of a clone of the MODEL."""

    def patch(case: Case, model: Any) -> Any:
        clone = kept(model.clone())
        change(clone)
        return clone

    return patch


def dynamic_thresholding(args: dict[str, Any]) -> Tensor:
    """A sampler_cfg_function as that pack's: no further out than the prompt's branch goes."""
    cond, uncond = args["cond"], args["uncond"]
    limit = cond.abs().amax(dim=(2, 3), keepdim=True)
    return (uncond + args["cond_scale"] * (cond - uncond)).clamp(-limit, limit)


def tiled(apply: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
    """A model_function_wrapper that evaluates each half of the image by itself."""
    x, at, others = args["input"], args["timestep"], args["c"]
    return torch.cat([apply(half, at, **others) for half in x.chunk(2, dim=2)], dim=2)


def louder(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
    """A wrapper of any kind."""
    return executor(*args, **kwargs) * 1.05


def sharper(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> tuple[Tensor, ...]:
    return q * 1.5, k, v


def turned(out: Tensor, extra: dict[str, Any]) -> Tensor:
    return out.roll(1, dims=1)


def as_freeu(h: Tensor, skip: Tensor, extra: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """FreeU scales half of the channels; its own node knows only levels that this model lacks."""
    h[:, : h.shape[1] // 2] *= 1.3
    return h, skip * 0.9


def image_prompt(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
    """An attn2_replace as IPAdapter's: attention over more tokens."""
    more = k.roll(3, dims=1)
    heads = extra["n_heads"]
    parts = [t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v, more)]
    attend = torch.nn.functional.scaled_dot_product_attention
    out = attend(*parts[:3]) + 0.5 * attend(parts[0], parts[3], parts[2])
    return out.transpose(1, 2).flatten(2)


NEIGHBOURS: dict[str, Patch] = {
    "PAG": of_comfyui("nodes_pag", "PerturbedAttentionGuidance", scale=2.0),
    "SAG": of_comfyui("nodes_sag", "SelfAttentionGuidance", scale=0.5, blur_sigma=2.0),
    "APG": of_comfyui("nodes_apg", "APG", eta=0.5, norm_threshold=5.0, momentum=0.0),
    "APG with momentum": of_comfyui("nodes_apg", "APG", eta=0.5, norm_threshold=5.0, momentum=-0.5),
    "TCFG": of_comfyui("nodes_tcfg", "TCFG"),
    "CFGZeroStar": of_comfyui("nodes_cfg", "CFGZeroStar"),
    "RescaleCFG": of_comfyui("nodes_model_advanced", "RescaleCFG", multiplier=0.7),
    "Mahiro": of_comfyui("nodes_mahiro", "Mahiro"),
    "EpsilonScaling": of_comfyui("nodes_eps", "EpsilonScaling", scaling_factor=1.01),
    "FreSca": of_comfyui("nodes_fresca", "FreSca", scale_low=1.0, scale_high=1.25, freq_cutoff=2),
    "output block patch": on_clone(lambda m: m.set_model_output_block_patch(as_freeu)),
    "HyperTile": of_comfyui(
        "nodes_hypertile", "HyperTile", tile_size=32, swap_size=2, max_depth=0, scale_depth=False
    ),
    "ToMe": of_comfyui("nodes_tomesd", "TomePatchModel", ratio=0.3),
    "Deep Shrink": of_comfyui(
        *("nodes_model_downscale", "PatchModelAddDownscale"),
        **{"block_number": 1, "downscale_factor": 2.0, "downscale_after_skip": True},
        **{"start_percent": 0.0, "end_percent": 0.6},
        **{"downscale_method": "bicubic", "upscale_method": "bicubic"},
    ),
    "ModelSamplingContinuousEDM": of_comfyui(
        *("nodes_model_advanced", "ModelSamplingContinuousEDM"),
        **{"sampling": "eps", "sigma_max": 20.0, "sigma_min": 0.05},
    ),
    "attention multiply": of_comfyui(
        "nodes_attention_multiply", "UNetSelfAttentionMultiply", q=1.2, k=1.0, v=0.9, out=1.0
    ),
    "dynamic thresholding": on_clone(
        lambda m: m.set_model_sampler_cfg_function(dynamic_thresholding)
    ),
    "function wrapper": on_clone(lambda m: m.set_model_unet_function_wrapper(tiled)),
    "attn1 patch": on_clone(lambda m: m.set_model_attn1_patch(sharper)),
    "attn output patch": on_clone(lambda m: m.set_model_attn1_output_patch(turned)),
    "attn2 replace": on_clone(lambda m: m.set_model_attn2_replace(image_prompt, "input", 1)),
    "apply_model wrapper": on_clone(
        lambda m: m.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "louder", louder)
    ),
}
if find_spec("comfy_extras.nodes_multigpu"):
    NEIGHBOURS["MultiGPU"] = of_comfyui("nodes_multigpu", "MultiGPUCFGSplitNode", max_gpus=2)
SILENT = ("MultiGPU",)  # it finds no second device here


@pytest.fixture(scope="module")
def plain(case) -> Tensor:
    """Without any patch, everything loaded."""
    case.lags()
    return case.ksampler()


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_neighbour_before_and_after(case, plain, name):
    """Bit for bit alone at strength 0, the same image in both orders, and nothing left behind."""
    neighbour = NEIGHBOURS[name](case, case.model)
    alone = case.ksampler(model=neighbour)
    assert torch.equal(alone, plain) == (name in SILENT), "the neighbour is at work"
    left = left_on(case)
    assert torch.equal(case.ksampler(model=guidance(case, neighbour, strength=0.0)), alone)
    before, after = in_both_orders(case, NEIGHBOURS[name])
    assert torch.isfinite(before).all() and not torch.equal(before, alone)
    assert torch.equal(before, after)
    assert torch.equal(case.ksampler(model=neighbour), alone)
    assert left_on(case) == left


def left_on(case: Case) -> list[Any]:
    """What guidance could leave, but for the weights, which patches of weights put in anew."""
    model = case.model
    carried = [str(part) for part in (model.wrappers, model.model_options, model.object_patches)]
    return [*carried, *(entry for entry in case.state() if not isinstance(entry[-1], int))]


def test_a_wrapper_of_whole_evaluations_is_the_one_whose_place_matters(case):
    """Before guidance it gets the guided image, after it the plain ones that are compared."""
    patch = on_clone(lambda m: m.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "louder", louder))
    neighbour = patch(case, case.model)
    alone = case.ksampler(model=neighbour)
    assert torch.equal(case.ksampler(model=guidance(case, neighbour, strength=0.0)), alone)
    before, after = in_both_orders(case, patch)
    for guided in (before, after):
        assert torch.isfinite(guided).all() and not torch.equal(guided, alone)
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", ["APG with momentum", "ToMe"])
def test_what_a_neighbour_remembers_or_draws_is_alike_in_both_forwards(case, plain, name):
    """Else their difference would be the neighbour's, divided by a small step.

    Without care APG's momentum moves the image 10,000 times as far, ToMe's random draws 5 times.
    """
    neighbour = NEIGHBOURS[name](case, case.model)
    alone = case.ksampler(model=neighbour)
    change = (case.ksampler(model=guidance(case, neighbour, "paper")) - alone).norm()
    usual = (case.ksampler(model=guidance(case, case.model, "paper")) - plain).norm()
    assert 0.3 * usual < change < 3 * usual
    nothing = guidance(case, NEIGHBOURS[name](case, case.model), "paper", strength=1e-9)
    torch.testing.assert_close(case.ksampler(model=nothing), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["PAG", "APG", "TCFG", "dynamic thresholding", "function wrapper"])
def test_cfg_1_is_still_one_branch(case, name):
    patched = NEIGHBOURS[name](case, case.model)
    neighbour, rows = noting(
        patched, WrappersMP.APPLY_MODEL, lambda *args: args[5]["cond_or_uncond"]
    )
    alone = case.ksampler(model=neighbour, cfg=1.0)
    calls = len(rows)
    guided = case.ksampler(model=guidance(case, neighbour, "paper"), cfg=1.0)
    assert len(rows) == 3 * calls and all(branches == [0] for branches in rows)
    assert not torch.equal(guided, alone)


# ---- caches -----------------------------------------------------------------------------------

CACHES = ("EasyCache", "LazyCache")
BOTH_CACHES = pytest.mark.parametrize("name", CACHES)
STEPS = 6
EULER = {"steps": STEPS, "sampler_name": "euler"}


def cache(name: str, threshold: float = 3.0) -> Patch:
    """A cache of ComfyUI's; at 0 it never skips a step, at 3 most of them."""
    span = {"start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    return of_comfyui("nodes_easycache", f"{name}Node", reuse_threshold=threshold, **span)


def skipped(caplog: Log) -> list[int]:
    """How many steps the caches say that they left out, run by run."""
    found = re.findall(r"Cache - skipped (\d+)/", caplog.text)
    caplog.clear()
    return [int(number) for number in found]


@pytest.fixture
def told(caplog) -> Log:
    caplog.set_level(logging.INFO)
    return caplog


@BOTH_CACHES
@pytest.mark.parametrize("mode", ["balanced", "paper"])
def test_a_cache_that_never_skips_changes_nothing(case, name, mode):
    expected = case.ksampler(model=guidance(case, case.model, mode))
    before, after = in_both_orders(case, cache(name, 0.0), mode)
    assert torch.equal(before, expected) and torch.equal(after, expected)


@BOTH_CACHES
def test_guided_steps_go_past_a_cache(case, told, name):
    """In mode `paper` all are guided, so a cache that would skip most steps skips none."""
    patch = cache(name)
    case.ksampler(model=patch(case, case.model), **EULER)
    assert skipped(told)[0] >= 2
    expected = case.ksampler(model=guidance(case, case.model, "paper"), **EULER)
    guided = case.ksampler(model=patch(case, guidance(case, case.model, "paper")), **EULER)
    said = [r.message for r in told.records if "this model carries" in r.message]
    assert len(said) == 1 and name.lower() in said[0] and "mode 'fast'" in said[0]
    assert skipped(told) == [0]
    assert torch.equal(guided, expected)


@BOTH_CACHES
def test_a_cache_goes_on_where_nothing_is_compared(case, told, name):
    model = guidance(case, cache(name)(case, case.model), "fast")
    guided = case.ksampler(model=model, **EULER)
    assert "past" not in told.text and skipped(told)[0] >= 2
    assert torch.isfinite(guided).all()


def test_lazycache_around_guidance_skips_guided_steps_whole(case, told):
    """Where it comes before; what it repeats is a guided image, as near as to a plain one."""
    lazy = cache("LazyCache")(case, case.model)
    plain, cached = (case.ksampler(model=m, **EULER) for m in (case.model, lazy))
    exact = case.ksampler(model=guidance(case, case.model, "paper"), **EULER)
    told.clear()
    lazy = cache("LazyCache")(case, case.model)
    guided = case.ksampler(model=guidance(case, lazy, "paper"), **EULER)
    assert skipped(told)[0] >= 2
    assert (guided - exact).norm() < 1.5 * (cached - plain).norm()


class _Looks(Probe):
    """A method that compares evaluations, and guides nothing."""

    def is_active(self, sigma: Tensor) -> Tensor:
        return torch.zeros_like(sigma, dtype=torch.bool)


@BOTH_CACHES
@pytest.mark.parametrize("threshold", [0.5, 3.0])
def test_second_evaluations_neither_read_nor_write_a_cache(case, told, name, threshold):
    patch = cache(name, threshold)
    expected = case.ksampler(model=patch(case, case.model), **EULER)
    counted = skipped(told)
    looking = Guidance(_Looks(compare=True), Weight.of(REWARD, 1.0), case.vae, Trace())
    for order in (
        lambda: looking.apply(patch(case, case.model)),
        lambda: patch(case, looking.apply(case.model)),
    ):
        assert torch.equal(case.ksampler(model=order(), **EULER), expected)
        assert skipped(told) == counted


class DeepCache:
    """A cache as that pack's: it counts the noise levels and gives the last answer at every other.

    Attributes:
        levels: noise levels seen.
    """

    def __init__(self) -> None:
        self.levels: list[float] = []
        self.last: Tensor | None = None

    def apply(self, model: Any) -> Any:
        clone = kept(model.clone())

        def apply_model(function: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
            level = float(args["timestep"][0])
            if level not in self.levels:
                self.levels.append(level)
            if self.last is None or len(self.levels) % 2:
                self.last = function(args["input"], args["timestep"], **args["c"])
            return self.last

        clone.set_model_unet_function_wrapper(apply_model)
        return clone


def test_another_packs_cache_is_left_out_of_runs_that_compare(case, told):
    """It counts steps, so it must see all of them or none."""
    deep = DeepCache()
    expected = case.ksampler(model=guidance(case, case.model))
    guided = case.ksampler(model=guidance(case, deep.apply(case.model)))
    assert torch.equal(guided, expected) and not deep.levels
    assert "carries deepcache" in told.text
    case.ksampler(model=guidance(case, deep.apply(case.model), "fast"))
    assert len(deep.levels) == 2


def test_a_function_wrapper_of_no_cache_stays():
    def in_a_users_cache_folder(*_: Any) -> None: ...

    in_a_users_cache_folder.__module__ = "/home/teacache/ComfyUI/custom_nodes/tiles"
    in_a_users_cache_folder.__qualname__ = "Tiles.apply.<locals>.wrapper"
    assert caches_on({"model_function_wrapper": in_a_users_cache_folder}) == []
    in_a_users_cache_folder.__module__ = "/home/me/ComfyUI/custom_nodes/ComfyUI-TeaCache.nodes"
    assert caches_on({"model_function_wrapper": in_a_users_cache_folder}) == ["teacache"]


def compares(denoiser: Any, log_weight: Any, x: Tensor, sigma_ve: Tensor) -> Tensor:
    """A function of another pack: nobody can tell whether it compares evaluations."""
    denoised = denoiser(x, sigma_ve)
    _, v = log_weight.value_and_grad(denoised)
    return denoised + 100 * (denoiser(x + 1e-2 * v, sigma_ve) - denoised)


@BOTH_CACHES
@pytest.mark.parametrize("through_the_model", [True, False])
def test_other_methods_go_past_a_cache(case, name, through_the_model):
    """One that takes the gradient through the model, and a function that compares evaluations."""
    method, settings = compares, EULER
    if through_the_model:
        (method,) = run_node(LAGSMethodDPS, rho=1.0, normalised=False)
        settings = {**EULER, "sampler_name": "euler_ancestral"}
    expected = case.ksampler(model=guidance(case, case.model, method=method), **settings)
    cached = cache(name)(case, guidance(case, case.model, method=method))
    assert torch.equal(case.ksampler(model=cached, **settings), expected)


def test_lidars_quick_images_bypass_a_cache(case):
    widgets = {"count": 2, "lookahead_steps": 4, "scale": 1.0, "sigma_end": 0.1}
    images = []
    for model in (case.model, cache("LazyCache")(case, case.model)):
        lookahead.cached.clear()
        (method,) = run_node(LAGSMethodLiDAR, **widgets, lookahead_seed=0)
        case.ksampler(model=guidance(case, model, method=method))
        images += [kept.samples for kept in lookahead.cached.values()]
    assert torch.equal(*images)


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_automatic_strength_is_measured_past_a_cache(case, name):
    weight = Weight.of(REWARD, 1.0, 3.0)
    strengths = []
    for model in (case.model, cache(name)(case, case.model)):
        lookahead.cached.clear()
        _, trace = case.lags(model=model, weight=weight, mode="fast", steps=STEPS)
        strengths.append(trace.strengths)
    assert strengths[0] == strengths[1]


# ---- compiled models, and the other samplers --------------------------------------------------


def test_a_compiled_model(case):
    """ComfyUI's own node; 'eager' traces as every other backend does, and needs no C compiler."""
    compiled = of_comfyui("nodes_torch_compile", "TorchCompileModel", backend="eager")
    model = compiled(case, case.model)
    one_branch = {"cfg": 1.0}  # one shape, traced once
    plain = case.ksampler(**one_branch)
    alone = case.ksampler(model=model, **one_branch)
    torch.testing.assert_close(alone, plain, rtol=1e-4, atol=1e-3)
    off = case.ksampler(model=guidance(case, model, strength=0.0), **one_branch)
    assert torch.equal(off, alone)
    before, after = in_both_orders(case, compiled, **one_branch)
    assert torch.equal(before, after)
    expected = case.ksampler(model=guidance(case, case.model), **one_branch)
    assert (before - expected).norm() < 0.01 * (expected - plain).norm()


OTHERS = ["PAG", "APG", "dynamic thresholding", "function wrapper"]


@pytest.fixture(scope="module")
def plain_particles(case) -> Tensor:
    return case.particles()


@pytest.mark.parametrize("name", OTHERS)
def test_particles_beside_a_neighbour(case, plain_particles, name):
    neighbour = NEIGHBOURS[name](case, case.model)
    off = case.particles(model=neighbour, strength=0.0)
    left = left_on(case)
    guided = case.particles(model=neighbour)
    assert torch.isfinite(guided).all()
    assert not torch.equal(guided, off) and not torch.equal(guided, plain_particles)
    assert left_on(case) == left


def test_particles_go_past_a_cache(case, told):
    expected = case.particles(steps=STEPS)
    for name in CACHES:
        told.clear()
        guided = case.particles(model=cache(name)(case, case.model), steps=STEPS)
        assert torch.equal(guided, expected)
        assert told.text.count(f"carries {name.lower()}") == 1
    cached = cache("EasyCache")(case, case.model)
    told.clear()
    case.particles(model=cached, particles=1, strength=0.0, steps=STEPS)
    assert skipped(told)[0] >= 2, "nothing is weighed, so all is as ever"


def test_particles_leave_a_cache_that_was_filled_by_more_of_them(case, told):
    """Memory runs out in the middle of plain particles, and each goes on alone."""
    calls = 0

    def once(apply: Any, args: dict[str, Any]) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise torch.OutOfMemoryError("injected")
        return apply(args["input"], args["timestep"], **args["c"])

    model = cache("EasyCache")(case, case.model)
    model.set_model_unet_function_wrapper(once)
    plain = {"particles": 2, "strength": 0.0, "steps": STEPS, "output": "all"}
    done = case.particles(model=model, **plain)
    assert calls > 4 and "one particle at a time" in told.text
    expected = case.particles(**plain)
    assert (done - expected).abs().mean() < 0.5 * expected.std()


@pytest.mark.parametrize("name", OTHERS)
def test_search_beside_a_neighbour(case, name):
    neighbour = NEIGHBOURS[name](case, case.model)
    given = {"vae": case.vae, "weight": Weight.of(REWARD, 1.0), **case.settings}
    widgets = {"rounds": 1, "neighbours": 1, "radius": 0.0}
    latent, (found,), *_ = run_node(LAGSSearchSampler, model=neighbour, **given, **widgets)
    alone = case.ksampler(model=neighbour)
    assert torch.equal(latent["samples"], alone) or found > float(case.score(alone))
