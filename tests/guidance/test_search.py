"""Best of N and zero-order search: what they find, sample by sample, and what they count."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from lags_pack.guidance import AutogradLogWeight, WeightError
from lags_pack.guidance.search import Found, best_of, evaluate, zero_order_search
from torch import Tensor

WEIGHT = AutogradLogWeight(lambda x: x[:, 0] - 0.1 * x[:, 1] ** 2, "first")
STEPS = 7


def doubled(noise: Tensor) -> Tensor:
    """A sampler that is a known map."""
    return 2 * noise


def drawing(seed: int, rows: slice = slice(None), batch: int = 5) -> Callable[[], Tensor]:
    """Fresh noise [5, 2] at each call, or some rows of it."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(batch, 2, generator=generator)[rows]


def test_best_of_is_the_best_of_each_sample() -> None:
    found = best_of(doubled, WEIGHT, drawing(1), 6, STEPS)
    draw = drawing(1)
    noises = torch.stack([draw() for _ in range(6)])
    scores = torch.stack([WEIGHT(2 * noise) for noise in noises])
    assert torch.equal(found.log_w, scores.max(dim=0).values)
    assert torch.equal(found.noise, noises[scores.argmax(dim=0), torch.arange(5)])
    assert torch.equal(found.samples, 2 * found.noise)
    assert (found.model_calls, found.value_calls) == (6 * STEPS, 6)
    assert len(set(scores.argmax(dim=0).tolist())) > 1, "samples chose apart"
    # The largest of 4 unit normals is 1.0294 on average.
    first = AutogradLogWeight(lambda x: x[:, 0], "x")
    found = best_of(lambda noise: noise, first, drawing(2, batch=40000), 4, STEPS)
    assert abs(float(found.log_w.mean()) - 1.0294) < 0.015


def test_search_climbs_and_counts() -> None:
    before = evaluate(doubled, WEIGHT, drawing(3)(), STEPS)
    found = zero_order_search(doubled, WEIGHT, drawing(3), 5, 3, 0.5, STEPS)
    assert (found.log_w > before.log_w).all()
    assert (found.model_calls, found.value_calls) == (16 * STEPS, 16)
    torch.testing.assert_close(WEIGHT(found.samples), found.log_w)
    torch.testing.assert_close(found.samples, doubled(found.noise))
    none = zero_order_search(doubled, WEIGHT, drawing(3), 0, 1, 0.5, STEPS)
    assert torch.equal(none.noise, before.noise)


def test_neighbours_are_unit_noise_around_the_pivot() -> None:
    asked: list[Tensor] = []

    def sample(noise: Tensor) -> Tensor:
        asked.append(noise)
        return noise

    never = AutogradLogWeight(lambda x: -torch.arange(len(x)) * 0.0 + x.sum() * 0, "flat")
    zero_order_search(sample, never, drawing(4, batch=50000), 1, 1, 0.5, STEPS)
    pivot, neighbour = asked
    assert abs(float(neighbour.std()) - 1) < 0.01
    correlation = float((pivot * neighbour).mean())
    assert abs(correlation - 1 / math.sqrt(1.25)) < 0.01


def test_an_infinite_radius_is_best_of_n() -> None:
    search = zero_order_search(doubled, WEIGHT, drawing(5), 3, 2, math.inf, STEPS)
    best = best_of(doubled, WEIGHT, drawing(5), 7, STEPS)
    torch.testing.assert_close(search.samples, best.samples)
    assert (search.model_calls, search.value_calls) == (best.model_calls, best.value_calls)


@pytest.mark.parametrize("kind", ["best", "search"])
def test_a_batch_equals_its_singles(kind: str) -> None:
    def found(rows: slice) -> Tensor:
        draw = drawing(6, rows)
        if kind == "best":
            return best_of(doubled, WEIGHT, draw, 4, STEPS).samples
        return zero_order_search(doubled, WEIGHT, draw, 3, 2, 0.7, STEPS).samples

    singles = [found(slice(i, i + 1)) for i in range(5)]
    assert torch.equal(found(slice(None)), torch.cat(singles))


def test_weights_of_zero_and_refusals() -> None:
    step = AutogradLogWeight(lambda x: torch.where(x[:, 0] > 0, 0.0, -math.inf), "step")
    found = best_of(doubled, step, drawing(7), 12, STEPS)
    assert (found.log_w == 0).all() and (found.samples[:, 0] > 0).all()
    with pytest.raises(ValueError, match="count is 0; expected 1 or more"):
        best_of(doubled, WEIGHT, drawing(1), 0, STEPS)
    with pytest.raises(ValueError, match="-1 rounds of 1 neighbours"):
        zero_order_search(doubled, WEIGHT, drawing(1), -1, 1, 0.5, STEPS)
    for radius in (0.0, math.nan):
        with pytest.raises(ValueError, match="radius is .*; expected above 0"):
            zero_order_search(doubled, WEIGHT, drawing(1), 1, 1, radius, STEPS)
    broken = AutogradLogWeight(lambda x: x[:, 0] * math.nan, "broken")
    with pytest.raises(WeightError, match="'broken' has a value that is not finite"):
        best_of(doubled, broken, drawing(1), 2, STEPS)


def test_the_better_one_is_found_where_samples_are_not_on_the_weights_device() -> None:
    def found(log_w: float) -> Found:
        return Found(
            torch.empty(1, 4, device="meta"), torch.tensor([log_w]), torch.zeros(1, 4), 1, 1
        )

    best = found(1.0).better_of(found(2.0))
    assert float(best.log_w) == 2 and best.samples.device.type == "meta"
