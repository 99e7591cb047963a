"""A gradient of log w that serves several evaluations."""

from __future__ import annotations

from .contracts import LogWeight
from .shapes import Latents, PerSample


class CachedGradient:
    """log w of one run, whose gradient v is taken anew at every ``every``-th time only.

    Between two gradients v stays, which saves the weight's backward pass, and the decoder's. log w
    goes on along it, log w(D) ~ log w(D0) + <v, D - D0>, or is asked for anew where it is to be
    compared with other values. Not in the paper.

    Args:
        log_weight: the weight itself.
        every: evaluations that one gradient serves, 1 or more.
        compares_values: whether log w is asked for anew between two gradients.

    Attributes:
        computed: gradients computed so far.
        asked: values without a gradient that ``value_and_grad`` took so far.
        is_fresh: whether the last answer was of the sample at which its gradient was computed.

    Raises:
        ValueError: every is below 1.
    """

    def __init__(self, log_weight: LogWeight, every: int, compares_values: bool = False) -> None:
        if every < 1:
            raise ValueError(f"A gradient is to serve {every} evaluations; expected 1 or more.")
        self.log_weight, self.every, self.name = log_weight, every, log_weight.name
        self.compares_values = compares_values
        self.computed, self.asked, self.is_fresh = 0, 0, True
        self.last: tuple[Latents, PerSample, Latents] | None = None  # D0, log w there, v
        self._served = 0

    def __call__(self, denoised: Latents) -> PerSample:
        """log w [B] itself."""
        return self.log_weight(denoised)

    def value_and_grad(self, denoised: Latents) -> tuple[PerSample, Latents]:
        """(log w [B], v like ``denoised``), float32; as new or as cached."""
        denoised, last = denoised.float(), self.last
        # A sampler that enlarges the samples on its way has no use for one of another size.
        if last is None or self._served >= self.every or last[0].shape != denoised.shape:
            last = self.last = denoised, *self.log_weight.value_and_grad(denoised)
            self.computed, self._served = self.computed + 1, 0
        self._served += 1
        before, log_w, v = last
        self.is_fresh = self._served == 1
        if self.is_fresh:
            return log_w, v
        if self.compares_values:
            self.asked += 1
            return self.log_weight(denoised).float(), v
        return log_w + (v * (denoised - before)).flatten(1).sum(dim=1), v
