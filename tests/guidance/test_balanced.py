"""Going the whole way: exact for a line and any p, and exact for the chain that a sampler runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from lags_pack import guidance
from lags_pack.benchmarks import exact
from lags_pack.benchmarks._samplers import LEVELS
from lags_pack.demo.heart import Mixture
from lags_pack.demo.sampler import karras_sigmas
from lags_pack.guidance import Balanced, ChordSchedule, ancestral_keep
from lags_pack.tests.analytic import Counted, Gaussian, LinearLogWeight, sigmas
from torch import Tensor

BASE = Mixture(
    torch.tensor([[-3.0, 0.0], [0.0, 2.0], [2.0, -1.0]], dtype=torch.float64),
    0.2,
    torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log(),
)
FULL = guidance.DifferenceStep(full=True, max_step=1000.0)  # in a plane, and with exact denoisers


def tilted(slope: Tensor) -> Mixture:
    """exp(slope . x) p: each mean moves by variance * slope, and counts exp(...) as much."""
    gain = BASE.means @ slope + BASE.variance * slope.square().sum() / 2
    logits = BASE.log_weights + gain
    return Mixture(
        BASE.means + BASE.variance * slope, BASE.variance, logits - logits.logsumexp(dim=0)
    )


@pytest.mark.parametrize("level", [0.1, 0.5, 1.5, 6.0])
@pytest.mark.parametrize("schedule", [guidance.ConstantSchedule(), ChordSchedule()])
def test_a_line_is_tilted_exactly_whatever_p_is(level: float, schedule: object) -> None:
    """Strong slopes, far from a Gaussian p, where the derivative alone is off by half."""
    slope = torch.tensor([1.5, -1.0], dtype=torch.float64)
    x = BASE.sample(64, torch.Generator().manual_seed(0)).double()
    x = x + level * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    sigma, weight = sigmas(64, level), LinearLogWeight(slope)
    exact = tilted(slope).denoise(x, sigma)
    method = Balanced(schedule=schedule, difference=FULL)
    found, record = method(BASE.denoise, weight, x, sigma)
    assert (found - exact).abs().max() < 1e-4
    assert torch.allclose(record.alpha, torch.ones(64), atol=1e-4)
    if level > 1:
        first_order, _ = guidance.Paper(schedule=guidance.ConstantSchedule())(
            BASE.denoise, weight, x, sigma
        )
        assert (first_order - exact).abs().max() > 0.5


class Trials(LinearLogWeight):
    """A line whose gradient is in order, while its value elsewhere is what the test says."""

    def __init__(self, slope: Tensor, value: float | None = None) -> None:
        super().__init__(slope)
        self.value, self.tried = value, []

    def __call__(self, denoised: Tensor) -> Tensor:
        self.tried.append(denoised)
        right = super().__call__(denoised)
        return right if self.value is None else torch.full_like(right, self.value)

    def value_and_grad(self, denoised: Tensor) -> tuple[Tensor, Tensor]:
        return super().__call__(denoised), self.slope.expand_as(denoised)


def test_the_trial_is_the_shifted_sample() -> None:
    weight = Trials(torch.tensor([0.5, 0.5]))
    x, sigma = torch.randn(3, 2, generator=torch.Generator().manual_seed(2)), sigmas(3, 1.0)
    method = Balanced(schedule=ChordSchedule(), difference=FULL)
    denoiser = Counted(BASE.denoise)
    found, record = method(denoiser, weight, x, sigma)
    assert torch.allclose(weight.tried[0], found, atol=1e-5)
    assert (record.model_calls, record.weight_calls, record.value_calls) == (2, 1, 1)
    gain = (weight.tried[0] - denoiser.answered[0]) @ weight.slope
    assert torch.allclose(record.actual_gain, gain, atol=1e-5)
    _, start = method.tilted_start(BASE.denoise, weight, x, sigma)
    middle = (weight.tried[-1] + weight.tried[-2]) / 2
    assert torch.allclose(middle, denoiser.answered[0].float(), atol=1e-5)
    assert start.value_calls == 2


def test_a_trial_of_weight_zero_shifts_nothing_and_one_without_a_number_is_refused() -> None:
    x, sigma = torch.ones(1, 2), sigmas(1, 2.0)
    method = Balanced(schedule=ChordSchedule(), difference=FULL)
    found, record = method(BASE.denoise, Trials(torch.ones(2), -math.inf), x, sigma)
    assert torch.equal(found, BASE.denoise(x, sigma)) and record.alpha.item() == 0
    for value in (math.nan, math.inf):
        with pytest.raises(guidance.WeightError, match=r"not finite at noise level sigma = 2"):
            method(BASE.denoise, Trials(torch.ones(2), value), x, sigma)


# ---- the conditional branch alone ---------------------------------------------------------------


class Branches:
    """Two branches; what is asked of each is noted."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.asked.append("both")
        self.last = x
        return 3 * x

    def conditional(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.asked.append("one")
        return 3 * self.last + 0.5 * (x - self.last)


@pytest.mark.parametrize(("conditional", "asked", "j"), [(True, "one", 0.5), (False, "both", 3.0)])
def test_the_second_evaluation_takes_the_branch_that_it_is_told(
    conditional: bool, asked: str, j: float
) -> None:
    method = guidance.Paper(schedule=guidance.ConstantSchedule(), conditional=conditional)
    denoiser, slope = Branches(), torch.tensor([1.0, 2.0])
    found, _ = method(denoiser, LinearLogWeight(slope), torch.ones(1, 2), sigmas(1, 1.0))
    assert denoiser.asked == ["both", asked]
    assert torch.allclose(found, 3 + j * slope, atol=1e-4)


# ---- what fits a sampler's coarse steps ------------------------------------------------------


def chain(
    method: guidance.LAGS, std: float, levels: Tensor, slope: float, draws: bool, fits: bool = True
) -> tuple[float, float]:
    """Gaussian p, a line: where the mean of a run ends, and the variance that it has when plain."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return x * std**2 / (std**2 + sigma[:, None] ** 2)

    weight, state = LinearLogWeight(torch.tensor([slope])), guidance.RunState()
    start = guidance.Step(state=state)
    x, _ = method.tilted_start(denoise, weight, torch.zeros(1, 1), levels[:1], start)
    variance = float(levels[0]) ** 2
    for sigma, lower in pairwise(levels):
        keep, j = float(lower / sigma) ** (2 if draws else 1), std**2 / (std**2 + float(sigma) ** 2)
        step = guidance.Step(keep if fits else 1.0, draws, state=state)
        denoised, _ = method(denoise, weight, x, sigma[None], step)
        x = denoised + keep * (x - denoised)
        noise = keep * float(sigma**2 - lower**2) if draws else 0.0
        variance = (j + keep * (1 - j)) ** 2 * variance + noise
    return float(x), variance


@pytest.mark.parametrize("draws", [True, False])
@pytest.mark.parametrize("std", [0.05**0.5, 1.0, 10**0.5])
@pytest.mark.parametrize("steps", [8, 10, 20, 30])
def test_coarse_steps_draw_the_tilt_of_their_own_law(steps: int, std: float, draws: bool) -> None:
    """Outputs of a plain chain have a variance V below std^2, and log w = b x must give V b."""
    levels, method = karras_sigmas(steps, 0.03, 15.0), guidance.preset("balanced", difference=FULL)
    mean, variance = chain(method, std, levels, 0.4 / std, draws)
    assert mean == pytest.approx(0.4 / std * variance, rel=0.03)
    mean, _ = chain(method, std, levels, 0.4 / std, draws, fits=False)
    assert mean > 1.07 * 0.4 / std * variance


def test_steps_that_are_not_guided_go_on_with_the_cached_shift() -> None:
    """Low variances are decided late; without the cached shift 30 % of the tilt arrive."""
    levels, method = karras_sigmas(30, 0.03, 15.0), guidance.preset("balanced", difference=FULL)
    every = replace(method, skip_below=0.0)
    for std in (0.1, 0.5):
        expected, _ = chain(every, std, levels, 1.0, draws=True)
        assert chain(method, std, levels, 1.0, draws=True)[0] == pytest.approx(expected, rel=0.02)


def measured(shift: Tensor, sigma: float = 1.0, j: Tensor | None = None) -> guidance.Measurement:
    """A measurement without a trend."""
    one = torch.ones(len(shift))
    level, j = sigma * one, one if j is None else j
    return guidance.Measurement(level, shift, j, one, one, level, 0 * one, 0 * one, one)


def test_a_measurement_is_for_the_same_samples_at_less_noise() -> None:
    shift = torch.ones(2, 3)
    found = measured(shift, j=torch.tensor([0.5, 1.0]))
    now, j = found.now(sigmas(2, 0.5))
    # Of variance 1 and of any: sigma^2 J is 1 / (1 + 4) against 1 / 2, and 1 / 4 against 1.
    torch.testing.assert_close(now[:, 0], torch.tensor([0.4, 0.25]))
    torch.testing.assert_close(j, torch.tensor([0.8, 1.0]))
    assert not found.now(sigmas(2, 2.0))[0].any(), "nothing is known of more noise"
    for level, due in ((1.0, False), (0.8, False), (0.6, True), (2.0, True)):
        assert found.is_due(shift, sigmas(2, level), 0.7).tolist() == [due, due], level
    for served, due in ((0.0, False), (1.0, True)):
        later = replace(found, served=torch.full((2,), served))
        assert later.is_due(shift, sigmas(2, 0.8), 0.7).tolist() == [due, due]
    assert found.is_due(shift, sigmas(2, 1.0), 1.0).all(), "in every step"
    assert found.is_due(torch.ones(2, 4), sigmas(2, 1.0), 0.7).all(), "enlarged by the sampler"


def test_what_outgrew_its_foresight_goes_on_to_do_so_for_as_long() -> None:
    """J = 1, so sigma^2 J v is foreseen as keep; the first sample's is 1.5 times that."""
    before = measured(torch.ones(2, 3), 1.0)
    found = measured(0.64 * torch.tensor([1.5, 1.0])[:, None].expand(2, 3), 0.8).after(before)
    for level, grown in ((0.8, 1.0), (0.8**1.5, 1.5**0.5), (0.641, 1.5), (0.63, 1.0)):
        now, _ = found.now(sigmas(2, level))
        expected = level**2 * torch.tensor([1.5 * grown, 1.0])
        torch.testing.assert_close(now[:, 0], expected, rtol=0.01, atol=0)
    for times in (50.0, -1.0):  # another image, or the way back
        far = measured(0.64 * times * torch.ones(2, 3), 0.8).after(before)
        assert far.trend.abs().amax() == pytest.approx(math.log(2))


def test_no_trend_is_seen_in_more_noise_or_another_size_or_from_nothing() -> None:
    found, twice = measured(torch.ones(2, 3), 0.8), 2 * torch.ones(2, 3)
    others = measured(twice, 0.8), measured(twice, 0.7), measured(torch.ones(2, 4))
    for before in (None, *others, measured(0 * twice)):
        assert not found.after(before).trend.any()
        torch.testing.assert_close(
            found.after(before).now(sigmas(2, 0.7)), found.now(sigmas(2, 0.7))
        )


def test_samples_that_were_never_measured_have_no_shift_and_one_is_due() -> None:
    shift = torch.ones(2, 3)
    found = measured(shift)
    for other in (None, replace(found, shift=torch.ones(2, 4))):
        part = found.where(torch.tensor([True, False]), other)
        now, _ = part.now(sigmas(2, 0.9))
        assert now[0].all() and not now[1].any()
        assert part.is_due(shift, sigmas(2, 0.9), 0.7).tolist() == [False, True]


def run_of(
    steps: int, rows: Tensor, method: Balanced, levels: Tensor | None = None
) -> tuple[Tensor, guidance.Trace, Counted]:
    """Euler's steps from given noise [B, 2] under a bent weight, as a run makes them."""
    levels = karras_sigmas(steps, 0.03, 15.0) if levels is None else levels
    weight = guidance.AutogradLogWeight(lambda x: -(x - 1).square().sum(dim=1), "bent")
    trace, state, model = guidance.Trace(), guidance.RunState(), Counted(BASE.denoise)
    method = method.in_steps(steps, 2)
    x, sigma = rows * levels[0], levels[0].expand(len(rows))
    x, record = method.tilted_start(model, weight, x, sigma, guidance.Step(state=state))
    trace.add_start(record)
    for sigma, lower in pairwise(levels):
        step = guidance.Step(float(lower / sigma), False, state=state)
        denoised, record = method(model, weight, x, sigma.expand(len(rows)), step)
        trace.add(record)
        x = denoised + lower / sigma * (x - denoised)
    return x, trace, model


NOISE = torch.randn(3, 2, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("steps", "most"), [(9, 7), (20, 8), (30, 12), (100, 40)])
def test_a_run_measures_now_and_then_and_does_what_was_planned(steps: int, most: int) -> None:
    method, levels = guidance.preset("balanced", difference=FULL), karras_sigmas(steps, 0.03, 15.0)
    made = guidance.plan(method, levels, lambda s, noise, latent: latent + s * noise)
    _, trace, model = run_of(steps, NOISE, method)
    assert made.total_calls == trace.model_calls == model.calls
    assert made.weight_calls == trace.weight_calls <= most
    assert made.value_calls == trace.value_calls == trace.weight_calls + 1
    assert made.active.tolist() == [record.active for record in trace.records]
    assert trace.records[0].model_calls == 0, "D there follows from D at the noise that was moved"
    _, textbook, _ = run_of(steps, NOISE, replace(method, serves=1.0))
    assert textbook.weight_calls == 1 + int(made.active.sum())
    assert textbook.model_calls == 2 + steps + int(made.active.sum())


def test_few_steps_are_each_measured() -> None:
    method = guidance.preset("balanced", difference=FULL)
    assert method.in_steps(8, 2).serves == 1 > method.in_steps(9, 1).serves == method.serves
    _, trace, model = run_of(8, NOISE, method)
    assert all(record.weight_calls == record.active for record in trace.records)
    assert model.calls == 8 + 2 + sum(record.active for record in trace.records)


def test_a_batch_equals_its_singles() -> None:
    """Also where its rows are at noise levels of which one is due and another is not."""
    method = guidance.preset("balanced", difference=FULL)
    together = run_of(20, NOISE, method)[0]
    for row, alone in zip(NOISE, together, strict=True):
        torch.testing.assert_close(run_of(20, row[None], method)[0][0], alone)

    weight = guidance.AutogradLogWeight(lambda x: -(x - 1).square().sum(dim=1), "bent")
    levels = torch.tensor([[4.0, 3.0, 3.0], [3.9, 1.0, 3.9], [0.9, 0.9, 0.01]])

    def through(which: list[int]) -> Tensor:
        state = guidance.RunState()
        for sigma in levels:
            step = guidance.Step(0.5, True, state=state)
            guided, _ = method(BASE.denoise, weight, 4 * NOISE[which], sigma[which], step)
        return guided

    torch.testing.assert_close(through([0, 1, 2]), torch.cat([through([i]) for i in range(3)]))


def test_d_of_a_moved_start_is_foreseen_where_it_is_the_moved_start() -> None:
    x, move, sigma = NOISE * 4, NOISE, sigmas(3, 4.0)
    start = guidance.Start(x, sigma, 0.5 * x, move, torch.full((3,), 0.5))
    found = start.foreseen(x + move, sigma)
    assert found is not None
    torch.testing.assert_close(found, 0.5 * (x + move))
    assert start.foreseen(x, sigma) is not None, "a mask may have kept it where it was"
    assert start.foreseen(x + 1.1 * move, sigma) is None
    assert start.foreseen(x + move, sigmas(3, 3.0)) is None
    assert start.foreseen(torch.cat([x, x], dim=1), sigma) is None
    method, weight = guidance.preset("balanced"), LinearLogWeight(torch.ones(2))
    for watched in (False, True):
        state, model = guidance.RunState(), Counted(BASE.denoise)
        moved, _ = method.tilted_start(model, weight, x, sigma, guidance.Step(state=state))
        _, record = method(
            model, weight, moved, sigma, guidance.Step(is_watched=watched, state=state)
        )
        assert record.model_calls == watched == model.calls - 2


def test_fine_steps_and_other_samplers_take_the_full_shift() -> None:
    j, full = torch.tensor([0.0, 0.3, 1.0, 2.0]), torch.ones(4)
    for fine in (0.99999, 0.999999):
        torch.testing.assert_close(guidance.noisy_step(fine, fine, j), full, atol=1e-4, rtol=0)
        for found in guidance.plain_step(fine, j, full):
            torch.testing.assert_close(found, full, atol=1e-4, rtol=0)
    state = guidance.RunState(keep=0.5)
    assert torch.equal(state.share(1.0, True, j), full) and state.left is None
    assert not guidance.noisy_step(0.5, 1.0, j).any(), "x was just drawn from w p"
    torch.testing.assert_close(guidance.noisy_step(0.0, 0.25, j), 0.75 * j)
    assert ancestral_keep(torch.tensor([4.0, 2.0, 0.0]), 3.0) == 1
    assert ancestral_keep(torch.tensor([4.0, 2.0, 0.0]), 2.0) == 0
    assert ancestral_keep(torch.tensor([4.0, 2.0, 2.0, 1.0]), 2.0) == 0.25, "a level may repeat"


@pytest.mark.parametrize(
    ("curvature", "steps", "off"), [(-2, 10, 0.15), (0.3, 10, 0.15), (-2, 30, 0.065)]
)
def test_a_parabola_keeps_the_spread_that_it_should(
    curvature: float, steps: int, off: float
) -> None:
    """With the gradient of the drawn points alone the spread is 0.77 of it in ten coarse steps.

    In 30, of which every second takes no gradient, 0.92 of it.
    """
    problem = exact.on_line(exact.gaussian(1.0), exact.quadratic(curvature))
    solver = exact.Solver("euler_ancestral", steps)
    truth = exact.Truth.of(problem.weight(solver.plain(problem, 20_000)))
    found = problem.weight(solver.guided(problem, guidance.preset("balanced"), 10_000).x)
    assert float(found.std()) == pytest.approx(truth.std, rel=off)
    assert float(found.mean()) - truth.plain == pytest.approx(truth.shift, rel=off)


def test_the_gradient_midway_takes_less_of_an_older_one() -> None:
    """Half of the last step's, a quarter where one step took none since, nothing of others."""
    older, newer = torch.full((4, 2), 8.0), torch.full((4, 2), 4.0)
    state, measured = guidance.RunState(), torch.tensor([True, True, True, False])
    first = torch.tensor([True, True, False, True])
    state.pass_by()
    assert torch.equal(state.midway(older, first), older), "there is none before it"
    assert torch.equal(state.midway(newer, measured)[:, 0], torch.tensor([6.0, 6.0, 4.0, 6.0]))
    state.pass_by()
    # What was not measured then keeps the gradient before it, which is older by a step.
    mixed = state.midway(torch.zeros(4, 2), measured)
    assert torch.equal(mixed[:, 0], torch.tensor([1.0, 1.0, 1.0, 0.0]))
    state.pass_by()
    state.pass_by()
    assert not state.midway(torch.zeros(4, 2), measured).any()
    other = torch.ones(4, 3)
    assert torch.equal(state.midway(other, measured), other), "of another size"


@pytest.mark.parametrize("over", [0.0, 1.2e-7, 5e-5])
def test_a_noise_level_that_is_rounded_up_is_the_one_that_was_measured(over: float) -> None:
    """exp(log sigma), as some samplers start, is above sigma by a digit: the shift was zero."""
    x, method, state = torch.randn(3, 4), guidance.preset("balanced"), guidance.RunState()
    weight, model = LinearLogWeight(torch.ones(4)), Gaussian(torch.zeros(4), 1.0)
    method.tilted_start(model.denoise, weight, 4 * x, sigmas(3, 4.0), guidance.Step(state=state))
    state.keep = 0.6  # of a step that led here, so that there is something to make up for
    here = guidance.Step(0.6, state=state)
    _, record = method(model.denoise, weight, 4 * x, sigmas(3, 4.0 * (1 + over)), here)
    assert bool((record.shift_rms > 0.1).all())


def test_the_slope_is_where_the_shift_is() -> None:
    """v has a part that J takes away; a J that is no covariance has no slope."""
    v, shift = torch.tensor([[3.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    shift = torch.cat([shift, -torch.ones(1, 3)])
    assert guidance.slope_along(v, shift, sigmas(2, 2.0)).tolist() == [0.5, 0.0]
    many = torch.tensor([[1e-3, 0.0, 1e3]])
    assert float(guidance.slope_along(v[1:], many, sigmas(1, 1.0))) == 2.0


# ---- how far it looks, and how far it goes -----------------------------------------------------


@pytest.mark.parametrize("nats", [1.0, 2.0])
@pytest.mark.parametrize("steps", [4, 30])
@pytest.mark.parametrize("draws", [True, False])
def test_a_zero_terminal_snr_start_keeps_its_strength(steps: int, nats: float, draws: bool) -> None:
    """0.3 to 0.5 of the lift where v itself was shortened."""
    levels, method = LEVELS["zero-terminal SNR"](steps), guidance.preset("balanced")
    mean, variance = chain(method, 1.0, levels, nats, draws)
    assert mean == pytest.approx(nats * variance, rel=0.03)


@pytest.mark.parametrize("strength", [1.0, 100.0, 1e6])
@pytest.mark.parametrize("level", [0.3, 14.6, 4518.0])
def test_it_looks_and_goes_no_further_than_it_knows(strength: float, level: float) -> None:
    """The second evaluation is 30 of the noise away at most, the shift 4 of the data's deviations.

    Their variance is 1, of which at least a tenth counts as open.
    """
    x = level * torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    slope = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    weight = LinearLogWeight(slope / slope.norm() * strength)
    denoiser = Counted(lambda x, sigma: x / (1 + sigma.view(-1, 1, 1, 1) ** 2))
    method = replace(guidance.preset("balanced"), skip_below=0.0)
    found, _ = method(denoiser, weight, x, sigmas(3, level))
    away = (denoiser.asked[1] - denoiser.asked[0]).flatten(1).norm(dim=1) / level
    assert (away <= 30.01).all()
    shift = (found - denoiser.answered[0]).flatten(1).norm(dim=1)
    posterior = level / (1 + level**2) ** 0.5
    assert (shift <= 4.01 * min(1.0, posterior / math.sqrt(0.1))).all()
    assert (shift >= 0.99 * min(strength * posterior**2, posterior)).all()


def test_a_network_without_a_covariance_is_not_continued() -> None:
    """J = 1 at high noise: what was seen of the shortened step is all that is taken."""
    step, v, sigma = guidance.DifferenceStep(full=True), torch.full((2, 100), 3.0), sigmas(2, 4.0)
    j = torch.tensor([1.0, 0.25])  # sigma v is 120 long, four times what is allowed
    assert step.continued(v, sigma, j).tolist() == [1.0, 4.0]
    assert step.continued(v, sigma, torch.full((2,), 0.5)).tolist() == [2.0, 2.0]
    assert step.continued(v / 100, sigma, j).tolist() == [1.0, 1.0]


def away(x: Tensor) -> Tensor:
    """From a point outside of the data: no parabola, without an upper slope."""
    return -(1 + (x - 4 * torch.eye(8)[0]).square().sum(dim=1)).sqrt()


@pytest.mark.parametrize(
    ("score", "reached"),
    [
        (away, -1.3),  # -1.6 from a strength of 10 on where a shift was limited by the posterior
        (lambda x: -(x - 3).square().sum(dim=1), -1.0),  # -18 at every strength likewise
        (lambda x: x.sum(dim=1) / math.sqrt(8), 8.0),  # 4.8
        (lambda x: torch.cosine_similarity(x, torch.ones(1, 8)), 0.95),  # 0.92
    ],
    ids=["distance", "parabola", "line", "cosine"],
)
def test_strength_stays_a_dial(score: Callable[[Tensor], Tensor], reached: float) -> None:
    """From 1 to 100 nats, in eight dimensions of unit variance."""
    data, found = exact.Correlated(torch.ones(8)), []
    for strength in (1.0, 3.0, 10.0, 30.0, 100.0):
        weight = guidance.AutogradLogWeight(lambda x, s=strength: s * score(x), "score")
        problem = exact.Problem(data.denoise, data.sample, weight, 8)
        drawn = exact.Solver("euler_ancestral", 30).guided(
            problem, guidance.preset("balanced"), 500
        )
        found.append(float(score(drawn.x).mean()))
    assert all(low < high for low, high in pairwise(found)) and found[-1] > reached


@pytest.mark.parametrize(("steps", "least"), [(10, 75), (30, 60)])
def test_what_is_decided_late_is_guided(steps: int, least: float) -> None:
    """Data that vary little, under a parabola: 43 and 21 % where nothing below 0.43 is measured."""
    problem = exact.PROBLEMS["concave, variance 0.05"]()
    solver = exact.Solver("euler_ancestral", steps)
    truth = exact.Truth.of(problem.weight(solver.plain(problem, 20_000)))
    found = problem.weight(solver.guided(problem, guidance.preset("balanced"), 5_000).x)
    assert float(found.mean()) - truth.plain > least / 100 * truth.shift
