"""Sequential Monte Carlo on a diffusion chain: weighted particles of w p, exact at any step size.

    x_0 from the first noise level; log W = V_0
    for k = 0 .. K-1:
        D = D(x_k); V_k = lambda_k log w(D); log W += V_k - V_(k-1); resample if uneven
        shift = lambda_(k+1) s^2 g, any g;  x_(k+1) = mean(x_k, D) + shift + s xi
        log W -= shift . xi / s + |shift|^2 / (2 s^2)
    log W += log w(x_K) - V_last

The last line of the loop is log N(x'; mean, s^2) - log N(x'; mean + shift, s^2), so the target is
the plain chain's own distribution times w, whatever the drift, the tempering and the potentials
are. DAS (arXiv 2501.05803), TDS (2306.17775), FK-steering (2501.06848), URGE (2605.17850) and SURGE
(2605.18745) are choices of these; see ``presets``.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..ancestral import Ancestral, Chain
from ..contracts import Denoiser, LogWeight, WeightError, check_shape
from ..shapes import Chosen, Due, GroupLatents, GroupWeights, Latents, PerGroup, PerSample
from ..step_correction import falls
from ..ve import per_sample
from .drift import Drift, NoDrift
from .record import ParticleRecord, Particles, ParticleTrace, Weighing
from .resampling import Resampling, effective_sample_size, log_mean_weight, normalised, systematic
from .tempering import Polynomial, Tempering

# A weight of zero on the way does not end a particle: its last sample may still have weight. Any
# finite potential is exact.
LEAST_POTENTIAL = -1e4


def group_seeds(seed: int, groups: int) -> list[int]:
    """One seed per group, so that group g draws the same noise alone and in any batch."""
    return [_mixed(seed, f"group {group}") for group in range(groups)]


def noisy_start(clean: Latents, particles: int, sigma: float, seeds: Sequence[int]) -> GroupLatents:
    """First particles around clean samples [G, ...] (zeros for pure noise): [G, N, ...]."""
    generators = [torch.Generator().manual_seed(_mixed(seed, "start")) for seed in seeds]
    shape = (clean.shape[0], particles, *clean.shape[1:])
    return clean[:, None] + sigma * _noise(shape, clean, generators).to(clean.device)


@dataclass
class State:
    """What a run knows of its particles; every row moves along when particles are resampled.

    Attributes:
        x: [G N, ...].
        denoised: [G N, ...], D(x).
        guidance: [G N, ...] or None.
        slope: [G N], J along it; None where it is not known.
        log_w: [G, N] at the last evaluation.
        potential: [G, N], lambda log w at the last evaluation.
        log_weights: [G, N] since the last resampling.
        log_normaliser: [G] up to the last resampling.
        temperature: [G], lambda at the last evaluation.
    """

    x: Latents
    denoised: Latents
    guidance: Latents | None
    slope: PerSample | None
    log_w: GroupWeights
    potential: GroupWeights
    log_weights: GroupWeights
    log_normaliser: PerGroup
    temperature: PerGroup


@dataclass(frozen=True)
class Progress:
    """What a run shows after each step, to be looked at and not changed.

    Attributes:
        step: from 0.
        steps: of the run.
        denoised: [G, N, ...] what the particles are becoming; overwritten by the next step.
        log_w: [G, N] at the last evaluation.
        log_weights: [G, N] now.
        record: of the step.
    """

    step: int
    steps: int
    denoised: GroupLatents
    log_w: GroupWeights
    log_weights: GroupWeights
    record: ParticleRecord


@dataclass(frozen=True)
class ParticleSampler:
    """G independent groups of N particles on one chain.

    Attributes:
        drift: where particles are pushed.
        chain: the plain sampler.
        tempering: lambda along the run.
        resampling: who is copied.
        ess_threshold: share of N under which the ESS triggers resampling; 0 is never,
            None is at every evaluation after the first step.
        interval: steps between evaluations of the potential.
        shift_limit: greatest |shift|^2 / (2 s^2) of a step, nats; None for no limit. Shifts are
            arbitrary, so a limit costs no exactness.
    """

    drift: Drift = field(default_factory=NoDrift)
    chain: Chain = field(default_factory=Ancestral)
    tempering: Tempering = field(default_factory=Polynomial)
    resampling: Resampling = systematic
    ess_threshold: float | None = 0.5
    interval: int = 1
    shift_limit: float | None = 0.5

    def __post_init__(self) -> None:
        if self.ess_threshold is not None and not 0 <= self.ess_threshold <= 1:
            raise ValueError(f"ESS threshold is {self.ess_threshold}; expected 0 to 1, or None.")
        if self.interval < 1:
            raise ValueError(f"evaluation interval is {self.interval}; expected 1 or more steps.")
        if self.shift_limit is not None and not self.shift_limit > 0:
            raise ValueError(f"shift limit is {self.shift_limit}; expected above 0, or None.")

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        log_weight: LogWeight,
        x: Tensor,
        sigmas: Tensor,
        seeds: Sequence[int],
        chunk: int | None = None,
        callback: Callable[[Progress], None] | None = None,
    ) -> Particles:
        """Run every group from its first particles to noise level 0.

        Args:
            denoiser: D on [B, ...].
            log_weight: log w on [B, ...]; its gradient is used by drifts that ask for it.
            x: [G, N, ...] first particles at noise level ``sigmas[0]``, variance-exploding.
            sigmas: [K + 1] falling noise levels, variance-exploding, the last 0.
            seeds: one per group, see ``group_seeds``.
            chunk: most particles that the model and the weight see at once; None is all.
            callback: called after each step.

        Raises:
            ValueError: shapes or noise levels that cannot be run.
            WeightError: the weight broke its contract, or is zero for all particles of a group.
            ModelError: the model's output is not finite.
        """
        levels = _checked_levels(sigmas)
        if x.ndim < 3 or len(seeds) != x.shape[0]:
            raise ValueError(
                f"Particles have shape {tuple(x.shape)} and there are {len(seeds)} seeds; expected "
                "[groups, particles, ...] and one seed per group."
            )
        state = _first_state(x)
        rows = _chunks(state.x.shape[0], chunk)
        generators = [torch.Generator().manual_seed(_mixed(seed, "steps")) for seed in seeds]
        steps, trace = len(levels) - 1, ParticleTrace()
        for step, (sigma, lower) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
            began = time.perf_counter()
            noiseless = self.chain.noise_std(sigma, lower) == 0
            drift = NoDrift() if noiseless else self.drift
            # Before a noiseless last step the weight is that of the result: it is taken there.
            weighs = step % self.interval == 0 and not (noiseless and step == steps - 1)
            calls = _propose(state, drift, denoiser, log_weight, sigma, weighs, rows)
            weighing = self._weigh(state, step, steps, generators) if weighs else None
            drift_temperature = self.tempering.drift_temperature(step, steps, state.temperature)
            cost = self._move(state, sigma, lower, drift_temperature, generators, rows)
            seconds = time.perf_counter() - began
            trace.records.append(ParticleRecord(sigma, weighing, cost, *calls, seconds))
            if callback is not None:
                shown = state.denoised.reshape(x.shape), state.log_w, state.log_weights
                callback(Progress(step, steps, *shown, trace.records[-1]))
        return self._finish(state, log_weight, x.shape, rows, trace)

    def _weigh(
        self, state: State, step: int, steps: int, generators: list[torch.Generator]
    ) -> Weighing:
        """Exchange the last potential for this step's, then resample the groups that need it."""
        self._exchange_potential(state, step, steps)
        ess = effective_sample_size(state.log_weights)
        due, ancestors = self._is_due(state, ess, step), None
        weighing = Weighing.of(state.log_w, state.temperature, ess, due)
        if bool(due.any()):
            ancestors = self._ancestors(state.log_weights, due, generators)
            state.log_normaliser += torch.where(due, log_mean_weight(state.log_weights), 0.0)
            self._follow(state, ancestors)
            state.log_weights = torch.where(due[:, None], 0.0, state.log_weights)
        return replace(weighing, ancestors=ancestors)

    def _exchange_potential(self, state: State, step: int, steps: int) -> None:
        """log W += V_k - V_(k-1); at the first step V_(-1) = 0, so the weight starts as V_0."""
        log_w = state.log_w.clamp(min=LEAST_POTENTIAL)
        without = state.log_weights - state.potential

        def ess(temperature: PerGroup) -> PerGroup:
            return effective_sample_size(without + temperature[:, None] * log_w)

        state.temperature = self.tempering.now(step, steps, state.temperature, ess)
        state.potential = state.temperature[:, None] * log_w
        state.log_weights = without + state.potential

    def _is_due(self, state: State, ess: PerGroup, step: int) -> Due:
        """Which groups to resample: [G] booleans."""
        if self.ess_threshold is None:
            return torch.full_like(ess, step > 0, dtype=torch.bool)
        return ess < self.ess_threshold * state.log_weights.shape[1]

    def _ancestors(
        self, log_weights: GroupWeights, due: Due, generators: list[torch.Generator]
    ) -> Chosen:
        """[G, N]; a group that is not due stays as it is and draws no random number."""
        count = log_weights.shape[1]
        uniforms = [
            torch.rand(count, generator=generator, dtype=torch.float64)
            for generator, chosen in zip(generators, due.tolist(), strict=True)
            if chosen
        ]
        ancestors = torch.arange(count).repeat(due.numel(), 1)
        ancestors[due] = self.resampling(log_weights[due], torch.stack(uniforms))
        return ancestors

    def _follow(self, state: State, ancestors: Chosen) -> None:
        """Everything that belongs to a particle goes where its copies go."""
        groups, count = ancestors.shape
        index = (ancestors + count * torch.arange(groups)[:, None]).flatten().to(state.x.device)
        state.x, state.denoised = state.x[index], state.denoised[index]
        if state.guidance is not None:
            state.guidance = state.guidance[index]
        if state.slope is not None:
            state.slope = state.slope[index]
        state.log_w = state.log_w.gather(1, ancestors)
        state.potential = state.potential.gather(1, ancestors)

    def _move(
        self,
        state: State,
        sigma: float,
        lower: float,
        drift_temperature: PerGroup,
        generators: list[torch.Generator],
        rows: list[slice],
    ) -> PerGroup:
        """One step of the chain with fresh noise; the drift's mean cost [G] in nats."""
        s, shape = self.chain.noise_std(sigma, lower), state.log_weights.shape
        cost = torch.zeros(shape.numel(), dtype=torch.float64)
        if s == 0:
            for part in rows:
                state.x[part] = self.chain.mean(state.x[part], state.denoised[part], sigma, lower)
            return cost.reshape(shape).mean(dim=1)
        noise = _noise((*shape, *state.x.shape[1:]), state.x, generators).flatten(0, 1)
        log_ratio = torch.zeros_like(cost)
        for part in rows:
            mean = self.chain.mean(state.x[part], state.denoised[part], sigma, lower)
            xi = noise[part].to(state.x.device)
            if state.guidance is not None:
                _lower(state, part, (lower / sigma) ** 2)
                scale = (s * drift_temperature).repeat_interleave(shape[1])[part].to(mean.dtype)
                push = self._push(per_sample(scale.to(mean.device), mean) * state.guidance[part])
                cost[part], log_ratio[part] = self._density_ratio(push, xi)
                xi = push.add_(xi)
            torch.add(mean, xi, alpha=s, out=state.x[part])
        state.log_weights = state.log_weights + log_ratio.reshape(shape)
        return cost.reshape(shape).mean(dim=1)

    def _push(self, push: Latents) -> Latents:
        """shift / s, scaled down per particle to the limit."""
        if self.shift_limit is None:
            return push
        longest = math.sqrt(2 * self.shift_limit)
        norm = torch.linalg.vector_norm(push.flatten(1), dim=1)
        return push * per_sample(longest / norm.clamp(min=longest), push)

    def _density_ratio(self, push: Latents, xi: Latents) -> tuple[PerSample, PerSample]:
        """(|push|^2 / 2, log of plain over pushed density of the step), [B] float64 on the CPU."""
        cost = _dot(push, push) / 2
        return cost, -_dot(push, xi) - cost

    def _finish(
        self,
        state: State,
        log_weight: LogWeight,
        shape: torch.Size,
        rows: list[slice],
        trace: ParticleTrace,
    ) -> Particles:
        """The last potential is log w of the result itself."""
        log_w = [_checked_log_w(log_weight, state.x[part], 0.0) for part in rows]
        trace.final_weight_calls = 1
        state.log_w = torch.cat(log_w).reshape(state.potential.shape)
        state.log_weights = state.log_weights + state.log_w - state.potential
        normalised(state.log_weights)  # refuses a group in which nothing has any weight
        return Particles(
            x=state.x.reshape(shape),
            log_w=state.log_w,
            log_weights=state.log_weights,
            log_normaliser=state.log_normaliser + log_mean_weight(state.log_weights),
            trace=trace,
        )


