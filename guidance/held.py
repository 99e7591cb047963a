"""A gradient of log w that serves several evaluations."""

from __future__ import annotations

from torch import Tensor

from .contracts import LogWeight


class HeldLogWeight:
    """log w of one run, whose gradient v is taken anew at every ``every``-th time only.

    Between two gradients v stays, and log w goes on along it: log w(D) ~ log w(D0) + <v, D - D0>.
    That saves the weight's backward pass, and the decoder's. Not in the paper.

    Args:
        log_weight: the weight itself.
        every: evaluations that one gradient serves, 1 or more.

    Attributes:
        fresh: whether the last gradient was taken anew.

    Raises:
        ValueError: every is below 1.
    """

    def __init__(self, log_weight: LogWeight, every: int) -> None:
        if every < 1:
            raise ValueError(f"A gradient is to serve {every} evaluations; expected 1 or more.")
        self.log_weight, self.every, self.name = log_weight, every, log_weight.name
        self.fresh = True
        self._served = 0
        self._known: list[Tensor] = []  # D0, log w there, v

    def __call__(self, denoised: Tensor) -> Tensor:
        """log w [B] itself."""
        return self.log_weight(denoised)

    def value_and_grad(self, denoised: Tensor) -> tuple[Tensor, Tensor]:
        """(log w [B], v like ``denoised``), float32; as new or as kept."""
        self.fresh = not self._known or self._served >= self.every
        if self.fresh:
            self._known = [denoised.float(), *self.log_weight.value_and_grad(denoised)]
            self._served = 0
        self._served += 1
        before, log_w, v = self._known
        if self.fresh:
            return log_w, v
        return log_w + (v * (denoised.float() - before)).flatten(1).sum(dim=1), v
