"""Guiders of other packs: one whose call goes past its MODEL's wrappers is served all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy.samplers import CFGGuider
from torch import Tensor

Evaluate = Callable[..., Tensor]  # (x, timestep, model_options, seed) -> denoised


def calls_wrappers(guider: Any) -> bool:
    """Whether calling a guider runs the wrappers of its MODEL, by ComfyUI's own code."""
    own = ("__call__", "outer_predict_noise")
    return all(getattr(type(guider), name, None) is getattr(CFGGuider, name) for name in own)


class ServedGuider:
    """A guider as the sampler sees it, called in another way; all else is the guider's own.

    Args:
        guider: of any class.
        evaluate: what a call of it comes to.
    """

    def __init__(self, guider: Any, evaluate: Evaluate) -> None:
        vars(self).update(guider=guider, evaluate=evaluate)

    def __call__(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """The denoised latents."""
        return self.evaluate(x, timestep, model_options or {}, seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["guider"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.guider, name, value)


def hook_groups(guider: Any) -> set[Any]:
    """ComfyUI's groups of hooks on the prompts of a run; None is in it where a prompt has none."""
    return {cond.get("hooks") for conds in guider.conds.values() for cond in conds or ()}


def innermost(guider: Any) -> Any:
    """The guider itself, without what serves it."""
    while isinstance(guider, ServedGuider):
        guider = guider.guider
    return guider


def never_acted(guider: Any, sampler: Any) -> ValueError:
    """What to say of a run that should have been guided, and was not in any step."""
    guider = innermost(guider)
    function = getattr(sampler, "sampler_function", sampler)
    name = getattr(function, "__name__", type(function).__name__).removeprefix("sample_")
    return ValueError(
        f"The weight was never evaluated: guider {type(guider).__name__} with sampler '{name}' "
        "evaluates the model past the wrappers of its MODEL, so this image would be a plain one. "
        "Use KSampler (LAGS), or another guider (CFGGuider, BasicGuider) or sampler under LAGS "
        "Guidance."
    )
