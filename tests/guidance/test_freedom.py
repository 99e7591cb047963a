"""FreeDoM: plain ancestral sampling where it does nothing, its windows, lengths and time travel."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from lags_pack.guidance import AutogradDenoiser, AutogradLogWeight, StepRecord, WeightError
from lags_pack.guidance.methods.freedom import FreeDoM, Window, time_travel
from lags_pack.tests.analytic import (
    Counted,
    LinearLogWeight,
    mixture_jacobian_product,
    noisy_draws,
    sigmas,
    unit_mixture,
)
from torch import Tensor

LEVELS = torch.cat([torch.logspace(1.2, -1.3, 20), torch.zeros(1)])
MIXTURE = unit_mixture(dim=4, components=3, variance=0.3, seed=1)
MODEL = AutogradDenoiser(MIXTURE.denoise)
ALL = Window(first=1.0, last=0.0, travel_until=0.0, repeats=1)
SLOPE = torch.tensor([1.0, -2.0, 0.5, 0.0])


def noise(seed: int) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator)


def start(count: int = 16) -> Tensor:
    return LEVELS[0] * noise(0)(torch.empty(count, 4))


def ancestral(x: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Euler ancestral, written out."""
    for sigma, lower in zip(LEVELS[:-1], LEVELS[1:], strict=True):
        denoised = MIXTURE.denoise(x, sigma.expand(len(x)))
        if lower == 0:
            return denoised
        up = (lower**2 * (sigma**2 - lower**2) / sigma**2) ** 0.5
        down = (lower**2 - up**2) ** 0.5
        slope = (x - denoised) / sigma
        x = x + slope * (down - sigma) + draw(x) * up
    return x


def sampled(
    method: FreeDoM, weight: LinearLogWeight, x: Tensor, seed: int = 2
) -> tuple[Tensor, list[StepRecord]]:
    records = []

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        denoised, record = method(MODEL, weight, x, sigma)
        records.append(record)
        return denoised

    return time_travel(guided, x, LEVELS, method.rounds, noise(seed)), records


class Branched(AutogradDenoiser):
    """A denoiser with two branches, whose correction is a known sample."""

    def __init__(self, correction: Tensor) -> None:
        super().__init__(MIXTURE.denoise)
        self.given = correction

    def correction(self) -> Tensor:
        return self.given


def rms(x: Tensor) -> Tensor:
    return x.double().square().mean(dim=1).sqrt()


def test_one_repeat_and_zero_step_is_ancestral_sampling_bit_for_bit() -> None:
    weight = LinearLogWeight(SLOPE)
    nothing = FreeDoM(sigmas=LEVELS, step=0.0, plain_step=0.0, window=ALL)
    end, records = sampled(nothing, weight, start())
    assert torch.equal(end, ancestral(start(), noise(2)))
    assert weight.calls == 0 and len(records) == 20
    guided, _ = sampled(FreeDoM(sigmas=LEVELS, window=ALL), weight, start())
    assert not torch.equal(guided, end), "a step that is not zero is felt"


def test_published_window() -> None:
    """100 steps, index 99 the noisiest: guided 70 > index >= 30, three times 70 > index >= 40."""
    window = Window()
    index = list(range(99, -1, -1))
    assert window.guided(100) == [30 <= i < 70 for i in index]
    assert window.rounds(100) == [3 if 40 <= i < 70 else 1 for i in index]
    assert sum(window.rounds(100)) == 160, "the published number of evaluations"
    assert sum(window.guided(100)[k] * r for k, r in enumerate(window.rounds(100))) == 100


def test_only_the_window_is_guided() -> None:
    weight, method = LinearLogWeight(SLOPE), FreeDoM(sigmas=LEVELS)
    _, records = sampled(method, weight, start())
    rounds = zip(method.window.guided(20), method.window.rounds(20), strict=True)
    expected = [guided for guided, count in rounds for _ in range(count)]
    assert [record.active for record in records] == expected
    assert len(records) == sum(method.rounds) == 20 + 2 * 6
    assert weight.calls == sum(expected) == sum(r.weight_calls for r in records)


