"""What the tests of the guided samplers share: cases to sample, scores, call counts, leftovers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import comfy.hooks
import comfy.model_sampling as ms
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from lags_pack.guidance import Method, Step, StepRecord
from lags_pack.guidance.methods import Cost, plain_cost
from lags_pack.nodes.samplers.advanced import LAGSKSamplerAdvanced
from lags_pack.nodes.samplers.guidance import LAGSGuidance
from lags_pack.nodes.samplers.ksampler import LAGSKSampler
from lags_pack.nodes.samplers.particles import LAGSParticleSampler
from lags_pack.nodes.tools.options import LAGSOptions
from lags_pack.rewards import ColourReward, Weight
from torch import Tensor

import nodes

from .executing import run_node
from .prompts import PARTICLES

REWARD = ColourReward("hue", 0.0)
OPTIONS = {
    **{"schedule": "from mode", "sigma_gate": 0.56, "skip_below": -1.0, "shift_limit": 0.0},
    **{"relative_step": 0.0, "epsilon": 0.0},
}


def options(**changes: Any) -> Any:
    """LAGS Options; `changes` replace what its widgets hold when nobody touches them."""
    return run_node(LAGSOptions, **{**OPTIONS, **changes})[0]


def on(*kinds: str) -> Any:
    """Run a test for these models of its module's `cases`; without it `case` is the tiny SD1.5."""
    return pytest.mark.parametrize("case", kinds, indirect=True)


@dataclass
class Case:
    """A model with everything that a sampler node asks for; `settings` are KSampler's inputs."""

    model: Any
    vae: Any
    strength: float
    settings: dict[str, Any] = field(default_factory=dict)

    def ksampler(self, **changes: Any) -> Tensor:
        """ComfyUI's own KSampler."""
        inputs = {"model": self.model, **self.settings, **changes}
        return run_node(nodes.KSampler, **inputs)[0]["samples"]

    def lags(self, **changes: Any) -> tuple[Tensor, Any]:
        """Our KSampler: its latents and its trace."""
        inputs = {**self._guidance(), **self.settings, **changes}
        latent, trace = run_node(LAGSKSampler, **inputs)
        return latent["samples"], trace

    def advanced(self, **changes: Any) -> tuple[Tensor, Any]:
        """Our KSampler Advanced."""
        settings = {k: v for k, v in self.settings.items() if k not in ("seed", "denoise")}
        part = {
            **{"add_noise": "enable", "noise_seed": self.settings["seed"], "start_at_step": 0},
            **{"end_at_step": 10000, "return_with_leftover_noise": "disable"},
        }
        inputs = {**self._guidance(), **part, **settings, **changes}
        latent, trace = run_node(LAGSKSamplerAdvanced, **inputs)
        return latent["samples"], trace

    def guided(self, **changes: Any) -> Any:
        """The MODEL with LAGS Guidance on it."""
        return run_node(LAGSGuidance, **{**self._guidance(), **changes})[0]

    def particles(self, **changes: Any) -> Tensor:
        """Particle KSampler's latents: two particles of method lags."""
        own = {**PARTICLES, "method": "lags"}
        inputs = {**self._guided_by(), **own, **self.settings, **changes}
        return run_node(LAGSParticleSampler, **inputs)[0]["samples"]

    def _guidance(self) -> dict[str, Any]:
        """The inputs that our KSamplers have beside ComfyUI's."""
        return {**self._guided_by(), "mode": "balanced", "c": 10.0}

    def _guided_by(self) -> dict[str, Any]:
        """What all of our samplers take."""
        weight = Weight.of(REWARD, self.strength)
        return {"model": self.model, "vae": self.vae, "weight": weight, "strength": 1.0}

    def score(self, samples: Tensor) -> Tensor:
        """The weight's score of the decoded latents, per image."""
        with torch.inference_mode():
            images = self.vae.decode(samples).movedim(-1, 1)
            return REWARD(images)

    def gain(self, guided: Tensor, plain: Tensor) -> float:
        """By how much guided latents score higher on average."""
        return float(self.score(guided).mean() - self.score(plain).mean())

    def state(self) -> list[Any]:
        """What a patch could leave on the networks."""
        return state_of(self.model.model, self.vae.first_stage_model)