def _first_state(x: GroupLatents) -> State:
    """Particles that nothing has happened to yet; at least float32, as their noise must be."""
    groups, count = x.shape[:2]
    flat = x.flatten(0, 1).to(torch.promote_types(x.dtype, torch.float32), copy=True)
    zeros = torch.zeros(groups, count, dtype=torch.float64)
    return State(
        x=flat,
        denoised=torch.zeros_like(flat),
        guidance=None,
        slope=None,
        log_w=zeros,
        potential=zeros,
        log_weights=zeros,
        log_normaliser=zeros[:, 0].clone(),
        temperature=zeros[:, 0],
    )


def _propose(
    state: State,
    drift: Drift,
    denoiser: Denoiser,
    log_weight: LogWeight,
    sigma: float,
    weighs: bool,
    rows: list[slice],
) -> tuple[int, int, int, int]:
    """D, drift and log w of all particles, a chunk at a time; calls of each kind per particle.

    Where the drift has nothing new, the last guidance goes on if it is known how it grows.
    """
    calls = (0, 0, 0, 0)
    if state.slope is None:
        state.guidance = None
    log_w = state.log_w.flatten().clone()
    for part in rows:
        x = state.x[part]
        found = drift(denoiser, log_weight, x, x.new_full(x.shape[:1], sigma))
        state.denoised[part] = found.denoised.to(x.dtype)
        if found.guidance is not None:
            if state.guidance is None:
                state.guidance = torch.zeros_like(state.x)
            state.guidance[part] = found.guidance.to(x.dtype)
        if found.slope is not None:
            if state.slope is None:
                state.slope = x.new_zeros(state.x.shape[0])
            state.slope[part] = found.slope.to(x.dtype)
        weight_calls = found.weight_calls
        if weighs and found.log_w is None:
            log_w[part] = _checked_log_w(log_weight, found.denoised, sigma)
            weight_calls += 1
        elif found.log_w is not None:
            log_w[part] = _on_cpu(found.log_w)
        calls = (found.model_calls, found.model_backwards, weight_calls, found.gradient_calls)
    state.log_w = log_w.reshape(state.log_w.shape)
    return calls


