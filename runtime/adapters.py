"""What other packs may connect to the sockets: plain functions in place of our classes."""

from __future__ import annotations

from typing import Any

from ..guidance import CustomMethod, Method
from ..rewards import FunctionReward, Weight


def as_weight(connected: Any) -> Weight:
    """What came through a weight socket; a function becomes a weight of its own.

    A function's attribute ``strength`` (nats per unit of its score) is read where it has one.

    Raises:
        ValueError: neither a weight nor a function of images.
    """
    if isinstance(connected, Weight):
        return connected
    if callable(connected):
        reward = FunctionReward(connected)
        return Weight.of(reward, float(getattr(connected, "strength", 1.0)))
    raise ValueError(
        f"A {type(connected).__name__} came through the weight socket; expected a Weight node, or "
        "from another pack a function (images [B, 3, H, W] in 0..1) -> scores [B]."
    )


def as_method(connected: Any) -> Method:
    """What came through a method socket; a function becomes a method of its own.

    Raises:
        ValueError: neither a method nor a function.
    """
    if isinstance(connected, Method):
        return connected
    if callable(connected):
        return CustomMethod(connected)
    raise ValueError(
        f"A {type(connected).__name__} came through the method socket; expected a Method node, or "
        "from another pack a function (denoiser, log_weight, x, sigma_ve) -> denoised."
    )
