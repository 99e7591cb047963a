"""ComfyUI's commonest samplers and noise levels on any denoiser, for problems in closed form.

Variance-exploding units, in which ComfyUI's DDIM is Euler, for flow models too. Each step is the
formula of k-diffusion's function of that name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ..demo.sampler import karras_sigmas, sample_ancestral
from ..demo.scenes.diffusion import alphas_cumprod

Denoise = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[[Denoise, Tensor, Tensor, torch.Generator], Tensor]
LOW, HIGH = 0.03, 15.0  # about those of SD and SDXL


def euler(denoiser: Denoise, x: Tensor, sigmas: Tensor, generator: torch.Generator) -> Tensor:
    """First order, without noise."""
    for sigma, lower in pairwise(sigmas):
        denoised = denoiser(x, sigma.expand(len(x)))
        x = denoised + lower / sigma * (x - denoised)
    return x


def dpmpp_2m(denoiser: Denoise, x: Tensor, sigmas: Tensor, generator: torch.Generator) -> Tensor:
    """DPM-Solver++(2M): second order, without noise."""

    def advance(x: Tensor, denoised: Tensor, ratio: float, lower: float) -> Tensor:
        return denoised + ratio * (x - denoised)

    return _multistep(denoiser, x, sigmas, advance)


def dpmpp_2m_sde(
    denoiser: Denoise, x: Tensor, sigmas: Tensor, generator: torch.Generator
) -> Tensor:
    """DPM-Solver++(2M) SDE: midpoint, eta = 1."""

    def advance(x: Tensor, denoised: Tensor, ratio: float, lower: float) -> Tensor:
        noise = torch.randn(x.shape, generator=generator)
        return denoised + ratio**2 * (x - denoised) + lower * math.sqrt(1 - ratio**2) * noise

    return _multistep(denoiser, x, sigmas, advance)


def _multistep(
    denoiser: Denoise,
    x: Tensor,
    sigmas: Tensor,
    advance: Callable[[Tensor, Tensor, float, float], Tensor],
) -> Tensor:
    """Steps by D half a step ahead, if it goes on changing in log sigma as over the last step."""
    before, last = None, math.inf
    for sigma, lower in pairwise(sigmas.tolist()):
        ahead = denoised = denoiser(x, x.new_full((len(x),), sigma))
        step = math.log(sigma / lower) if lower > 0 else math.inf
        if before is not None and lower > 0:
            ahead = denoised + step / (2 * last) * (denoised - before)
        x = advance(x, ahead, lower / sigma, lower)
        before, last = denoised, step
    return x


SAMPLERS: dict[str, Sampler] = {
    "euler_ancestral": sample_ancestral,
    "euler": euler,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
}


def karras(steps: int) -> Tensor:
    """Karras et al.'s, from SD's highest level to its lowest."""
    return karras_sigmas(steps, LOW, HIGH)


def uniform(steps: int) -> Tensor:
    """SD's scaled-linear betas at even times, as ddim_uniform has them."""
    return _of_times(alphas_cumprod(), steps)


def zero_terminal_snr(steps: int) -> Tensor:
    """The same betas moved to zero terminal SNR (Lin et al. 2024): 4518 at the top."""
    root = alphas_cumprod().sqrt()
    kept = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
    kept[-1] = 4518.0**-2
    return _of_times(kept, steps)


def flow(steps: int, shift: float = 3.0) -> Tensor:
    """Of a flow model, t / (1 - t), without the first step's t = 1, where D is the data's mean."""
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[1:]
    times = shift * times / (1 + (shift - 1) * times)
    return (times / (1 - times)).float()


def _of_times(kept: Tensor, steps: int) -> Tensor:
    times = torch.linspace(999, 0, steps + 1)[:-1].round().long()
    return torch.cat([((1 - kept) / kept).sqrt()[times], torch.zeros(1)]).float()


LEVELS: dict[str, Callable[[int], Tensor]] = {
    "karras": karras,
    "uniform": uniform,
    "zero-terminal SNR": zero_terminal_snr,
    "flow": flow,
}