def noting(model: Any, kind: str, note: Callable[..., Any]) -> tuple[Any, list[Any]]:
    """A clone of a MODEL, and what `note` made of the arguments of its calls of a kind."""
    noted: list[Any] = []

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        noted.append(note(*args))
        return executor(*args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(kind, "noting", wrapper)
    return clone, noted


def spied(patches: Any, owner: Any, name: str, note: Callable[..., Any]) -> list[Any]:
    """What `note` made of the arguments of each call of a function, which goes on as ever."""
    own, noted = getattr(owner, name), []

    def spy(*args: Any, **named: Any) -> Any:
        noted.append(note(*args, **named))
        return own(*args, **named)

    patches.setattr(owner, name, spy)
    return noted


def counted(model: Any) -> tuple[Any, list[Any]]:
    """A clone of a MODEL that notes every model evaluation, and the list it notes them in."""
    return noting(model, WrappersMP.CALC_COND_BATCH, lambda *_: None)


def flow_of(model: Any) -> Any:
    """A MODEL on a flow schedule, which begins with pure noise."""

    class Flow(ms.ModelSamplingDiscreteFlow, ms.CONST):
        pass

    flow = model.clone()
    flow.add_object_patch("model_sampling", Flow(model.model.model_config))
    return flow


def with_hook_lora(model: Any, prompt: Any, **strengths: float) -> Any:
    """A prompt with a LoRA on it, of a strength from each part of the run on (``at_50=0.0``)."""
    hook = comfy.hooks.WeightHook(1.0, 1.0)
    state = model.model.state_dict()
    generator = torch.Generator().manual_seed(0)
    hook.weights = {
        key: ("diff", (0.1 * torch.randn(state[key].shape, generator=generator),))
        for key in state
        if "diffusion_model" in key and key.endswith("in_layers.2.weight")
    }
    hook.weights_clip, hook.need_weight_init = {}, False
    for at, strength in strengths.items():
        start = int(at.removeprefix("at_")) / 100
        hook.hook_keyframe.add(comfy.hooks.HookKeyframe(strength, start))
    group = comfy.hooks.HookGroup()
    group.add(hook)
    return comfy.hooks.set_hooks_for_conditioning(prompt, group)


def vae_like(vae: Any, **changes: Any) -> Any:
    """A VAE object with other attributes."""
    known = {name: getattr(vae, name) for name in dir(vae) if not name.startswith("__")}
    return SimpleNamespace(**{**known, **changes})


def rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())


class Probe(Method):
    """A method that notes what it is given, and compares ways to evaluate."""

    name, compares = "probe", True

    def __init__(self, compare: bool = False) -> None:
        self.keeps: list[float] = []
        self.draws: list[bool] = []
        self.differences: list[Tensor] = []
        self.compare = compare

    def cost(self, sigma: Tensor) -> Cost:
        return plain_cost(sigma)

    def __call__(
        self, denoiser: Any, log_weight: Any, x: Tensor, sigma: Tensor, step: Step
    ) -> tuple[Tensor, StepRecord]:
        denoised = step.denoise(denoiser, x, sigma)
        self.keeps.append(step.keep)
        self.draws.append(step.draws_noise)
        if self.compare:
            moved = x + 0.1 * torch.ones_like(x)
            self.differences = [
                denoiser.conditional(moved, sigma) - denoised,
                denoiser(moved, sigma) - denoised,
            ]
        return denoised, StepRecord.skipped(sigma, 0.0)


def controlled(control_net: Any, image: Tensor, **prompts: Any) -> dict[str, Any]:
    """The prompts `positive` and `negative` with a ControlNet's hint on them."""
    span = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    node = nodes.ControlNetApplyAdvanced
    made = run_node(node, control_net=control_net, image=image, **prompts, **span)
    return dict(zip(("positive", "negative"), made, strict=True))


def with_lora(model: Any, file: str) -> Any:
    node = nodes.LoraLoaderModelOnly
    return run_node(node, model=model, lora_name=file, strength_model=1.0)[0]


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