@pytest.mark.parametrize("step", [3, 12, 19])
def test_length_and_direction_of_a_step(step: int) -> None:
    sigma, lower = float(LEVELS[step]), float(LEVELS[step + 1])
    x, level = noisy_draws(MIXTURE, 6, sigma, seed=3), sigmas(6, sigma)
    plain = MIXTURE.denoise(x, level)
    gradient = mixture_jacobian_product(MIXTURE, x, level, SLOPE.expand(6, 4))
    method = FreeDoM(sigmas=LEVELS, step=0.2, plain_step=0.02, window=ALL)

    # One branch: RMS(shift) = 0.02 RMS(x - D).
    guided, _ = method(MODEL, LinearLogWeight(SLOPE), x, level)
    shift = (guided - plain).double()
    torch.testing.assert_close(rms(shift), 0.02 * rms(x - plain), rtol=1e-3, atol=1e-6)
    cosine = torch.nn.functional.cosine_similarity(shift, gradient)
    assert float(cosine.min()) > 0.999

    # Two branches: x' in variance-preserving units moves by 0.2 RMS(cfg (eps_c - eps_u)).
    correction = noise(4)(x)
    guided, _ = method(Branched(correction), LinearLogWeight(SLOPE), x, level)
    moved = (guided - plain).double() * (1 - lower**2 / sigma**2) / math.sqrt(1 + lower**2)
    torch.testing.assert_close(rms(moved), 0.2 * rms(correction) / sigma, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("branches", [1, 2])
def test_strength_cancels_out_but_for_its_sign(branches: int) -> None:
    x, level = noisy_draws(MIXTURE, 6, float(LEVELS[8]), seed=5), LEVELS[8].expand(6)
    model = MODEL if branches == 1 else Branched(noise(6)(x))
    plain, method = MIXTURE.denoise(x, level), FreeDoM(sigmas=LEVELS, window=ALL)
    weights = [LinearLogWeight(f * SLOPE) for f in (1.0, 50.0, -1.0)]
    shifts = [method(model, weight, x, level)[0] - plain for weight in weights]
    torch.testing.assert_close(shifts[0], shifts[1], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(shifts[0], -shifts[2], rtol=1e-3, atol=1e-5)
    slopes = torch.stack([SLOPE, *torch.zeros(5, 4)])  # no gradient, no shift
    guided, _ = method(model, LinearLogWeight(slopes), x, level)
    assert torch.equal(guided[1:], plain[1:]) and not torch.equal(guided[0], plain[0])


def test_time_travel_goes_back_to_the_noise_level_it_came_from() -> None:
    """Of a Gaussian, every x at a noise level must keep that level's variance, however often."""
    data = unit_mixture(dim=2, components=1, variance=1.0, seed=1)  # one component at 0
    seen: dict[int, list[Tensor]] = {}
    fine = torch.cat([torch.logspace(1, -1, 60), torch.zeros(1)])
    x, counted = fine[0] * noise(7)(torch.empty(20000, 2)), Counted(data.denoise)
    rounds = [3 if 20 <= k < 40 else 1 for k in range(60)]

    def keep(k: int, x: Tensor, sigma: Tensor, denoised: Tensor) -> None:
        seen.setdefault(k, []).append(x)

    end = time_travel(counted, x, fine, rounds, noise(8), keep)
    assert counted.calls == sum(rounds) == 100
    assert [len(visits) for visits in seen.values()] == rounds
    for step in (25, 39):
        expected = math.sqrt(1 + float(fine[step]) ** 2)
        for visit in seen[step]:
            assert abs(float(visit.std()) / expected - 1) < 0.05
    assert not torch.equal(seen[25][0], seen[25][1])
    assert end.shape == x.shape


def test_guidance_raises_log_w_with_and_without_repeats() -> None:
    weight = LinearLogWeight(SLOPE)
    scores = [float(weight(ancestral(start(2000), noise(9))).mean())]
    for repeats in (1, 4):
        window = Window(first=1.0, last=0.0, travel_until=0.0, repeats=repeats)
        method = FreeDoM(sigmas=LEVELS, plain_step=0.1, window=window)
        scores.append(float(weight(sampled(method, weight, start(2000), 9)[0]).mean()))
    assert min(scores[1:]) > scores[0] + 0.1


def test_a_batch_equals_its_singles() -> None:
    """With the noise of each sample its own, no sample sees another."""
    drawn = torch.randn(80, 3, 4, generator=torch.Generator().manual_seed(10))
    method = FreeDoM(sigmas=LEVELS)
    weight = AutogradLogWeight(lambda x: -(x**2).sum(dim=1), "bowl")

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        model = Branched(x * torch.tensor([1.0, 2.0, 0.5, 3.0]))
        return method(model, weight, x, sigma)[0]

    def run(rows: slice) -> Tensor:
        turn, x = iter(drawn), start(3)[rows]
        return time_travel(guided, x, LEVELS, method.rounds, lambda _: next(turn)[rows])

    singles = torch.cat([run(slice(i, i + 1)) for i in range(3)])
    torch.testing.assert_close(run(slice(None)), singles, rtol=1e-4, atol=1e-5)


def test_each_sample_of_a_batch_has_the_step_of_its_own_level() -> None:
    """The first one's level was that of all, and samples outside the window were guided."""
    x, correction, method = (
        3 * noise(11)(torch.empty(3, 4)),
        noise(12)(torch.empty(3, 4)),
        FreeDoM(sigmas=LEVELS),
    )
    levels = LEVELS[[2, 8, 11]]
    assert method.is_active(levels).tolist() == [False, True, True]

    def run(rows: slice) -> Tensor:
        model = Branched(correction[rows])
        return method(model, LinearLogWeight(SLOPE), x[rows], levels[rows])[0]

    singles = torch.cat([run(slice(i, i + 1)) for i in range(3)])
    torch.testing.assert_close(run(slice(None)), singles, rtol=1e-5, atol=1e-6)
    assert torch.equal(singles[0], MIXTURE.denoise(x, levels)[0])


def test_refusals() -> None:
    black = AutogradLogWeight(lambda d: d.detach().sum(dim=1), "jury")
    x, level = torch.zeros(2, 4), LEVELS[3].expand(2)
    with pytest.raises(WeightError, match="'jury' gives no gradient"):
        FreeDoM(sigmas=LEVELS, window=ALL)(MODEL, black, x, level)
    with pytest.raises(ValueError, match="not one of FreeDoM's run"):
        FreeDoM(sigmas=LEVELS, window=ALL)(Branched(x), LinearLogWeight(SLOPE), x, sigmas(2, 3.0))
    with pytest.raises(ValueError, match="was not bound to a run"):
        FreeDoM(window=ALL)(MODEL, LinearLogWeight(SLOPE), x, level)
    with pytest.raises(ValueError, match="step is -1"):
        FreeDoM(step=-1.0)
    with pytest.raises(ValueError, match="first is 70"):
        Window(first=70.0)
    with pytest.raises(ValueError, match="from 0.2 to 0.5"):
        Window(first=0.2, last=0.5)
    with pytest.raises(ValueError, match="repeats is 0"):
        Window(repeats=0)
    with pytest.raises(ValueError, match="2 numbers of rounds for 20 steps"):
        time_travel(MIXTURE.denoise, start(), LEVELS, [1, 1], noise(1))
