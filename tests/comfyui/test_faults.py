"""Full runs in which memory runs out or the user stops: what is retried, told, and left behind."""

from __future__ import annotations

import re
from typing import Any

import comfy.model_management as mm
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy.samplers import calc_cond_batch
from lags_pack.tests.comfyui.faults import at, is_loaded, leftovers, out_of_memory
from lags_pack.tests.comfyui.guided import noting, rms

MODES = ("balanced", "fast", "paper")
PLACES = ("model", "decode", "weight", "backward")


def occurrences(order: list[str], place: str) -> list[int]:
    """The first, a middle and the last time that a run comes by a place."""
    numbers = [number for number, passed in enumerate(order) if passed == place]
    return sorted({numbers[0], numbers[len(numbers) // 2], numbers[-1]})


@pytest.mark.parametrize(
    ("way", "place"),
    [
        *((way, place) for way in (*MODES, "particles lags") for place in PLACES),
        ("particles das", "model"),
    ],
)
def test_memory_that_runs_out_once_is_tried_again_in_less(runs, caplog, way, place):
    order, expected, plain = runs.order(way), runs.whole(way), runs.plain(way)
    before = leftovers(runs.case)
    for once in occurrences(order, place):
        caplog.clear()
        with runs.places.failing(at(once, out_of_memory)):
            done = runs(way)
        assert len(runs.places.passed) > len(order), "something was done again"
        assert rms(done - expected) < 0.05 * rms(expected - plain), once
        (said,) = [r.message for r in caplog.records if "not enough memory" in r.message]
        assert "trying" in said
    runs.check_clean(way, before)


def test_the_second_try_makes_room_and_takes_one_branch_after_the_other(runs):
    order, loaded, vae = runs.order("paper"), [], runs.case.vae.first_stage_model
    second = [number for number, place in enumerate(order) if place == "model"][1]

    def fault(_: str, number: int) -> None:
        loaded.append(is_loaded(vae))
        if number == second:
            out_of_memory()

    model, seen = noting(
        runs.case.model,
        WrappersMP.CALC_COND_BATCH,
        lambda _, conds, *rest: [cond is not None for cond in conds],
    )
    with runs.places.failing(fault):
        runs("paper", model=model)
    both, first, other = [True, True], [True, False], [False, True]
    # Each branch is where it was, as patches tell by its place which one it is.
    assert seen == [both, both, first, other, *[both] * 4]
    assert loaded[second] and not loaded[second + 1], "the VAE gives way to the second try"
    assert all(loaded[n] for n, place in enumerate(runs.places.passed) if place == "decode")


@pytest.mark.parametrize("theirs", [False, True])
@pytest.mark.parametrize("evaluation", [0, 1])
def test_a_second_try_draws_the_numbers_of_the_first(runs, evaluation, theirs):
    """Of patches that draw at random, once for both branches: the run compares evaluations.

    Also where a function of theirs evaluates the branches, which are together then.
    """
    model, order = runs.case.model.clone(), runs.order("paper")
    if theirs:
        names = ("model", "conds", "input", "sigma", "model_options")
        model.set_model_sampler_calc_cond_batch_function(
            lambda args: calc_cond_batch(*(args[name] for name in names))
        )

    def drawn(apply: Any, args: dict[str, Any]) -> torch.Tensor:
        number = torch.randn(1)
        return apply(args["input"], args["timestep"], **args["c"]) * (1 + 0.02 * number)

    model.set_model_unet_function_wrapper(drawn)
    once = [number for number, place in enumerate(order) if place == "model"][evaluation]

    torch.manual_seed(5)
    with runs.places.failing(None):
        expected, plain = runs("paper", model=model), runs("paper", model=model, strength=0.0)
    torch.manual_seed(5)
    with runs.places.failing(at(once, out_of_memory)):
        done = runs("paper", model=model)
    assert (done - expected).abs().max() < 0.02 * (expected - plain).abs().max()


@pytest.mark.parametrize(
    ("way", "place"),
    [
        *((way, place) for way in MODES for place in PLACES),
        *(("DPS", "model"), ("DPS", "backward"), ("particles das", "model")),
        *(("particles lags", "model"), ("particles lags", "weight")),
    ],
)
def test_memory_that_never_suffices_is_told_with_what_takes_less(runs, way, place):
    order, before = runs.order(way), leftovers(runs.case)
    first = order.index(place)
    if place == "model" and way in MODES and way != "fast":
        first = [number for number, passed in enumerate(order) if passed == "model"][1]

    def fault(passed: str, number: int) -> None:
        if passed == place and number >= first:
            out_of_memory()

    with runs.places.failing(fault), pytest.raises(mm.OOM_EXCEPTION) as caught:
        runs(way)
    assert len(runs.places.passed) <= first + 4, "tried again once, and no more"
    message = str(caught.value)
    assert re.search(r"needs about \d+\.\d\d GB", message) and "GB are free" in message
    assert "smaller" in message
    remedy = {"model": "mode 'fast'", "DPS": "without a method", "particles": "'smc'"}
    if way == "fast" and place == "model":
        assert "mode 'fast'" not in message, "it is in that mode"
        remedy["model"] = "the batch smaller"
    where = (
        "decode size of 512 in LAGS Options"
        if place != "model"
        else remedy[next((key for key in remedy if way.startswith(key)), "model")]
    )
    assert where in message
    runs.check_clean(way, before)


def test_memory_that_runs_out_by_another_name_is_known(runs):
    """Newer ComfyUI takes an error of the accelerator for a lack of memory, too."""
    known = hasattr(mm, "is_oom")

    def fault() -> None:
        raise torch.AcceleratorError("CUDA error: out of memory")

    with runs.places.failing(at(runs.order("paper").index("decode"), fault)):
        if known:
            done = runs("paper")
            assert torch.allclose(done, runs.whole("paper"), atol=0.05)
        else:
            with pytest.raises(torch.AcceleratorError):
                runs("paper")


@pytest.mark.parametrize(
    "way", [*MODES, "latent-rgb", "DPS", "LiDAR", "particles lags", "particles das"]
)
def test_the_stop_button_stops_everywhere_at_once(runs, way):
    order, before = runs.order(way), leftovers(runs.case)
    for k in range(len(order)):
        with runs.places.failing(at(k, mm.interrupt_current_processing)):
            try:
                runs(way)
            except mm.InterruptProcessingException:
                pass
            else:  # nothing was left to do: ComfyUI stops before the next node
                assert k >= len(order) - 2
                assert mm.processing_interrupted()
                mm.interrupt_current_processing(False)
        beyond = runs.places.passed[k + 1 :]
        assert beyond == (["backward"] if order[k : k + 2] == ["weight", "backward"] else [])
        assert leftovers(runs.case) == before
    runs.check_clean(way, before)
