"""Resampling: unbiased, never a particle of weight zero, exact at the edges of rounding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lags_pack.guidance import WeightError
from lags_pack.guidance.particles.resampling import (
    RESAMPLING,
    effective_sample_size,
    log_mean_weight,
    normalised,
    stratified,
    systematic,
)
from torch import Tensor

RULES = list(RESAMPLING)
BELOW_ONE = math.nextafter(1.0, 0.0)
log_weight_lists = st.lists(
    st.one_of(st.floats(-30, 30), st.just(-math.inf), st.just(0.0)), min_size=1, max_size=12
).filter(lambda values: max(values) > -math.inf)


def copies(ancestors: Tensor, count: int) -> Tensor:
    """How often each particle is chosen: [G, N] -> [G, N]."""
    return torch.nn.functional.one_hot(ancestors, count).sum(dim=1)


def uniforms(groups: int, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(groups, count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rule", RULES)
@given(log_weights=log_weight_lists, data=st.data())
@settings(deadline=None, max_examples=80)
def test_whoever_is_chosen_has_weight(rule: str, log_weights: list[float], data: object) -> None:
    count = len(log_weights)
    edge = st.one_of(st.floats(0, BELOW_ONE), st.sampled_from([0.0, BELOW_ONE]))
    u = data.draw(st.lists(edge, min_size=count, max_size=count))
    weights = torch.tensor([log_weights], dtype=torch.float64)
    ancestors = RESAMPLING[rule](weights, torch.tensor([u], dtype=torch.float64))
    assert ancestors.shape == (1, count) and ancestors.dtype == torch.int64
    assert (weights[0, ancestors[0]] > -math.inf).all()
    # Floor or ceiling, always; of stratified marks two may fall into a neighbour's share.
    most = {"ssp": 1 + 1e-9, "systematic": 1 + 1e-6, "stratified": 2 + 1e-6}.get(rule, math.inf)
    assert ((copies(ancestors, count) - count * normalised(weights)).abs() < most).all()


@pytest.mark.parametrize("rule", RULES)
def test_offspring_are_unbiased(rule: str) -> None:
    weights = torch.tensor([[0.15, 0.0, 0.32, 0.13, 0.4]], dtype=torch.float64).log()
    groups = 8000
    offspring = copies(RESAMPLING[rule](weights.expand(groups, -1), uniforms(groups, 5)), 5)
    error = offspring.double().std(dim=0) / math.sqrt(groups)
    off = (offspring.double().mean(dim=0) - 5 * normalised(weights)[0]).abs()
    assert (off <= 4 * error + 1e-9).all()
    assert (offspring.sum(dim=1) == 5).all() and (offspring[:, 1] == 0).all()


def reference(shares: list[float], marks: list[float]) -> list[int]:
    """The cumulative sum in exact Python floats, by a walk."""
    chosen = []
    for mark in marks:
        total, index = shares[0], 0
        while total <= mark and index + 1 < len(shares):
            index += 1
            total += shares[index]
        chosen.append(index)
    return chosen


@pytest.mark.parametrize("rule", ["systematic", "stratified", "multinomial"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_a_reference_in_float64(rule: str, dtype: torch.dtype) -> None:
    count, generator = 50, torch.Generator().manual_seed(3)
    weights = (3 * torch.randn(4, count, generator=generator)).to(dtype)
    u = uniforms(4, count, seed=4)
    found = RESAMPLING[rule](weights, u)
    for group in range(4):
        total = sum(math.exp(value) for value in weights[group].tolist())
        shares = [math.exp(value) / total for value in weights[group].tolist()]
        own = u[group].tolist()
        marks = {
            "systematic": [(i + own[0]) / count for i in range(count)],
            "stratified": [(i + own[i]) / count for i in range(count)],
            "multinomial": own,
        }[rule]
        assert found[group].tolist() == reference(shares, marks)


@pytest.mark.parametrize("rule", RULES)
def test_even_weights_keep_everyone(rule: str) -> None:
    weights = torch.full((2, 7), -1e6)
    if rule == "multinomial":
        assert RESAMPLING[rule](weights, uniforms(2, 7)).max() <= 6
    else:
        assert (RESAMPLING[rule](weights, uniforms(2, 7)) == torch.arange(7)).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [1, 3, 1000, 100_003])
def test_the_last_mark_finds_someone(rule: str, count: int) -> None:
    """In float32 the sum of 100,003 equal shares ends visibly off 1; nobody may fall off the end,
    nor onto the particle without weight there."""
    shares = torch.full((count,), 1 / count, dtype=torch.float32)
    assert count != 100_003 or float(shares.cumsum(0)[-1]) != 1
    weights = shares.log()[None]
    if count > 1:
        weights[0, -1] = -math.inf
    found = RESAMPLING[rule](weights, torch.full((1, count), BELOW_ONE, dtype=torch.float64))
    assert found.shape == (1, count) and found.min() >= 0
    assert found.max() <= max(0, count - 2)


def test_a_sum_that_ends_under_one_belongs_to_the_last_with_weight() -> None:
    weights = torch.tensor([[0.1] * 10 + [0.0]], dtype=torch.float64).log()
    share = normalised(weights)
    assert float(share.cumsum(1)[0, -1]) < 1  # 0.1 ten times, in float64
    found = stratified(weights, torch.full((1, 11), BELOW_ONE, dtype=torch.float64))
    assert found[0, -1] == 9
    assert systematic(weights, torch.full((1, 11), BELOW_ONE, dtype=torch.float64))[0, -1] == 9


@pytest.mark.parametrize("rule", RULES)
def test_groups_do_not_see_each_other(rule: str) -> None:
    weights = 2 * torch.randn(5, 9, generator=torch.Generator().manual_seed(5))
    u = uniforms(5, 9, seed=6)
    together = RESAMPLING[rule](weights, u)
    alone = [RESAMPLING[rule](weights[g : g + 1], u[g : g + 1]) for g in range(5)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("rule", RULES)
def test_no_weight_at_all_and_one_that_is_no_number_are_errors(rule: str) -> None:
    weights = torch.zeros(3, 4)
    weights[1] = -math.inf
    with pytest.raises(WeightError, match="All 4 particles of group 1 have weight zero"):
        RESAMPLING[rule](weights, uniforms(3, 4))
    for value in (math.nan, math.inf):
        with pytest.raises(WeightError, match=r"NaN or \+inf"):
            RESAMPLING[rule](torch.tensor([[0.0, value]]), uniforms(1, 2))


def test_effective_size_and_mean_weight() -> None:
    log_w = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [2.0, 2.0, 0.0, 0.0]]).log()
    sizes, means = torch.tensor([4.0, 1.0, 2.0]).double(), torch.tensor([1.0, 0.25, 1.0]).double()
    assert torch.allclose(effective_sample_size(log_w + 5), sizes)
    assert torch.allclose(log_mean_weight(log_w).exp(), means)
    assert torch.allclose(effective_sample_size(torch.tensor([[1e30, 1e30]])), sizes[2])
