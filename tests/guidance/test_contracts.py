"""AutogradLogWeight: a log-weight from any differentiable function."""

from __future__ import annotations

import math

import pytest
import torch
from lags_pack.guidance import AutogradLogWeight, WeightError, preset
from lags_pack.guidance.contracts import checked_value
from lags_pack.guidance.finite import is_finite, read_together, refuse
from lags_pack.tests.analytic import Gaussian, sigmas
from torch import Tensor


def bowl(x: Tensor) -> Tensor:
    return -x.square().flatten(1).sum(1) / 2


WEIGHT = AutogradLogWeight(bowl, "bowl")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_value_and_gradient_are_float32(dtype: torch.dtype) -> None:
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    log_w, grad = WEIGHT.value_and_grad(x)
    assert log_w.dtype == grad.dtype == WEIGHT(x).dtype == torch.float32
    assert torch.allclose(grad, -x.float())
    assert torch.allclose(log_w, bowl(x.float())) and torch.allclose(WEIGHT(x), log_w)
    assert not (log_w.requires_grad or grad.requires_grad or x.requires_grad)
    assert not WEIGHT(x).requires_grad


def test_works_in_any_mode_and_leaves_it_and_the_input_as_they_were() -> None:
    """Inference mode is where ComfyUI runs its nodes; what comes out can be used outside too."""
    with torch.inference_mode():
        x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
        assert x.is_inference()
        log_w, grad = WEIGHT.value_and_grad(x)
        assert torch.allclose(grad, -x) and torch.allclose(log_w, WEIGHT(x))
        assert torch.is_inference_mode_enabled()
    assert not grad.is_inference() and not log_w.is_inference()
    (grad.requires_grad_() ** 2).sum().backward()
    assert torch.allclose(grad.grad, 2 * grad)
    with torch.no_grad():
        _, grad = WEIGHT.value_and_grad(torch.ones(1, 4))
        assert not torch.is_grad_enabled()
    assert torch.equal(grad, -torch.ones(1, 4))
    x = torch.full((2, 4), 0.3)
    AutogradLogWeight(lambda x: x.mul(2).clamp_(0, 1).flatten(1).sum(1), "").value_and_grad(x)
    assert torch.equal(x, torch.full((2, 4), 0.3)) and x.grad is None


@pytest.mark.parametrize("mode", ["paper", "balanced", "fast"])
def test_a_whole_evaluation_works_in_inference_mode(mode: str) -> None:
    base = Gaussian(torch.zeros(3, 4, 4), 0.5)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    outside, _ = preset(mode)(base.denoise, WEIGHT, x, sigmas(2, 1.0))
    with torch.inference_mode():
        inside, _ = preset(mode)(base.denoise, WEIGHT, x.clone(), sigmas(2, 1.0))
    assert torch.equal(inside, outside)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.sum(), r"'mine' returned shape \(\) for 2 samples; expected \(2,\)"),
        (lambda x: x.flatten(1), r"returned shape \(2, 4\) for 2 samples"),
        (lambda x: x[:1, 0], r"returned shape \(1,\) for 2 samples"),
        (lambda x: x.detach().sum(1), "'mine' gives no gradient.*Use a differentiable weight"),
        (lambda x: x.round().argmax(1).float(), "'mine' gives no gradient"),
        (lambda x: torch.ones(2, requires_grad=True), "'mine' gives no gradient"),
    ],
)
def test_a_function_that_guidance_cannot_use_is_named(function, message: str) -> None:
    with pytest.raises(WeightError, match=message):
        AutogradLogWeight(function, "mine").value_and_grad(torch.ones(2, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_found(bad: float, dtype: torch.dtype) -> None:
    values = torch.full((4, 64), 6e4, dtype=dtype)
    assert is_finite(values), "their sum is beyond half precision"
    assert is_finite(torch.full((4,), torch.finfo(dtype).max, dtype=dtype))
    values[2, 5] = bad
    assert not is_finite(values)


def test_what_is_read_together_blames_the_first_in_order() -> None:
    """Also where what is spoilt makes a later one fail in its own way."""
    spoilt, ran = torch.tensor([False, True, True]), []

    def looks(fails: bool) -> None:
        for i, flag in enumerate(spoilt):
            refuse(flag, lambda i=i: ValueError(f"number {i}"))  # type: ignore[misc]
        with read_together():
            refuse(spoilt[1], lambda: ValueError("inner"))
        ran.append(fails)
        if fails:
            raise KeyError("later")

    for fails in (False, True):
        with pytest.raises(ValueError, match="number 1"), read_together():
            looks(fails)
    assert ran == [False, True]
    with pytest.raises(ValueError, match="number 1"):
        looks(False)
    assert len(ran) == 2, "outside of it, at once"
    with pytest.raises(KeyError), read_together():
        refuse(spoilt[0], lambda: ValueError("fine"))
        raise KeyError("its own")


@pytest.mark.parametrize(
    ("value", "is_answer"), [(-math.inf, True), (math.inf, False), (math.nan, False)]
)
def test_a_weight_of_zero_is_a_value(value: float, is_answer: bool) -> None:
    fixed = AutogradLogWeight(lambda x: torch.tensor([0.0, value]), "fixed")

    def look() -> Tensor:
        return checked_value(fixed, torch.zeros(2, 3), torch.ones(2))

    if is_answer:
        assert look().tolist() == [0.0, value]
        return
    with pytest.raises(WeightError, match="'fixed' has a value that is not finite"):
        look()
