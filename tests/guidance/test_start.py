"""The tilted initial noise: drawn from w p, against a chain whose law is known."""

from __future__ import annotations

import math

import torch
from lags_pack.demo.sampler import karras_sigmas
from lags_pack.guidance import LAGS, Balanced, ConstantSchedule, Trace, preset
from lags_pack.tests.analytic import Counted, Gaussian, LinearLogWeight, sigmas
from torch import Tensor

STD = 3.0  # of the data: as large as the first noise level, as the colour of a whole image is


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] for x0 ~ N(0, STD^2)."""
    s2 = sigma[:, None] ** 2
    return x * STD**2 / (STD**2 + s2)


def final_mean(start: Tensor, method: LAGS | None, slope: Tensor, levels: list[float]) -> Tensor:
    """The mean of the ancestral chain's last sample: the chain without its noise (it is linear)."""
    x = start
    for sigma, lower in zip(levels[:-1], levels[1:], strict=True):
        level = sigmas(1, sigma)
        denoised = denoise(x, level)
        if method is not None:
            denoised, _ = method(denoise, LinearLogWeight(slope), x, level)
        x = denoised + (lower / sigma) ** 2 * (x - denoised)
    return x


def final_variance(levels: list[float]) -> float:
    """The variance of the plain chain's last sample, coordinate by coordinate."""
    variance = levels[0] ** 2
    for sigma, lower in zip(levels[:-1], levels[1:], strict=True):
        gain = STD**2 / (STD**2 + sigma**2)
        keep = (lower / sigma) ** 2
        variance = (gain + keep * (1 - gain)) ** 2 * variance + lower**2 * (1 - keep)
    return variance


def test_the_chain_with_a_tilted_start_draws_the_tilted_law() -> None:
    """Plain output N(0, V) and log w = b x give a mean of V b; without the start it falls short."""
    slope, still = torch.tensor([0.3, -0.2]), torch.zeros(1, 2)
    levels = karras_sigmas(2000, 0.01, STD).tolist()
    method, exact = Balanced(schedule=ConstantSchedule()), final_variance(levels) * slope
    level = sigmas(1, levels[0])
    start, record = method.tilted_start(denoise, LinearLogWeight(slope), still, level)
    tilted = final_mean(start, method, slope, levels)[0]
    untilted = final_mean(still, method, slope, levels)[0]
    assert record.model_calls == 2 and record.weight_calls == 1
    torch.testing.assert_close(tilted, exact, rtol=0.01, atol=0)
    assert (untilted / exact < 0.7).all()


def test_the_move_is_the_shift_of_the_denoised_sample() -> None:
    base, slope = Gaussian(torch.zeros(6), 2.0), torch.linspace(-1, 1, 6)
    x, sigma = 5 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0)), sigmas(3, 5.0)
    method = preset("balanced")
    weight = LinearLogWeight(slope)
    denoiser = Counted(base.denoise)
    start, record = method.tilted_start(denoiser, weight, x, sigma)
    guided, _ = method(base.denoise, weight, x, sigma)
    torch.testing.assert_close(start - x, guided - base.denoise(x, sigma), rtol=1e-3, atol=1e-4)
    assert denoiser.calls == 2 == record.model_calls
    assert float((start - x).abs().max()) > 0.1


def test_a_skipped_start_stays_and_the_trace_counts_the_start() -> None:
    trace, weight = Trace("run"), LinearLogWeight(torch.ones(4))
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    method = preset("balanced")
    start, record = method.tilted_start(denoise, weight, x, sigmas(2, 0.001))
    assert start is x and not record.active
    trace.add_start(method.tilted_start(denoise, weight, x, sigmas(2, 3.0))[1])
    trace.add(method(denoise, weight, x, sigmas(2, 3.0))[1])
    assert (trace.model_calls, trace.weight_calls) == (4, 2)
    assert trace.to_dict()["start"]["sigma_ve"] == [3.0, 3.0]
    assert math.isclose(trace.seconds, trace.start.seconds + trace.records[0].seconds)
    trace.clear()
    assert trace.model_calls == 0 and trace.to_dict()["start"] is None
