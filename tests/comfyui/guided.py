"""What the tests of the guided samplers share: cases to sample, scores, call counts, leftovers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from lags_pack.nodes.samplers.advanced import LAGSKSamplerAdvanced
from lags_pack.nodes.samplers.ksampler import LAGSKSampler
from lags_pack.rewards import ColourReward, Weight
from torch import Tensor

REWARD = ColourReward("hue", 0.0)


@dataclass
class Case:
    """A model with everything that a sampler node asks for; `settings` are KSampler's inputs."""

    run_node: Callable[..., tuple[Any, ...]]
    model: Any
    vae: Any
    strength: float
    settings: dict[str, Any] = field(default_factory=dict)

    def ksampler(self, **changes: Any) -> Tensor:
        """ComfyUI's own KSampler."""
        import nodes

        inputs = {"model": self.model, **self.settings, **changes}
        return self.run_node(nodes.KSampler, **inputs)[0]["samples"]

    def lags(self, **changes: Any) -> tuple[Tensor, Any]:
        """Our KSampler: its latents and its trace."""
        inputs = {**self._guidance(), **self.settings, **changes}
        latent, trace = self.run_node(LAGSKSampler, **inputs)
        return latent["samples"], trace

    def advanced(self, **changes: Any) -> tuple[Tensor, Any]:
        """Our KSampler Advanced."""
        settings = {k: v for k, v in self.settings.items() if k not in ("seed", "denoise")}
        guidance = {
            **self._guidance(),
            "add_noise": "enable",
            "noise_seed": self.settings["seed"],
            "start_at_step": 0,
            "end_at_step": 10000,
            "return_with_leftover_noise": "disable",
        }
        latent, trace = self.run_node(LAGSKSamplerAdvanced, **{**guidance, **settings, **changes})
        return latent["samples"], trace

    def _guidance(self) -> dict[str, Any]:
        """The inputs that our samplers have beside ComfyUI's."""
        return {
            "model": self.model,
            "vae": self.vae,
            "weight": Weight.of(REWARD, self.strength),
            "strength": 1.0,
            "mode": "balanced",
            "c": 10.0,
        }

    def score(self, samples: Tensor) -> Tensor:
        """The weight's score of the decoded latents, per image."""
        with torch.inference_mode():
            images = self.vae.decode(samples).movedim(-1, 1)
            return REWARD(images)


def counted(model: Any) -> tuple[Any, list[int]]:
    """A clone of a MODEL that notes every model evaluation, and the list it notes them in."""
    calls: list[int] = []

    def note(executor: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return executor(*args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "count", note)
    return clone, calls


def state_of(*modules: torch.nn.Module) -> list[Any]:
    """Everything a patch could leave behind: attributes, parameters, hooks, by identity."""
    found: list[Any] = []
    for module in modules:
        for name, part in module.named_modules():
            found.append((name, sorted(vars(part))))
            found += [(name, key, id(value)) for key, value in part._parameters.items()]
            found += [(name, key, id(value)) for key, value in part._buffers.items()]
            for hook in ("weight_function", "bias_function"):
                found.append((name, hook, [id(f) for f in getattr(part, hook, [])]))
    return found