def _lower(state: State, part: slice, keep: float) -> None:
    """The guidance of some particles at the noise level that a step ends on, in place.

    A kernel is tilted by E[w | x'], and J of what x' is undecided about grows as the noise falls.
    """
    if state.slope is None or state.guidance is None:
        return
    fall, state.slope[part] = falls(state.slope[part], keep)
    state.guidance[part] /= per_sample(fall, state.guidance[part])


def _checked_log_w(log_weight: LogWeight, samples: Latents, sigma: float) -> PerSample:
    """log w [B], float64 on the CPU; -inf (weight zero) is allowed.

    Raises:
        WeightError: wrong shape, NaN or +inf.
    """
    log_w = log_weight(samples)
    check_shape(log_w, samples, log_weight.name)
    log_w = _on_cpu(log_w)
    greatest = log_w.max().item()  # NaN where there is any
    if math.isnan(greatest) or greatest == math.inf:
        raise WeightError(
            f"Weight '{log_weight.name}' is NaN or +inf at noise level sigma = {sigma:.4g}. Lower "
            "its strength, or run the weight's model in float32."
        )
    return log_w


def _checked_levels(sigmas: Tensor) -> list[float]:
    """The noise levels as numbers."""
    levels: list[float] = sigmas.double().tolist()
    falling = all(a > b for a, b in zip(levels[:-1], levels[1:], strict=True))
    if len(levels) < 2 or not falling or levels[-1] != 0 or not math.isfinite(levels[0]):
        raise ValueError(
            f"Noise levels are {levels[:3]} ... {levels[-2:]}; expected two or more finite ones, "
            "each below the one before, ending at 0. Particles are weighed as finished samples."
        )
    return levels


def _chunks(total: int, size: int | None) -> list[slice]:
    """Slices of at most ``size`` rows."""
    if size is not None and size < 1:
        raise ValueError(f"chunk is {size}; expected 1 or more particles, or None for all at once.")
    size = size or total
    return [slice(first, min(first + size, total)) for first in range(0, total, size)]


def _noise(shape: Sequence[int], like: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Unit noise [G, N, ...] on the CPU, each group's own, so that no group sees another."""
    noise = torch.empty(*shape, dtype=like.dtype)
    for group, generator in zip(noise, generators, strict=True):
        group.normal_(generator=generator)
    return noise


def _dot(a: Latents, b: Latents) -> PerSample:
    """Inner product per row: [B, ...] -> [B], float64 on the CPU."""
    return _on_cpu((a * b).flatten(1).sum(dim=1))


def _on_cpu(values: Tensor) -> Tensor:
    """float64 on the CPU; in this order, since not every device has float64."""
    return values.detach().cpu().double()


def _mixed(seed: int, purpose: str) -> int:
    """A seed for one purpose; hashed, since torch's generator reads only the low 32 bits."""
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
