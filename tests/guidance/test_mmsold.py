from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lags_pack.guidance import MMSOLD, Moments, PrincipalSpace, SmoothedScore, log_shares
from lags_pack.guidance.mmsold import effective_size, retract, score, tangent
from lags_pack.guidance.mmsold.bandwidth import Bandwidth
from lags_pack.guidance.mmsold.space import neighbour_distances
from torch import Tensor

F64 = torch.float64
QUICK = MMSOLD(sigma=0.6, steps=20, draws=4, nearest=0)
CIRCLE = MMSOLD(sigma_g=0.05, sigma=0.25, draws=8, steps=60, nearest=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


def skewed(n: int = 40, d: int = 3, seed: int = 0) -> Tensor:
    """Points [n, d] with a mean, correlations and unequal widths: L is far from symmetric."""
    mix = torch.tril(normal(d, d, seed=seed + 1)) + torch.diag(torch.linspace(0.5, 2, d, dtype=F64))
    return normal(n, d, seed=seed) @ mix.T + 3


def equal(n: int) -> Tensor:
    return torch.full((n,), 1 / n, dtype=F64)


def circle(n: int = 12) -> Tensor:
    angle = torch.arange(n, dtype=F64) * 2 * math.pi / n
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def moments_of(data: Tensor, shares: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and covariance, of equal or given shares."""
    shares = equal(len(data)) if shares is None else shares
    mean = shares @ data
    return mean, (shares[:, None] * (data - mean)).T @ (data - mean)


def off_by(data: Tensor, shares: Tensor, sigma_g: float) -> tuple[list[float], Callable[..., None]]:
    """Largest deviation of mean and covariance so far, and the callback that notes it."""
    mean, covariance = moments_of(data, shares)
    covariance = covariance + sigma_g**2 * torch.eye(data.shape[1], dtype=F64)
    worst = [0.0, 0.0]

    def note(done: int, z: Tensor) -> None:
        found = moments_of(z)
        for i, wanted in enumerate((mean, covariance)):
            worst[i] = max(worst[i], float((found[i] - wanted).abs().max()))

    return worst, note


def direct_gradient(data: Tensor, shares: Tensor, sigma_g: float, z: Tensor) -> Tensor:
    """grad U by autograd, from the definition."""
    z = z.clone().requires_grad_()
    squares = (z[:, None] - data).square().sum(dim=2)
    energy = -(shares.log() - squares / (2 * sigma_g**2)).logsumexp(dim=1)
    return torch.autograd.grad(energy.sum(), z)[0]


# The constraint.


@pytest.mark.parametrize(("d", "particles", "steps"), [(3, 50, 20), (5, 6, 20), (3, 30, 0)])
def test_moments_at_every_iteration(d: int, particles: int, steps: int) -> None:
    """Also of the fewest particles that work, and of the start alone."""
    data, seen = skewed(d=d), []
    worst, note = off_by(data, equal(40), QUICK.sigma_g)
    method = replace(QUICK, steps=steps)
    z = method.sample(data, particles, 1, on_step=lambda i, z: (seen.append(i), note(i, z)))
    assert seen == list(range(steps + 1))
    assert z.shape == (particles, d) and z.dtype == F64
    assert max(worst) < 1e-6


def test_tangent_and_retraction() -> None:
    y, direction = retract(normal(20, 4)), normal(20, 4, seed=1)
    along = tangent(y, direction)
    overlap = y.T @ along
    torch.testing.assert_close(overlap, -overlap.T)  # d(Y^T Y) = 0: moments stay to first order
    torch.testing.assert_close(along.mean(dim=0), torch.zeros(4, dtype=F64))
    torch.testing.assert_close(tangent(y, along), along)
    # Orthogonal: what is taken away has no part in the tangent space.
    other = tangent(y, normal(20, 4, seed=2))
    assert float(((direction - along) * other).sum()) == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(retract(y), y)
    torch.testing.assert_close(retract(-y), -y)
    step = 1e-4 * along
    assert float((retract(y + step) - y - step).abs().max()) < 1e-6  # second order


def test_standard_coordinates_and_back() -> None:
    data = skewed()
    moments = Moments.of(data, equal(40), 0.1)
    torch.testing.assert_close(moments.from_standard(moments.to_standard(data)), data)
    wanted = moments_of(data)[1] + 0.01 * torch.eye(3, dtype=F64)
    torch.testing.assert_close(moments.factor @ moments.factor.T, wanted)


def test_chain_rule_has_l_and_not_its_transpose() -> None:
    data, y = skewed(), normal(7, 3, seed=3)
    moments = Moments.of(data, equal(40), 0.5)
    leaf = y.clone().requires_grad_()
    squares = (moments.from_standard(leaf)[:, None] - data).square().sum(dim=2)
    (wanted,) = torch.autograd.grad(-(-squares / 0.5).logsumexp(dim=1).sum(), leaf)
    gradient = direct_gradient(data, equal(40), 0.5, moments.from_standard(y))
    torch.testing.assert_close(moments.pull_back(gradient), wanted)
    assert not torch.allclose(gradient @ moments.factor.T, wanted, rtol=0.1)


# The score.


def test_score_without_smoothing_is_the_definition() -> None:
    data, z, log_w = skewed(), skewed(9, seed=5), normal(40, seed=6)
    shares = log_shares(data, log_w)
    found = SmoothedScore(data, shares, 0.7, 0.3, draws=0)(z, seeded())
    torch.testing.assert_close(found, direct_gradient(data, shares.exp(), 0.7, z))
    torch.testing.assert_close(SmoothedScore(data, shares, 0.7, 0.0, draws=8)(z, seeded()), found)


def test_smoothed_score_is_the_mean_over_shifts() -> None:
    data, z = skewed(), skewed(3, seed=5)
    found = SmoothedScore(data, log_shares(data, None), 0.4, 0.6, draws=5000)(z, seeded(1))
    shifts = 0.6 * normal(5000, 3, seed=2)
    parts = [direct_gradient(data, equal(40), 0.4, one + shifts).mean(dim=0) for one in z]
    wanted = torch.stack(parts)
    assert float((found - wanted).abs().max()) < 0.1
    unsmoothed = direct_gradient(data, equal(40), 0.4, z)
    assert float((unsmoothed - wanted).abs().max()) > 0.5, "smoothing that can be seen"


def test_antithetic_draws_cancel_the_first_order() -> None:
    """Two points, z half-way: eps and -eps give softmax shares that sum to one, exactly."""
    data = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=F64)
    smoothed = SmoothedScore(data, log_shares(data, None), 0.5, 0.5, draws=2)
    for seed in range(5):
        found = smoothed(torch.zeros(4, 2, dtype=F64), seeded(seed))
        assert float(found.abs().max()) < 1e-12


def test_result_does_not_depend_on_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """In law: with many draws, blocks of any size give the same gradient up to their noise."""
    data, z = skewed(), skewed(9, seed=5)
    smoothed = SmoothedScore(data, log_shares(data, None), 0.7, 0.4, draws=4000)
    whole = smoothed(z, seeded())
    largest = [0]
    softmax = Tensor.softmax

    def watched(self: Tensor, dim: int) -> Tensor:
        largest[0] = max(largest[0], self.numel())
        return softmax(self, dim=dim)

    monkeypatch.setattr(score, "MOST_LOGITS", 1000)
    monkeypatch.setattr(Tensor, "softmax", watched)
    parts = smoothed(z, seeded())
    assert 0 < largest[0] <= 1000
    assert float((parts - whole).abs().max()) < 0.2


def test_nearest_and_rest() -> None:
    data, z = skewed(), skewed(9, seed=5)
    exact = SmoothedScore(data, log_shares(data, normal(40)), 0.7, 0.0, draws=0)
    # All others drawn, each stands for itself.
    few = replace(exact, data=data[:39], log_shares=exact.log_shares[:39])
    every = replace(few, nearest=15, others=24)
    torch.testing.assert_close(every(z, seeded()), few(z, seeded()))
    # A part of the others: right on average over draws, with the weight that they stand for.
    part = replace(exact, sigma_g=3.0, nearest=5, others=10)
    generator = seeded()
    mean = torch.stack([part(z, generator) for _ in range(400)]).mean(dim=0)
    wanted = replace(exact, sigma_g=3.0)(z, seeded())
    assert float((mean - wanted).abs().max()) < 0.02
    unweighted = replace(part, others=0)
    assert float((unweighted(z, seeded()) - wanted).abs().max()) > 0.1
    # The same of smoothed scores.
    many, z = skewed(200, seed=2), skewed(5, seed=5)
    exact = SmoothedScore(many, log_shares(many, None), 0.7, 0.4, draws=4000)
    part = replace(exact, nearest=150, others=30)
    assert float((part(z, seeded()) - exact(z, seeded(1))).abs().max()) < 0.1


# Samples.


def turns(z: Tensor) -> Tensor:
    """Where on the circle the samples lie, 0 to 1."""
    return torch.atan2(z[:, 1], z[:, 0]) / (2 * math.pi) % 1


def test_twelve_points_fill_the_circle() -> None:
    """With the constraint and the smoothing; without the one or the other they do not."""
    data = circle()
    worst, note = off_by(data, equal(12), CIRCLE.sigma_g)
    z = CIRCLE.sample(data, 250, 0, on_step=note)
    assert max(worst) < 1e-6
    assert float(((z.norm(dim=1) - 1).abs() < 0.15).double().mean()) > 0.9
    assert len((turns(z) * 36).long().unique()) == 36, "every sector of ten degrees"

    copies = turns(replace(CIRCLE, draws=0).sample(data, 250, 0))
    between = ((copies * 12 + 0.5) % 1 - 0.5).abs() > 0.3  # of the way to the next point
    assert float(between.double().mean()) < 0.1, "0.4 where the circle is filled"

    worst, note = off_by(data, equal(12), CIRCLE.sigma_g)
    free = replace(CIRCLE, constrained=False).sample(data, 250, 0, on_step=note)
    assert worst[1] > 1e-2
    assert float(free.norm(dim=1).mean()) < 0.98, "smoothing draws the particles together"


def test_one_wide_gaussian_is_sampled_right() -> None:
    """Far wider than the data lie apart, U is a parabola: the steps must leave N(mean, cov)."""
    data = 0.01 * skewed(50, 2)
    free = MMSOLD(sigma_g=1.0, draws=0, steps=60, step=0.1, nearest=0, constrained=False)
    z = free.sample(data, 4000, 0)
    mean, covariance = moments_of(z)
    assert float((mean - data.mean(dim=0)).abs().max()) < 0.06
    assert float((covariance - torch.eye(2, dtype=F64)).abs().max()) < 0.06


def test_weights_on_the_points() -> None:
    data = circle(40)
    log_w = 2 * data[:, 0]
    shares = log_w.softmax(dim=0)
    worst, note = off_by(data, shares, 0.05)
    z = CIRCLE.sample(data, 150, 0, log_weights=log_w + 100, on_step=note)
    assert max(worst) < 1e-6, "weighted mean and covariance"
    assert float(z[:, 0].mean()) == pytest.approx(float(shares @ data[:, 0]), abs=1e-6)
    assert float(z[:, 0].mean()) > 0.5
    assert float(((z.norm(dim=1) - 1).abs() < 0.15).double().mean()) > 0.9
    # A weight of zero takes a point out.
    data, log_w = torch.cat([circle(), torch.full((1, 2), 50.0)]), torch.zeros(13, dtype=F64)
    log_w[12] = -math.inf
    z = QUICK.sample(data, 40, 3, log_weights=log_w)
    torch.testing.assert_close(z, QUICK.sample(data[:12], 40, 3))


def test_one_seed_one_result_in_the_precision_of_the_data() -> None:
    data = skewed()
    for method in (QUICK, replace(QUICK, nearest=5)):
        first = method.sample(data, 30, 7)
        assert torch.equal(first, method.sample(data, 30, 7))
        assert not torch.allclose(first, method.sample(data, 30, 8))
    z = QUICK.sample(data.float(), 30, 7)
    assert z.dtype == torch.float32 and z.isfinite().all()


def test_saved_settings_draw_what_they_drew() -> None:
    """As recorded before sigma could be found: the score exact or nearest, in double precision."""
    data = skewed(60, 3)
    drawn = {near: replace(QUICK, nearest=near).sample(data, 30, 7)[0].tolist() for near in (0, 20)}
    assert drawn[0] == pytest.approx([-0.822399775, 0.895391361, 9.285081765], rel=1e-6)
    assert drawn[20] == pytest.approx([-0.811212728, 0.941634785, 9.426387488], rel=1e-6)


# Smoothing by the data.


def test_bandwidth_goes_where_as_many_are_copies() -> None:
    """Up where more of the particles are near a point, down where fewer, and it stays in range."""
    data = 7 * normal(60, 4)
    bandwidth = Bandwidth.of(data, equal(60))
    closer = neighbour_distances(data) < bandwidth.closest
    assert float(closer.double().mean()) == pytest.approx(0.05, abs=0.02)
    away = torch.tensor([[1.0, 0, 0, 0]], dtype=F64)
    far, near = data + 0.9 * bandwidth.unit * away, data + 1e-3 * away
    assert bandwidth.now == pytest.approx(bandwidth.unit), "the widest"
    for _ in range(3):
        bandwidth.look(100 * far)
    fallen = bandwidth.now
    assert fallen < 0.7 * bandwidth.unit
    bandwidth.look(near)
    assert bandwidth.now > 1.2 * fallen
    for cloud, share in ((near, 1.0), (100 * far, 0.2)):
        for _ in range(50):
            bandwidth.look(cloud)
        assert bandwidth.now == pytest.approx(share * bandwidth.unit)
    assert bandwidth.now < bandwidth.settled < 1.2 * bandwidth.now, "over the later looks"


def test_found_smoothing_has_no_unit() -> None:
    data = normal(60, 4)
    method = MMSOLD(steps=20)
    wide = replace(method, sigma_g=8 * method.sigma_g).sample(8 * data, 30, 1)
    torch.testing.assert_close(wide / 8, method.sample(data, 30, 1), rtol=1e-4, atol=1e-4)


def test_sigma_is_found_in_the_first_half_and_then_held(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    shares = SmoothedScore._shares

    def watched(self: SmoothedScore, *given: Any) -> Tensor:
        seen.append(self.sigma)
        return shares(self, *given)

    monkeypatch.setattr(SmoothedScore, "_shares", watched)
    data = heavy(200, 6)
    MMSOLD(steps=40).sample(data, 50, 0)
    assert len(set(seen[:20])) > 5 and len(set(seen[20:])) == 1 and len(seen) == 40
    seen.clear()
    MMSOLD(steps=1).sample(data, 50, 0)
    assert seen == [seen[0]] and seen[0] > 0


def heavy(n: int = 300, d: int = 12) -> Tensor:
    """Points [n, d] that lie close together in the middle and far apart outside."""
    return normal(n, d) * normal(n, 1, seed=1).exp()


@pytest.mark.parametrize(("kind", "least", "most"), [("digits", 0.8, 1.0), ("heavy", 0.2, 0.6)])
def test_new_points_are_copies_as_often_as_the_data(
    kind: str, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 %, by another sigma for each."""
    data = eights()[0] if kind == "digits" else heavy()
    data = PrincipalSpace.of(data, equal(len(data))).encode(data)
    of, made = Bandwidth.of, []

    def kept(*given: Tensor) -> Bandwidth:
        made.append(of(*given))
        return made[-1]

    monkeypatch.setattr(Bandwidth, "of", kept)
    new = MMSOLD().sample(data, 300, 0)
    (bandwidth,) = made

    def copies(points: Tensor) -> float:
        return float((torch.cdist(points, data).amin(dim=1) < bandwidth.closest).double().mean())

    assert copies(new) == pytest.approx(0.05, abs=0.08)
    assert least <= bandwidth.settled / bandwidth.unit <= most
    if kind == "digits":
        assert copies(MMSOLD(sigma=0.6).sample(data, 300, 0)) > 0.2


def test_float32_where_it_is_enough() -> None:
    """Rounding of the score against the noise of a step; where it would count, double precision."""
    pictures, _ = digits()
    data = PrincipalSpace.of(pictures, equal(len(pictures))).encode(pictures)
    method, wide = MMSOLD(), 100 * normal(50, 2)
    assert method._score(data, log_shares(data, None)).data.dtype == torch.float32
    assert replace(method, sigma=0.6)._score(data, log_shares(data, None)).data.dtype == F64
    assert method._score(wide, log_shares(wide, None)).data.dtype == F64
    z = data[:50] + method.sigma_g * normal(50, data.shape[1])
    exact = SmoothedScore(data, log_shares(data, None), method.sigma_g, 0.0, 0)
    single = replace(exact, data=data.float(), log_shares=exact.log_shares.float())
    moments = Moments.of(data, equal(len(data)), method.sigma_g)
    h = method._step_size(moments)
    lost = moments.pull_back(single(z.float(), seeded()).double() - exact(z, seeded())) * h
    assert float(lost.abs().max()) < 1e-3 * math.sqrt(2 * h)


def test_stops_where_the_callback_raises() -> None:
    def stop(done: int, z: Tensor) -> None:
        if done == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        QUICK.sample(skewed(), 30, 0, on_step=stop)


# Coordinates.


def test_space_unit_is_the_distance_to_the_neighbour() -> None:
    data = normal(100, 30) * torch.logspace(0, -2, 30, dtype=F64) + 5
    for rank in (3, 10, None):
        space = PrincipalSpace.of(data, equal(100), rank)
        coordinates = space.encode(data)
        distances = torch.cdist(coordinates, coordinates) + 1e9 * torch.eye(100)
        assert float(distances.min(dim=1).values.median()) == pytest.approx(1, abs=1e-6)
        assert coordinates.shape == (100, space.rank)
        torch.testing.assert_close(space.encode(space.decode(coordinates)), coordinates)


def test_partial_whitening() -> None:
    data = normal(200, 6) * torch.tensor([9.0, 5.0, 3.0, 2.0, 1.0, 0.5], dtype=F64)
    widths = PrincipalSpace.of(data, equal(200), 6, whitened=2).encode(data).std(dim=0)
    ratio = widths / widths[0]
    torch.testing.assert_close(ratio[:3], torch.ones(3, dtype=F64))
    plain = PrincipalSpace.of(data, equal(200), 6, whitened=0).encode(data).std(dim=0)
    torch.testing.assert_close(ratio[3:], (plain / plain[2])[3:])
    full = PrincipalSpace.of(data, equal(200), 6, whitened=6).encode(data).std(dim=0)
    torch.testing.assert_close(full / full[0], torch.ones(6, dtype=F64))


def test_rank() -> None:
    """All directions lose nothing; by itself it is what the data have, and three points each."""
    data = normal(20, 50)
    space = PrincipalSpace.of(data, equal(20), 19)
    torch.testing.assert_close(space.decode(space.encode(data)), data)
    assert space.kept == pytest.approx(1)
    narrow = normal(100, 3) @ normal(3, 50, seed=1) + 1e-3 * normal(100, 50, seed=2)
    assert PrincipalSpace.of(narrow, equal(100)).rank == 3
    wide = normal(60, 500)
    assert PrincipalSpace.of(wide, equal(60)).rank == 20
    heavy = torch.cat([torch.full((30,), 0.03), torch.full((30,), 0.1 / 30)]).double()
    heavy /= heavy.sum()
    assert PrincipalSpace.of(wide, heavy).rank == int(effective_size(heavy) / 3) == 12


def one_wrong(values: Tensor, value: float) -> Tensor:
    """Those values with the one in the middle replaced."""
    wrong = values.clone()
    wrong.view(-1)[wrong.numel() // 2] = value
    return wrong


def sample(data: Tensor, particles: int = 30, log_weights: Tensor | None = None) -> Tensor:
    return QUICK.sample(data, particles, 0, log_weights=log_weights)


ZEROS = torch.zeros(40)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MMSOLD(sigma_g=0.0), "sigma_g is 0.0; expected a finite number above 0"),
        (lambda: MMSOLD(step=math.inf), "step is inf"),
        (lambda: MMSOLD(sigma=math.nan), "sigma is nan"),
        (lambda: MMSOLD(draws=3), "draws is 3; expected an even number"),
        (lambda: MMSOLD(steps=-1), "steps is -1"),
        (lambda: MMSOLD(nearest=-2), "nearest is -2"),
        (lambda: PrincipalSpace.of(torch.ones(30, 5).double(), equal(30)), "30 points span 0 dir"),
        (
            lambda: PrincipalSpace.of(normal(20, 50), equal(20), 25),
            r"rank is 25.*span 19 directions.*1 to 19",
        ),
        (lambda: PrincipalSpace.of(normal(10, 5).repeat(3, 1), equal(30)), "copies of others"),
        (lambda: sample(skewed(d=5), 5), r"5 particles.*5 dimensions.*at least 6.*rank to 4"),
        (lambda: sample(skewed()[:1]), r"shape \(1, 3\); expected \[n >= 2"),
        (lambda: sample(one_wrong(skewed(), math.nan)), "1 of 40 data points are not finite"),
        (lambda: sample(skewed(), 30, ZEROS[:39]), "one for each of 40 data points"),
        (lambda: sample(skewed(), 30, one_wrong(ZEROS, math.nan)), "NaN or"),
        (lambda: sample(skewed(), 30, one_wrong(ZEROS, math.inf)), "NaN or"),
        (lambda: sample(skewed(), 30, ZEROS - math.inf), "all -infinity"),
    ],
)
def test_refusals(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


# Real data.


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's handwritten digits [1797, 64] in 0..1, and their labels.

    Read from its file: the import of its loader takes longer than all else here.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None:
        pytest.skip("scikit-learn is not installed")
    (folder,) = spec.submodule_search_locations
    table = np.loadtxt(Path(folder) / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    numbers = torch.from_numpy(table)
    return numbers[:, :-1] / 16, numbers[:, -1].long()


@functools.cache
def eights() -> tuple[Tensor, PrincipalSpace]:
    pictures, labels = digits()
    own = pictures[labels == 8]
    return own, PrincipalSpace.of(own, equal(len(own)))


@pytest.mark.parametrize(("sigma", "nearest"), [(0.6, 0), (0.6, 20), (None, 20)])
def test_new_digits(sigma: float | None, nearest: int) -> None:
    pictures, labels = digits()
    own, space = eights()
    data = space.encode(own)
    z = MMSOLD(sigma=sigma, nearest=nearest, steps=50).sample(data, 200, 0)
    made = space.decode(z).clamp(0, 1)
    called = labels[torch.cdist(made, pictures).topk(5, dim=1, largest=False).indices].mode().values
    assert float((called == 8).double().mean()) >= 0.85
    # A duplicate is nearer to a point than half the usual distance between neighbours, which is 1
    # in these coordinates; and the same among the images themselves.
    assert float((torch.cdist(z, data).min(dim=1).values < 0.5).double().mean()) < 0.05
    among = torch.cdist(own, own).fill_diagonal_(math.inf).min(dim=1).values.median()
    nearest_own = torch.cdist(made, own).min(dim=1).values
    assert float((nearest_own < among / 2).double().mean()) < 0.05


def test_kinds_of_digits_do_not_blend() -> None:
    """How often the five nearest images are of one kind: by default nearly as for real images."""
    pictures, labels = digits()
    space = PrincipalSpace.of(pictures, equal(len(pictures)))
    data = space.encode(pictures)

    def pure(method: MMSOLD) -> float:
        z = method.sample(data, 200, 0)
        kinds = labels[torch.cdist(z, data).topk(5, dim=1, largest=False).indices]
        return float((kinds == kinds[:, :1]).all(dim=1).double().mean())

    assert pure(MMSOLD(steps=60)) > 0.8
    assert pure(MMSOLD(sigma=0.8, nearest=0, steps=60)) < 0.6, "blends"


@pytest.mark.parametrize("kept", [10, 20, 100])
def test_points_of_weight_zero_leave_the_nearest_to_others(kept: int) -> None:
    """All 40 points that were summed could have none, and what came was no number."""
    points = 3 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)).double()
    log_w = torch.full((1000,), -math.inf)
    log_w[:kept] = 0
    found = MMSOLD().sample(points, 200, 0, log_w)
    assert found.isfinite().all()
    torch.testing.assert_close(found.mean(dim=0), points[:kept].mean(dim=0))
