"""Quick finished images of a run's prompt: LiDAR's lookahead, and how much a score varies."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import ref

import comfy.k_diffusion.sampling as k_sampling
import comfy.model_management as mm
import comfy.samplers
import torch
from torch import Tensor

from ..guidance import LogWeight, Lookahead, StepRecord, Trace, checked_value, ve_view
from .caches import without_caches
from .decoded_weight import DecodedLogWeight
from .guiders import hook_groups, innermost
from .nested import OURS, without_runs

CACHED = 4  # sets that are kept, so that a changed dial makes no image again
PLAIN = (str, int, float, bool)
# Beginnings of a guider's attributes that are added by what they hold, or come of the run.
OF_COMFYUI = (
    "model_",
    "inner_model",
    "loaded_models",
    "conds",
    "original_conds",
    "uncond_",
    "_uncond_",
)
OF_EACH_RUN = ("sample_sigmas", OURS)  # beginnings of options that say nothing of the images


class Kept(NamedTuple):
    """A set of quick images.

    Attributes:
        samples: the images, on the CPU.
        parts: what the model's options held when they were made.
    """

    samples: Tensor
    parts: tuple[ref[Any], ...]


cached: OrderedDict[str, Kept] = OrderedDict()


@dataclass
class SamplerRun:
    """A run of ComfyUI's sampler, and the weight that its images have.

    Attributes:
        guider: ComfyUI's.
        sigmas: the sampler's noise levels.
        extra_args: what the sampler hands to each evaluation, before guidance changed any of it.
        noise: of the run.
        kept: the image that comes in, model space; None for pure noise.
        mask: 1 where may be painted; None for everywhere.
        log_weight: through its decoder.
        trace: of the run.
    """

    guider: Any
    sigmas: Tensor
    extra_args: dict[str, Any]
    noise: Tensor
    kept: Tensor | None
    mask: Tensor | None
    log_weight: DecodedLogWeight
    trace: Trace


@dataclass(frozen=True)
class PlannedRun:
    """A run that a method may be bound to before anything is sampled.

    Attributes:
        sigmas: its noise levels, the last one included.
    """

    sigmas: Tensor

    def look_ahead(self, count: int, steps: int, seed: int) -> Lookahead:
        """One sample without content: a plan asks what samples cost, not what they are."""
        return Lookahead(torch.zeros(1, 1), torch.zeros(1))


def look_ahead(run: SamplerRun, count: int, steps: int, seed: int) -> Lookahead:
    """Images that begin as a run does, at its first noise level and under its mask, with log w.

    A run that goes on with another sampler's gets whole images from pure noise.

    Raises:
        ValueError: the images of the batch have a prompt each.
    """
    if prompts := several_prompts(run.guider):
        raise ValueError(
            f"LiDAR makes its quick images for one prompt, and this batch has {prompts}: run them "
            "one by one, or take LAGS without a method or DPS."
        )
    return weighed(QuickImages(run, count, steps, seed), [run.log_weight])[0]


def weighed(asked: QuickImages, weights: Sequence[LogWeight]) -> list[Lookahead]:
    """Quick images with log w of each weight; those of an earlier run where they serve."""
    run, began, model_calls = asked.run, time.perf_counter(), 0
    key, parts = asked.fingerprint()
    kept = None if key is None else cached.pop(key, None)
    if kept is None or any(part() is None for part in kept.parts):
        kept = Kept(asked.sample(), parts)
        model_calls = asked.rounds * asked.steps
    if key is not None:
        cached[key] = kept  # the last used is the last to go
    while len(cached) > CACHED:
        cached.popitem(last=False)
    found = [asked.weigh(kept.samples, weight) for weight in weights]
    view = ve_view(run.guider.inner_model.model_sampling.noise_scaling, run.sigmas[:1])
    record = StepRecord.skipped(view.sigma_ve, time.perf_counter() - began)
    value_calls = sum(calls for _, calls in found)
    run.trace.add_start(replace(record, model_calls=model_calls, value_calls=value_calls))
    return [lookahead for lookahead, _ in found]


@dataclass(frozen=True)
class QuickImages:
    """A set of quick images for a run."""

    run: SamplerRun
    count: int
    steps: int
    seed: int
    sampler: str = "dpmpp_2m"

    @property
    def kept(self) -> Tensor:
        """The image that comes in, or zeros; model space."""
        return torch.zeros_like(self.run.noise) if self.run.kept is None else self.run.kept

    @property
    def continues(self) -> bool:
        """Whether the run goes on with another sampler's, and adds no noise of its own."""
        return not bool(self.run.noise.any())

    @property
    def begins_alike(self) -> bool:
        """Whether every image of the batch has one prompt and begins from one image and mask."""
        given = [self.kept] if self.run.mask is None else [self.kept, self.run.mask]
        differ = any(bool((rows != rows[:1]).any()) for rows in given)
        return not several_prompts(self.run.guider) and (self.continues or not differ)

    @property
    def rounds(self) -> int:
        """How many batches are sampled: one set serves all images that begin alike."""
        return math.ceil(self.count / len(self.run.noise)) if self.begins_alike else self.count

    def weigh(self, samples: Tensor, weight: LogWeight) -> tuple[Lookahead, int]:
        """The images with log w, a batch of the run's size at a time; and how many batches."""
        noise, zero, log_w = self.run.noise, self.run.sigmas.new_zeros(1), []
        shape = samples.shape[: samples.ndim - noise.ndim + 1]  # [n] or [B, n]
        for part in samples.flatten(0, len(shape) - 1).split(len(noise)):
            mm.throw_exception_if_processing_interrupted()
            log_w.append(checked_value(weight, part.to(noise), zero).cpu())
        return Lookahead(samples, torch.cat(log_w).reshape(shape)), len(log_w)

    def sample(self) -> Tensor:
        """Plain images in few steps, on the CPU, a batch of the run's size at a time.

        [n, ...] where the images of the run begin alike, else [B, n, ...].
        """
        run, kept, mask = self.run, self.kept, self.run.mask
        sampling = run.guider.inner_model.model_sampling
        batch, device, alike = len(run.noise), run.noise.device, self.begins_alike
        highest = float(run.sigmas[0])
        if self.continues:
            logging.info(
                "LAGS: this run goes on with another sampler's, so its quick images are "
                "whole ones from pure noise, not what that run has begun."
            )
            kept, mask, highest = torch.zeros_like(kept), None, float(sampling.sigma_max)
        lowest = min(float(sampling.sigma_min), highest / 10)
        options = without_caches(run.extra_args["model_options"])
        extra_args = {**run.extra_args, "model_options": without_runs(options)}
        sampler = comfy.samplers.ksampler(self.sampler)
        sigmas = k_sampling.get_sigmas_karras(self.steps, lowest, highest, device=device)
        done = []
        for number in range(self.rounds):
            mm.throw_exception_if_processing_interrupted()
            first, each = (number * batch, 1) if alike else (number, 0)
            noise = torch.stack([self._noise(first + each * i) for i in range(batch)])
            begin = noise.to(device), kept, mask
            samples = sampler.sample(run.guider, sigmas, {**extra_args}, None, *begin, True)
            done.append(samples.float().cpu())
            rewind_hooks(run.guider)
        with torch.inference_mode(False):
            together = torch.cat(done)[: self.count] if alike else torch.stack(done, dim=1)
            return together.clone()

    def _noise(self, index: int) -> Tensor:
        """Of one image: the same in batches of any size."""
        generator = torch.Generator().manual_seed(self.seed + index)
        return torch.randn(self.run.noise[0].shape, generator=generator)

    def fingerprint(self) -> tuple[str | None, tuple[ref[Any], ...]]:
        """What the images depend on, and the parts of it that are told by where they lie.

        None where that cannot be told. Such a part is the same as long as it lives.
        """
        run, guider, digest = self.run, self.run.guider, hashlib.sha256()
        begin = (tuple(run.noise.shape), float(run.sigmas[0]), self.continues)
        settings = (self.count, self.steps, self.seed, self.sampler, begin)
        own = vars(innermost(guider))
        own = {key: value for key, value in own.items() if not key.startswith(OF_COMFYUI)}
        options = without_caches(run.extra_args["model_options"])
        digest.update(repr((settings, type(guider).__qualname__)).encode())
        second = getattr(guider, "uncond_model_patcher", None)  # of guiders with a model per branch
        patchers = [guider.model_patcher, *([] if second is None else [second])]
        for patcher in patchers:
            digest.update(f"{patcher.patches_uuid} {id(patcher.model)}".encode())
        beside = [] if second is None else [without_caches(second.model_options)]
        # In no patches_uuid: another sampling or shift, and LoRAs that are bypassed.
        patched = [(patcher.object_patches, patcher.injections) for patcher in patchers]
        try:
            _add(digest, [guider.original_conds, own])
            if not self.continues:
                rows = slice(1 if self.begins_alike else None)
                _add(digest, [self.kept[rows], None if run.mask is None else run.mask[rows]])
            parts = tuple(_parts(digest, {"options": [options, *beside], "patched": patched}))
        except TypeError:
            return None, ()
        return digest.hexdigest(), parts


