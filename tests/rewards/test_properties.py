"""What holds for every weight, whatever the image's shape and precision, mask and strength."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lags_pack.guidance import AutogradLogWeight
from lags_pack.rewards import MaskedReward, Weight, product
from lags_pack.rewards.masked import masked, region, stretched
from lags_pack.tests.reward_table import BLACK_BOXES, FORMULAS, gradient, mild, pictures
from torch import Tensor

fixed = settings(deadline=None, max_examples=20, derandomize=True)

# Each of these bands and kernels has something to look at from 8 pixels on.
SIDES = st.integers(8, 27)
COUNTS = st.integers(1, 5)
SEEDS = st.integers(0, 999)
STRENGTHS = st.sampled_from([0.0, 1e-8, 0.5, -3.0, 1e4, -1e6])
EVERY = {**FORMULAS, **BLACK_BOXES}
# Their scores are means over pixels, so a mask of the image can be checked pixel by pixel.
PLAIN = {name: reward for name, reward in FORMULAS.items() if not isinstance(reward, MaskedReward)}
NAMES = st.sampled_from(sorted(FORMULAS))


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def blots(height: int, width: int, seed: int) -> Tensor:
    """A mask of 0, 1 and something between, somewhere above one half."""
    generator = torch.Generator().manual_seed(seed)
    mask = (2 * torch.rand(height, width, generator=generator) - 0.5).clamp(0, 1)
    mask[int(seed) % height, int(seed) % width] = 1.0
    return mask


@pytest.mark.parametrize("name", EVERY)
@fixed
@given(count=COUNTS, height=SIDES, width=SIDES, seed=SEEDS, data=st.data())
def test_a_batch_equals_its_singles_in_any_order(name, count, height, width, seed, data) -> None:
    reward, images = EVERY[name], pictures(count, height, width, seed)
    order = data.draw(st.permutations(range(count)))
    scores = reward(images)
    assert torch.equal(scores, reward(images)), "twice the same"
    assert close(reward(images[order]), scores[order])
    assert close(torch.cat([reward(images[i : i + 1]) for i in range(count)]), scores)


@pytest.mark.parametrize("name", EVERY)
@fixed
@given(
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    height=SIDES,
    width=SIDES,
    value=st.sampled_from([None, 0.0, 1.0, 0.5]),
)
def test_any_precision_gives_float32_that_is_finite(name, dtype, height, width, value) -> None:
    flat = torch.full((2, 3, height, width), value or 0.0)
    images = pictures(2, height, width) if value is None else flat
    scores = EVERY[name](images.to(dtype))
    assert scores.shape == (2,) and scores.dtype == torch.float32 and torch.isfinite(scores).all()


@pytest.mark.parametrize("name", FORMULAS)
@fixed
@given(height=SIDES, width=SIDES, seed=SEEDS)
def test_gradients_of_a_batch_are_those_of_its_singles(name, height, width, seed) -> None:
    reward, images = FORMULAS[name], mild(3, height, width, seed)
    together = gradient(reward, images)
    alone = torch.cat([gradient(reward, images[i : i + 1]) for i in range(3)])
    assert torch.isfinite(together).all() and close(alone, together)


@fixed
@given(name=NAMES, strength=STRENGTHS, factor=STRENGTHS, seed=SEEDS)
def test_log_w_and_its_gradient_are_linear_in_the_strength(name, strength, factor, seed) -> None:
    images, weight = mild(2, 12, 9, seed), Weight.of(FORMULAS[name], strength)
    value, grad = AutogradLogWeight(weight, "one").value_and_grad(images)
    many, more = AutogradLogWeight(weight.power(factor), "many").value_and_grad(images)
    assert torch.allclose(many, factor * value, rtol=1e-4, atol=0)
    assert torch.allclose(more, factor * grad, rtol=1e-4, atol=1e-4 * float(more.abs().max()))
    if strength * factor == 0:
        assert weight.power(factor).is_off and not many.any() and not more.any()


PARTS = st.tuples(NAMES, st.floats(-50, 50), st.floats(-3, 3))  # reward, strength, exponent


@fixed
@given(parts=st.lists(PARTS, min_size=1, max_size=5), seed=SEEDS, data=st.data())
def test_a_product_of_powers_is_a_sum_of_logarithms_in_any_order(parts, seed, data) -> None:
    images = pictures(3, 11, 16, seed)
    weights = [Weight.of(FORMULAS[name], strength) for name, strength, _ in parts]
    exponents = [exponent for *_, exponent in parts]
    logs = [e * w(images).double() for w, e in zip(weights, exponents, strict=True)]
    rounding = 1e-5 * sum(float(log.abs().max()) for log in logs)
    combined = product(weights, exponents)
    assert torch.allclose(combined(images).double(), sum(logs), rtol=0, atol=rounding + 1e-6)
    assert torch.equal(combined.by_term(images).sum(dim=0), combined(images))
    order = data.draw(st.permutations(range(len(parts))))
    shuffled = product([weights[i] for i in order], [exponents[i] for i in order])
    assert torch.allclose(shuffled(images), combined(images), rtol=0, atol=rounding + 1e-6)
    assert len(set(combined.labels)) == len(parts)


@fixed
@given(name=NAMES, strength=st.floats(-50, 50), a=st.floats(-5, 5), b=st.floats(-5, 5))
def test_powers_of_powers_multiply(name: str, strength: float, a: float, b: float) -> None:
    weight = Weight.of(FORMULAS[name], strength)
    (twice,), (once,) = weight.power(a).power(b).terms, weight.power(a * b).terms
    assert twice.strength == pytest.approx(once.strength, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("name", PLAIN)
@fixed
@given(height=SIDES, width=SIDES, rows=SIDES, columns=SIDES, seed=SEEDS)
def test_nothing_outside_of_a_mask_counts_or_moves(
    name, height, width, rows, columns, seed
) -> None:
    """Whatever the sizes of image and mask are."""
    mask = blots(rows, columns, seed)
    mask[: rows // 4] = 0.0
    mask[rows // 2 :, columns // 2 :] = 1.0  # a box with something to look at
    weight = masked(Weight.of(PLAIN[name], 7.0), mask)
    images, at = mild(2, height, width, seed), stretched(mask, height, width)
    value, grad = AutogradLogWeight(weight, "masked").value_and_grad(images)
    outside = at == 0
    assert outside.any() and not grad[..., outside].any()
    other = torch.where(outside, pictures(2, height, width, seed + 1), images)
    assert close(weight(other), value)
    assert torch.isfinite(value).all() and torch.isfinite(grad).all()


@fixed
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=4), SEEDS)
def test_the_region_of_a_product_holds_every_mask(sizes: list[tuple[int, int]], seed: int) -> None:
    """As the weights keep them: without a file's noise."""
    masks = [blots(*size, seed + i) for i, size in enumerate(sizes)]
    weights = [masked(Weight.of(FORMULAS["brightness"], 1.0), mask) for mask in masks]
    whole = region(product(weights, [1.0] * len(weights)))
    assert whole is not None and ((whole >= 0) & (whole <= 1 + 1e-6)).all()
    for weight in weights:
        (mask,) = (term.reward.mask for term in weight.terms)
        assert (whole >= stretched(mask, *whole.shape) - 1e-6).all()
    free = product([*weights, Weight.of(FORMULAS["hue"], 1.0)], [1.0] * (len(weights) + 1))
    assert region(free) is None
