"""Guidance as two wrappers on a cloned MODEL, so that every sampler node of ComfyUI obeys it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management as mm
import torch
from comfy.patcher_extension import WrappersMP
from comfy.sampler_helpers import estimate_memory
from torch import Tensor

from ..guidance import LAGS, DifferenceStep, LogWeight, Trace, VEView, ve_view
from ..rewards import Weight
from .checks import check_latent, check_vae
from .decoded_weight import DecodedLogWeight, MaskedLogWeight


def difference_step(model: Any) -> DifferenceStep:
    """The finite-difference step that suits a MODEL's precision and parametrisation."""
    dtype = model.get_model_object("manual_cast_dtype") or model.model.get_dtype()
    sampling = model.get_model_object("model_sampling")
    one = torch.ones(1, 1, 1, 1)
    low, high = (
        float(sampling.calculate_denoised(torch.full((1,), s), one, torch.zeros_like(one)).abs())
        for s in (0.1, 10.0)
    )
    return DifferenceStep(dtype=dtype, output_gain=(low, high))


@dataclass
class Run:
    """What one sampling run needs beside the model; lives in that run's model_options only."""

    log_weight: DecodedLogWeight
    sigmas: Tensor
    mask: Tensor | None
    kept: Tensor | None


class GuidancePatch:
    """LAGS on a MODEL.

    Args:
        method: what to do at a noise level.
        weight: log w on images.
        vae: decodes the denoised latents for the weight.
        trace: receives one record per evaluation; a run clears it first.
    """

    def __init__(self, method: LAGS, weight: Weight, vae: Any, trace: Trace) -> None:
        self.method, self.weight, self.vae, self.trace = method, weight, vae, trace
        self.key = f"lags_{id(self)}"

    def apply(self, model: Any) -> Any:
        """A clone of the MODEL that samples with guidance; the user's own stays as it is.

        Raises:
            ValueError: the VAE does not belong to the model's latents.
        """
        check_vae(self.vae, model)
        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, self.key, self.sampler_sample)
        patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, self.key, self.predict_noise)
        return patched

    def sampler_sample(
        self,
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Around a whole run: load the VAE beside the model, and note mask and kept picture."""
        check_latent(noise)
        _check_caches(guider, self.method)
        inner = guider.inner_model
        log_weight = DecodedLogWeight(self.vae, self.weight, inner.process_latent_out)
        _load_together(guider, self.vae, log_weight.bytes_per_picture(noise.shape), noise.shape)
        run = Run(log_weight, sigmas, denoise_mask, latent_image)
        self.trace.clear()
        if self.method.tilt_start and bool(noise.any()):  # no noise: another sampler's run goes on
            full = executor.class_obj.max_denoise(guider, sigmas)
            noise = self._tilted(noise, guider, run, extra_args, full)
        options = {**extra_args["model_options"], self.key: run}
        extra_args = {**extra_args, "model_options": options}
        return executor(
            guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar
        )

    def _tilted(
        self, noise: Tensor, guider: Any, run: Run, extra_args: dict[str, Any], full: bool
    ) -> Tensor:
        """The first noise drawn from w p: moved so that the sampler's first x is."""
        scaling = guider.inner_model.model_sampling.noise_scaling
        sigma = run.sigmas[0]
        timestep = sigma.expand(noise.shape[0])
        view = ve_view(scaling, timestep)
        if not view.is_usable or not bool(self.method.is_active(view.sigma_ve).any()):
            return noise
        options = extra_args["model_options"]  # without the run: plain evaluations

        def denoiser(x_ve: Tensor, sigma_ve: Tensor) -> Tensor:
            mm.throw_exception_if_processing_interrupted()
            seed = extra_args.get("seed")
            result: Tensor = guider(view.from_ve(x_ve), timestep, options, seed)
            return result

        x_ve = view.to_ve(scaling(sigma, noise, run.kept, full))
        log_weight = _under_mask(run, guider, timestep, options)
        moved, record = self.method.tilted_start(denoiser, log_weight, x_ve, view.sigma_ve)
        self.trace.add_start(record)
        shift = view.from_ve(moved - x_ve) * (1 if run.mask is None else run.mask)
        return noise + shift / scaling(sigma, torch.ones_like(noise), noise * 0, full)

    def predict_noise(
        self,
        executor: Any,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Around one evaluation: the guided denoised latents instead of the plain ones."""
        options = model_options or {}
        run: Run | None = options.get(self.key)
        guider = executor.class_obj
        view = ve_view(guider.inner_model.model_sampling.noise_scaling, timestep)
        if run is None or not view.is_usable:  # no run to guide, or a flow model at pure noise
            return executor(x, timestep, options, seed)

        denoiser = _TwiceCalled(executor, x, timestep, view, options, seed)
        log_weight = _under_mask(run, guider, timestep, options)
        denoised, record = self.method(denoiser, log_weight, denoiser.x_ve, view.sigma_ve)
        self.trace.add(record)
        return denoised


class _TwiceCalled:
    """The model as a denoiser on x_ve: the sampler's own call first, further ones on moved x."""

    def __init__(
        self,
        executor: Any,
        x: Tensor,
        timestep: Tensor,
        view: VEView,
        options: dict[str, Any],
        seed: int | None,
    ) -> None:
        self.executor, self.x, self.timestep, self.view = executor, x, timestep, view
        self.options, self.seed = options, seed
        self.x_ve = view.to_ve(x)

    def __call__(self, x_ve: Tensor, sigma_ve: Tensor) -> Tensor:
        if x_ve is self.x_ve:
            return self.executor(self.x, self.timestep, self.options, self.seed)
        mm.throw_exception_if_processing_interrupted()
        x = self.view.from_ve(x_ve)
        return self.executor(x, self.timestep, self._options_of_the_user(), self.seed)

    def _options_of_the_user(self) -> dict[str, Any]:
        """model_options without what the sampler put in for its own call.

        CFG++ samplers hook the call to catch the unconditional prediction; a further call must not
        overwrite what they caught.
        """
        own = self.executor.class_obj.model_options
        options = dict(self.options)
        for name in ("sampler_post_cfg_function", "disable_cfg1_optimization"):
            options.pop(name, None)
            if name in own:
                options[name] = own[name]
        return options


def _under_mask(run: Run, guider: Any, timestep: Tensor, options: dict[str, Any]) -> LogWeight:
    """The run's log-weight, restricted to what the sampler may paint at this noise level."""
    if run.mask is None or run.kept is None:
        return run.log_weight
    mask = run.mask
    if "denoise_mask_function" in options:  # differential diffusion: the mask changes with sigma
        extra = {"model": guider, "sigmas": run.sigmas}
        mask = options["denoise_mask_function"](timestep, mask, extra_options=extra)
    return MaskedLogWeight(run.log_weight, mask, run.kept)


def _load_together(guider: Any, vae: Any, weight_bytes: float, shape: torch.Size) -> None:
    """Model, its helpers and the VAE in one call, so that none of them evicts another.

    The forward of the model and the backward of the decoder take turns, so the larger need counts.
    """
    model = guider.model_patcher
    helpers = [m for m in getattr(guider, "loaded_models", []) if m is not model]
    second_model = getattr(guider, "uncond_model_patcher", None)  # guiders with a model per branch
    if second_model is not None:
        helpers.append(second_model)
    if vae.patcher.load_device != model.load_device:  # a VAE on the CPU takes nothing from the GPU
        mm.load_models_gpu([vae.patcher], memory_required=weight_bytes)
        return
    own, _ = estimate_memory(model, shape, guider.conds)
    mm.load_models_gpu([model, *helpers, vae.patcher], memory_required=max(weight_bytes, own))


def _check_caches(guider: Any, method: LAGS) -> None:
    """Refuse caching wrappers: they would answer the second forward from the first."""
    if not method.jacobian:
        return
    wrappers = guider.model_options.get("transformer_options", {}).get("wrappers", {})
    keys = {key for kind in wrappers.values() for key in kind if isinstance(key, str)}
    caches = sorted(keys & {"easycache", "lazycache"})
    if caches:
        raise ValueError(
            f"The model carries {', '.join(caches)}, which reuses outputs for similar inputs: the "
            "difference of two forwards would be lost. Remove that node, or choose mode 'fast'."
        )
