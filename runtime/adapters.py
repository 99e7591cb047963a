"""What other packs may connect to the sockets: plain functions in place of our classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..guidance.methods.custom import CustomMethod
from ..nodes.methods.rivals import Choice, Guided, Setting
from ..rewards import FunctionReward, Weight


def as_weight(connected: Any) -> Weight:
    """What came through a weight socket; a function becomes a weight of its own.

    A function's attribute ``strength`` (nats per unit of its score) is read where it has one.

    Raises:
        ValueError: neither a weight nor a function of pictures.
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


@dataclass(frozen=True)
class CustomChoice:
    """A function of another pack as a method.

    Attributes:
        function: see ``CustomMethod``; its attributes ``name``, ``needs_gradient`` and
            ``through_model`` are read where it has them.
    """

    function: Callable[..., Any]
    own_sampler = False
    compares = True  # it may, and nobody can tell

    @property
    def name(self) -> str:
        """For labels and errors."""
        return str(getattr(self.function, "name", getattr(self.function, "__name__", "method")))

    @property
    def needs_gradient(self) -> bool:
        """Whether it asks for the gradient of the weight."""
        return bool(getattr(self.function, "needs_gradient", True))

    @property
    def through_model(self) -> bool:
        """Whether it goes backward through the model: then the denoiser has ``vjp``."""
        return bool(getattr(self.function, "through_model", False))

    def begun(self, setting: Setting) -> Guided:
        """As a choice."""
        return CustomMethod(self.function)


def as_choice(connected: Any) -> Choice:
    """What came through a method socket; a function becomes a method of its own.

    Raises:
        ValueError: neither a method nor a function.
    """
    if hasattr(connected, "begun"):
        choice: Choice = connected
        return choice
    if callable(connected):
        return CustomChoice(connected)
    raise ValueError(
        f"A {type(connected).__name__} came through the method socket; expected a Method node, or "
        "from another pack a function (denoiser, log_weight, x, sigma_ve) -> denoised."
    )
