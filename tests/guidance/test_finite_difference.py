from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lags_pack.guidance import DifferenceStep, jacobian_vector_product
from lags_pack.guidance.finite_difference import RELATIVE_STEP, rms
from lags_pack.tests.analytic import Counted, Gaussian

BASE = Gaussian(torch.zeros(3, 4, 4), 0.5)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.floats(-35, 30), st.floats(1e-3, 1e3))
def test_the_step_is_relative_to_the_noise_for_any_gradient(power: float, level: float) -> None:
    """RMS(h v) = delta max(sigma, 0.1), whatever the strength of the weight."""
    v = 10**power * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    h = DifferenceStep().size(v, torch.full((2,), level))
    moved = (h[:, None, None, None] * v).square().mean(dim=(1, 2, 3)).sqrt()
    assert torch.isfinite(h).all()
    if power > -25:
        expected = 0.01 * max(level, 0.1)
        assert torch.allclose(moved, torch.full((2,), expected), rtol=1e-3)
    else:  # so small a gradient may take a smaller step, not a longer one
        assert (moved <= 0.0101 * max(level, 0.1)).all()


def test_the_step_is_chosen_per_sample() -> None:
    v = torch.ones(3, 8) * torch.tensor([[1.0], [1e4], [0.0]])
    sigma = torch.tensor([1.0, 2.0, 1.0])
    h = DifferenceStep().size(v, sigma)
    assert h.tolist() == pytest.approx([1e-2, 2e-6, 0.0])


@pytest.mark.parametrize("dtype", RELATIVE_STEP)
def test_the_step_follows_the_dtype_of_the_denoiser_unless_one_is_given(dtype: torch.dtype) -> None:
    v, sigma = torch.ones(1, 8), torch.ones(1)
    found = DifferenceStep(dtype=dtype).size(v, sigma).item()
    assert found == pytest.approx(RELATIVE_STEP[dtype]) and found > 4 * torch.finfo(dtype).eps
    given = DifferenceStep(relative=0.3, dtype=dtype)
    assert given.size(v, sigma).item() == pytest.approx(0.3)


def test_an_absolute_step_is_the_papers_epsilon() -> None:
    """The same for every sample and noise level; the denoiser is asked at x + epsilon v."""
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    v, sigma = 3 * torch.ones_like(x), torch.tensor([0.2, 5.0])
    h = DifferenceStep(absolute=0.25, relative=0.5).size(v, sigma)
    assert h.tolist() == [0.25, 0.25]
    denoiser = Counted(BASE.denoise)
    jv = jacobian_vector_product(denoiser, x, sigma, BASE.denoise(x, sigma), v, h)
    assert denoiser.calls == 1
    assert torch.equal(denoiser.asked[0], x + 0.25 * v)
    gain = 0.5 / (0.5 + sigma**2)
    assert torch.allclose(jv, gain[:, None, None, None] * v, rtol=1e-4)


def test_huge_and_vanishing_gradients_overflow_nothing() -> None:
    x, sigma = torch.zeros(1, 3, 4, 4), torch.ones(1)
    v = torch.full_like(x, 1e30)
    h = DifferenceStep().size(v, sigma)
    assert torch.isfinite(h).all() and (h > 0).all()
    assert rms(v).item() == pytest.approx(1e30, rel=1e-5)
    jv = jacobian_vector_product(BASE.denoise, x, sigma, BASE.denoise(x, sigma), v, h)
    assert torch.allclose(jv, v / 3, rtol=1e-3)
    sigma = torch.tensor([1.0, 900.0])  # a flow model comes as far as 999
    for size in (1e-45, 1e-40, 1e-38, 1e-36, 1e-30):
        h = DifferenceStep(dtype=torch.bfloat16).size(torch.full((2, 4), size), sigma)
        assert torch.isfinite(h).all(), size


def test_a_zero_direction_gives_zero() -> None:
    x, sigma = torch.ones(2, 3, 4, 4), torch.ones(2)
    v = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    h, denoised = DifferenceStep().size(v, sigma), BASE.denoise(x, sigma)
    jv = jacobian_vector_product(BASE.denoise, x, sigma, denoised, v, h)
    assert (jv[0] == 0).all()
    assert torch.allclose(jv[1], torch.full((3, 4, 4), 1 / 3), rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_denoiser_gets_the_dtype_of_x_and_the_difference_is_float32(dtype: torch.dtype) -> None:
    x, sigma = torch.ones(1, 3, 4, 4, dtype=dtype), torch.ones(1)
    denoiser = Counted(BASE.denoise)
    h = torch.tensor([0.1])
    denoised = BASE.denoise(x, sigma)
    jv = jacobian_vector_product(denoiser, x, sigma, denoised, torch.ones(1, 3, 4, 4), h)
    assert denoiser.asked[0].dtype == dtype and jv.dtype == torch.float32


def test_the_difference_of_half_precision_answers_is_taken_in_float32() -> None:
    """In float16, 1024 - 0.1 is 1024."""
    x, one = torch.zeros(1, 3, 4, 4), torch.ones(1)
    denoised, other = (torch.full_like(x, value).half() for value in (0.1, 1024.0))
    jv = jacobian_vector_product(lambda x, sigma: other, x, one, denoised, x, one)
    assert torch.allclose(jv, 1024 - denoised.float(), rtol=1e-6)


@pytest.mark.parametrize("field", ["relative", "absolute"])
@pytest.mark.parametrize("value", [0.0, -0.1, math.nan, math.inf])
def test_refuses_a_step_that_is_not_positive(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} step is {value}; expected a finite number"):
        DifferenceStep(**{field: value})
