"""A gradient of log w that serves several evaluations."""

from __future__ import annotations

import torch
from torch import Tensor

from .contracts import LogWeight
from .shapes import Latents, PerSample


class CachedGradient:
    """log w of one run, whose gradient v is taken anew at every ``every``-th time only.

    Between two gradients v stays, and log w goes on along it: log w(D) ~ log w(D0) + <v, D - D0>.
    That saves the weight's backward pass, and the decoder's. Not in the paper.

    Args:
        log_weight: the weight itself.
        every: evaluations that one gradient serves, 1 or more.

    Attributes:
        computed: gradients computed so far.
        is_fresh: whether the last answer was of the sample at which its gradient was computed.

    Raises:
        ValueError: every is below 1.
    """

    def __init__(self, log_weight: LogWeight, every: int) -> None:
        if every < 1:
            raise ValueError(f"A gradient is to serve {every} evaluations; expected 1 or more.")
        self.log_weight, self.every, self.name = log_weight, every, log_weight.name
        self.computed, self.is_fresh = 0, True
        self.last: tuple[Latents, PerSample, Latents] | None = None  # D0, log w there, v
        self._served = 0

    def __call__(self, denoised: Latents) -> PerSample:
        """log w [B] itself."""
        return self.log_weight(denoised)

    def value_and_grad(self, denoised: Latents) -> tuple[PerSample, Latents]:
        """(log w [B], v like ``denoised``), float32; as new or as cached."""
        denoised, last = denoised.float(), self.last
        if last is None or not self._serves(last[0], denoised):
            last = denoised, *self.log_weight.value_and_grad(denoised)
            self.remember(*last)
            self.computed += 1
        self._served += 1
        before, log_w, v = last
        self.is_fresh = self._served == 1
        if self.is_fresh:
            return log_w, v
        return log_w + (v * (denoised - before)).flatten(1).sum(dim=1), v

    def remember(self, denoised: Latents, log_w: PerSample, v: Latents) -> None:
        """Note log w and v at a sample, for when it is the next one asked for."""
        self.last, self._served = (denoised, log_w, v), 0

    def _serves(self, before: Tensor, denoised: Tensor) -> bool:
        """Whether what is cached answers for a sample: at first only for its own."""
        if self._served == 0:
            return torch.equal(before, denoised)
        # A sampler that enlarges the samples on its way has no use for one of another size.
        return self._served < self.every and before.shape == denoised.shape