def rewind_hooks(guider: Any) -> None:
    """Bring scheduled LoRAs back to a run's beginning: ComfyUI's keyframes only go forward."""
    groups = hook_groups(guider) - {None}
    for group in groups:
        for hook in group.hooks:
            hook.initialize_timesteps(guider.inner_model)
    if groups:
        guider.model_patcher.clean_hooks()


def several_prompts(guider: Any) -> int:
    """How many prompts a batch has, where it has more than one; else 0."""
    texts = [
        cond["cross_attn"]
        for conds in guider.original_conds.values()
        for cond in conds or ()
        if cond.get("cross_attn") is not None
    ]
    return max((len(text) for text in texts if len(text) > 1), default=0)


def _parts(digest: Any, options: dict[Any, Any]) -> Iterator[ref[Any]]:
    """Add a model's options to a digest, and give what is in it by its place in memory alone.

    Raises:
        TypeError: a part whose end would go unnoticed.
    """
    for key in sorted(options, key=str):
        if str(key).startswith(OF_EACH_RUN):
            continue
        digest.update(str(key).encode())
        value = options[key]
        if isinstance(value, dict):
            yield from _parts(digest, value)
        elif isinstance(value, (list, tuple)):
            yield from _parts(digest, dict(enumerate(value)))
        elif value is None or isinstance(value, (*PLAIN, Tensor)):
            _add(digest, value)
        elif isinstance(value, torch.dtype):
            digest.update(str(value).encode())
        else:
            digest.update(str(id(value)).encode())
            yield ref(value)


def _add(digest: Any, value: Any) -> None:
    """Add tensors, numbers and words to a digest.

    Raises:
        TypeError: anything else, whose state is not known.
    """
    if isinstance(value, Tensor):
        digest.update(repr((value.shape, value.dtype)).encode())
        digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted(key for key in value if key != "uuid"):
            digest.update(str(key).encode())
            _add(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(str(len(value)).encode())
        for item in value:
            _add(digest, item)
    elif value is None or isinstance(value, PLAIN):
        digest.update(repr(value).encode())
    else:
        raise TypeError(type(value).__name__)
