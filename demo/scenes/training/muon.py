"""Muon: momentum made orthogonal, for the weight matrices of convolutions and linear layers.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale of
the step is that of Liu et al. 2025 (arXiv 2502.16982), so that AdamW's learning rates carry over.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Newton-Schulz coefficients of the source: singular values go to about 0.7 to 1.2 in five rounds
A, B, C, ROUNDS = 3.4445, -4.7750, 2.0315, 5


def orthogonal(matrix: Tensor) -> Tensor:
    """U V^T of a matrix U S V^T, nearly, in the shape of its flattened rows."""
    x = matrix.bfloat16()
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(ROUNDS):
        square = x @ x.T
        x = A * x + (B * square + C * square @ square) @ x
    return (x if wide else x.T).float()


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal, with decoupled weight decay.

    Args:
        parameters: weights of two dimensions or more; the first is the output.
        rate: learning rate, as AdamW would have it.
        momentum: share of the old momentum.
        weight_decay: as AdamW's.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        rate: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": rate, "mom": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step; weights without a gradient are left."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"]
                momentum.lerp_(weight.grad, 1 - group["mom"])
                ahead = weight.grad.lerp(momentum, group["mom"]).reshape(weight.shape[0], -1)
                scale = 0.2 * max(ahead.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                update = orthogonal(ahead).reshape(weight.shape)
                weight.add_(update, alpha=-group["lr"] * scale)


def is_hidden(name: str, weight: Tensor, edges: tuple[str, ...]) -> bool:
    """Whether a weight is Muon's: a matrix inside the network, and not at its edges."""
    return weight.ndim >= 2 and not name.startswith(edges)
