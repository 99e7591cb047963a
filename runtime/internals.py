"""What the pack asks of ComfyUI's own code, looked at once at start-up.

A later ComfyUI may rename, move or change any of it: then the log says what, and in which version,
before the first run fails with an error of Python's. The pack's own imports have loaded all of it.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Iterator
from typing import Any

TESTED = "0.8.0 to 0.33.0"
# By module; a test holds this to the names that the source mentions.
NAMES = {
    "comfy.cli_args": "args",
    "comfy.k_diffusion.sampling": "default_noise_sampler get_sigmas_karras",
    "comfy.hooks": "EnumHookType.Weight",
    "comfy.latent_formats": "Flux Flux2 LatentFormat SD15 SD3 SDXL",
    "comfy.ldm.modules.diffusionmodules.model": "Decoder pytorch_attention",
    "comfy.ldm.modules.diffusionmodules.openaimodel": "UNetModel",
    "comfy.ldm.wan.vae": "Decoder3d",
    "comfy.model_base": "BaseModel ModelType.EDM ModelType.V_PREDICTION",
    "comfy.model_management": (
        "InterruptProcessingException OOM_EXCEPTION current_loaded_models free_memory "
        "get_free_memory get_torch_device intermediate_device load_models_gpu should_use_bf16 "
        "should_use_fp16 soft_empty_cache text_encoder_offload_device "
        "throw_exception_if_processing_interrupted unet_offload_device"
    ),
    "comfy.model_patcher": "ModelPatcher",
    "comfy.model_sampling": "CONST EPS ModelSamplingDiscrete",
    "comfy.ops": "disable_weight_init disable_weight_init.Conv3d._conv_forward",
    "comfy.patcher_extension": (
        "WrapperExecutor WrapperExecutor.new_class_executor WrappersMP "
        "WrappersMP.OUTER_SAMPLE WrappersMP.PREDICT_NOISE WrappersMP.SAMPLER_SAMPLE"
    ),
    "comfy.sample": "fix_empty_latent_channels prepare_noise sample",
    "comfy.sampler_helpers": "estimate_memory",
    "comfy.samplers": (
        "CFGGuider CFGGuider.predict_noise KSAMPLER KSampler KSamplerX0Inpaint calc_cond_batch "
        "ksampler"
    ),
    "comfy.sd": "CLIP VAE",
    "comfy.sd1_clip": "ClipTokenWeightEncoder escape_important token_weights unescape_important",
    "comfy.supported_models_base": "BASE",
    "comfy.taesd.taesd": "TAESD",
    "comfy.utils": "ProgressBar repeat_to_batch_size",
    "comfy_execution.graph_utils": "ExecutionBlocker",
    "comfy_execution.utils": "get_executing_context",
    "folder_paths": (
        "add_model_folder_path folder_names_and_paths "
        "get_filename_list get_folder_paths get_full_path get_output_directory "
        "get_save_image_path models_dir"
    ),
    "latent_preview": "prepare_callback",
    "nodes": "common_ksampler",
}
# Methods that ComfyUI calls us in the place of, or we it, and how their parameters begin.
METHODS = {
    "comfy.samplers CFGGuider.__call__": "",
    "comfy.samplers CFGGuider.outer_predict_noise": "x timestep model_options seed",
    "comfy.samplers CFGGuider.predict_noise": "x timestep model_options seed",
    "comfy.samplers CFGGuider.outer_sample": "noise latent_image sampler sigmas",
    "comfy.samplers KSAMPLER.sample": (
        "model_wrap sigmas extra_args callback noise latent_image denoise_mask disable_pbar"
    ),
    "comfy.samplers KSAMPLER.max_denoise": "model_wrap sigmas",
    "comfy.samplers KSamplerX0Inpaint.__call__": "x sigma denoise_mask model_options seed",
    "comfy.model_patcher ModelPatcher.clone": "",
    "comfy.model_patcher ModelPatcher.add_wrapper_with_key": "wrapper_type key wrapper",
    "comfy.model_patcher ModelPatcher.get_model_object": "name",
    "comfy.model_patcher ModelPatcher.partially_load": "device_to extra_memory",
    "comfy.model_patcher ModelPatcher.partially_unload": "",
    "comfy.model_base BaseModel.process_latent_out": "latent",
    "comfy.model_sampling EPS.noise_scaling": "sigma noise latent_image max_denoise",
    "comfy.model_sampling EPS.inverse_noise_scaling": "sigma latent",
    "comfy.model_sampling EPS.calculate_denoised": "sigma model_output model_input",
    "comfy.model_sampling CONST.noise_scaling": "sigma noise latent_image max_denoise",
    "comfy.sd VAE.decode": "samples_in",
    "comfy.sd VAE.encode": "pixel_samples",
    "comfy.sd VAE.spacial_compression_decode": "",
}


def probe() -> list[str]:
    """What of it this ComfyUI has changed; said in the log, with the version."""
    changed = [*_missing(), *_unlike()]
    if changed:
        logging.warning(
            "LAGS: ComfyUI %s has changed what this pack builds on: %s. It is tested with ComfyUI "
            "%s. Update LAGS; if it is up to date, report this line.",
            getattr(sys.modules.get("comfyui_version"), "__version__", "of unknown version"),
            "; ".join(changed),
            TESTED,
        )
    return changed


def _missing() -> Iterator[str]:
    for module, names in NAMES.items():
        for name in names.split():
            if _found(module, name) is None:
                yield f"{module}.{name} is gone"


def _unlike() -> Iterator[str]:
    for place, wanted in METHODS.items():
        module, name = place.split()
        method = _found(module, name)
        if method is None:
            yield f"{module}.{name} is gone"
            continue
        known = list(inspect.signature(method).parameters.values())[1:]
        parameters = [parameter.name for parameter in known]
        is_open = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in known)
        if not is_open and parameters[: len(wanted.split())] != wanted.split():
            yield f"{module}.{name} takes ({', '.join(parameters)}) and took ({wanted})"


def _found(module: str, name: str) -> Any:
    """An attribute of a loaded module by its dotted name; None where either is not there."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
