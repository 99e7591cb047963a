"""The demo's sampler on bases whose answer is known."""

from __future__ import annotations

import pytest
import torch
from lags_pack.demo.sampler import karras_sigmas, sample_ancestral
from lags_pack.guidance import ConstantSchedule, Denoiser, Paper
from lags_pack.tests.analytic import Counted, Gaussian, LinearLogWeight


def test_noise_levels_fall_from_high_to_low_and_end_at_0() -> None:
    sigmas = karras_sigmas(20, 0.03, 15.0)
    assert sigmas.shape == (21,) and sigmas.dtype == torch.float32
    assert sigmas[0].item() == pytest.approx(15) and sigmas[-2].item() == pytest.approx(0.03)
    assert sigmas[-1] == 0 and (sigmas.diff() < 0).all()
    middle = ((15 ** (1 / 7) + 0.03 ** (1 / 7)) / 2) ** 7
    assert karras_sigmas(3, 0.03, 15.0)[1].item() == pytest.approx(middle)


BASE = Gaussian(torch.tensor([1.0, -2.0]), 0.25)


def draw(denoiser: Denoiser, count: int = 4000, steps: int = 400) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    levels = karras_sigmas(steps, 0.01, 20.0)
    start = BASE.mean + (20**2 + 0.25) ** 0.5 * torch.randn(count, 2, generator=generator)
    return sample_ancestral(denoiser, start, levels, generator)


@pytest.mark.parametrize("slope", [[0.0, 0.0], [2.0, 4.0]])
def test_sampling_reproduces_the_tilted_gaussian(slope: list[float]) -> None:
    """alpha = 1 on a linear log w: N(mu + s^2 b, s^2), mean and variance; plain without slope."""
    b, method = torch.tensor(slope), Paper(schedule=ConstantSchedule())

    def guided(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return method(BASE.denoise, LinearLogWeight(b), x, sigma)[0]

    drawn = draw(guided if b.any() else BASE.denoise)
    assert torch.allclose(drawn.mean(0), BASE.mean + 0.25 * b, atol=0.04)
    assert torch.allclose(drawn.var(0), torch.full((2,), 0.25), rtol=0.08)


def test_one_call_per_step_and_the_last_answer_is_the_sample() -> None:
    denoiser = Counted(BASE.denoise)
    drawn = draw(denoiser, count=3, steps=40)
    assert denoiser.calls == 40
    assert torch.equal(drawn, denoiser.answered[-1])
