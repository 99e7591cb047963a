"""What balanced mode asks of the model: one branch again, and the steps of ancestral samplers."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from lags_pack.guidance import Trace, ancestral_keep
from lags_pack.rewards import Weight
from lags_pack.runtime import run as patch
from lags_pack.tests.comfyui import guided
from lags_pack.tests.comfyui.guided import REWARD, Case, Probe, noting
from lags_pack.tests.comfyui.weighing import case_of
from torch import Tensor


@pytest.fixture(scope="module")
def case(sd15) -> Case:
    return case_of(sd15, batch=2, size=8, steps=3)


def rows_asked(case: Case, **changes: Any) -> list[int]:
    """Rows of the network, evaluation by evaluation, of a guided run with one branch each."""
    model, rows = noting(
        case.model,
        WrappersMP.CALC_COND_BATCH,
        lambda _, conds, *rest: sum(cond is not None for cond in conds),
    )
    case.lags(model=model, **changes)
    return rows


def options(**changes: Any) -> Any:
    """LAGS Options, with no step skipped."""
    return guided.options(skip_below=0.0, **changes)


def test_balanced_takes_the_branch_with_the_prompt_alone(case):
    assert rows_asked(case, options=options()) == [2, 1] * 4  # the start and three steps
    full = options(second_forward="full")
    assert rows_asked(case, options=full) == [2, 2] * 4
    assert rows_asked(case, mode="paper") == [2, 2] * 3
    # the start asks whether the model is a distilled one
    assert rows_asked(case, options=options(), cfg=1.0) == [1, 1, 1] + [1, 1] * 3


def probed(case: Case, probe: Probe, **changes: Any) -> Tensor:
    """KSampler with the probe as its method: what comes out is plain."""
    model = changes.pop("model", case.model)
    guided = patch.Guidance(probe, Weight.of(REWARD, 1.0), case.vae, Trace())
    return case.ksampler(model=guided.apply(model), **changes)


def test_looking_at_the_branches_changes_nothing(case):
    assert torch.equal(probed(case, Probe()), case.ksampler())


def test_the_other_branch_is_taken_to_move_as_far(case):
    """At cfg 1 there is one branch; above, the difference does not grow with cfg."""
    at = {}
    for cfg in (1.0, 2.0, 6.0):
        probe = Probe(compare=True)
        probed(case, probe, cfg=cfg, steps=1)
        at[cfg] = probe.differences
    assert torch.equal(*at[1.0])
    assert torch.allclose(at[2.0][0], at[6.0][0], atol=1e-4)
    assert torch.allclose(at[2.0][0], at[1.0][0], atol=1e-4), "the prompt's branch, as at cfg 1"
    assert not torch.allclose(at[6.0][0], at[6.0][1], atol=1e-2)


def test_another_packs_way_to_evaluate_branches_stays(case):
    calls: list[int] = []

    def own_way(args: dict[str, Any]) -> list[Tensor]:
        calls.append(len(args["conds"]))
        kept = {k: v for k, v in args["model_options"].items() if "calc_cond_batch" not in k}
        return comfy.samplers.calc_cond_batch(
            args["model"], args["conds"], args["input"], args["sigma"], kept
        )

    model = case.model.clone()
    model.set_model_sampler_calc_cond_batch_function(own_way)
    case.lags(model=model, options=options())
    assert calls == [2, 2] * 4, "theirs, for every evaluation"


@pytest.mark.parametrize(
    ("sampler", "power"),
    [("euler_ancestral", 1), ("ddpm", 1), ("euler", 0.5), ("dpmpp_2m", 0), ("lcm", None)],
)
def test_the_correction_is_that_of_the_sampler(case, sampler, power):
    """What a step keeps of x - D: (sigma' / sigma)^2, sigma' / sigma, not known, nothing."""
    probe = Probe()
    probed(case, probe, sampler_name=sampler, scheduler="karras")
    sigmas = comfy.samplers.KSampler(
        case.model, 3, "cpu", sampler=sampler, scheduler="karras", denoise=1.0
    ).sigmas
    kept = [ancestral_keep(sigmas, float(sigma)) for sigma in sigmas[:-1]]
    expected = [0.0 if power is None else keep**power for keep in kept]
    assert probe.keeps == pytest.approx(expected)
    assert probe.draws == [power != 0.5] * 3


def test_other_noise_is_another_step():
    import comfy.k_diffusion.sampling as k_diffusion

    def ancestral(**settings: float) -> bool:
        sampler = comfy.samplers.KSAMPLER(k_diffusion.sample_euler_ancestral, settings)
        return patch.is_ancestral(sampler)

    assert ancestral() and ancestral(eta=1.0, s_noise=1.0)
    assert not ancestral(eta=0.5) and not ancestral(s_noise=1.01)


@pytest.mark.parametrize(
    ("sampler", "untouched", "why"),
    [
        ("euler_ancestral", 0, "its x was just drawn from w p"),
        ("euler", -1, "what is left of the variance is not its"),
    ],
)
def test_a_corrected_run_leaves_a_step_alone(case, sampler, untouched, why):
    used = options()
    plain = case.ksampler(sampler_name=sampler)
    corrected, trace = case.lags(sampler_name=sampler, options=used)
    shifts = [float(record.shift_rms.max()) for record in trace.records]
    assert shifts.pop(untouched) == 0, why
    assert min(shifts) > 0
    assert case.gain(corrected, plain) > 0
    assert torch.isfinite(trace.records[0].actual_gain).all()


@pytest.mark.parametrize("mode", ["balanced", "fast", "paper"])
def test_a_gradient_serves_several_steps(case, mode):
    runs = {
        every: case.lags(mode=mode, steps=5, options=options(reuse_gradient=every))
        for every in (1, 2)
    }
    for every, (_, trace) in runs.items():
        fresh = [i % every == 0 for i in range(5)]
        assert [bool(record.weight_calls) for record in trace.records] == fresh
        assert [record.terms is not None for record in trace.records] == fresh
        assert all(record.active for record in trace.records)
    (one, _), (two, _) = runs.values()
    plain = case.ksampler(steps=5)
    moved = (one - plain).norm()
    assert 0 < (one - two).norm() < 0.5 * moved
    again, _ = case.lags(mode=mode, steps=5, options=options(reuse_gradient=2))
    assert torch.equal(again, two)
