"""Tiny random-weight checkpoints in published key layouts, which ComfyUI's own loaders read.

Widths are the smallest that ComfyUI's detection accepts. The UNets are random except for one thin
path that carries the input to the output, so that they predict noise roughly as trained ones do:
samples stay at unit scale, and the denoised image follows a change of the input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]
Conditioning = list[list[Any]]

CHANNELS = 320  # model_channels of SD1.5 and SDXL: detection wants exactly this
GROUP = CHANNELS // 32  # channels in a group of the UNet's last GroupNorm
SD15_WIDTH, SDXL_WIDTH, SDXL_POOLED = 768, 2048, 1280

_UNET = {
    **{"image_size": 32, "in_channels": 4, "model_channels": CHANNELS},
    **{"use_spatial_transformer": True, "legacy": False},
}
_SD15 = _UNET | {
    **{"num_res_blocks": [1], "channel_mult": [1], "transformer_depth": [1]},
    **{"context_dim": SD15_WIDTH, "num_heads": 8},
}
_SDXL = _UNET | {
    **{"num_res_blocks": [1, 1, 1], "channel_mult": [1, 1, 1]},
    "transformer_depth": [0, 2, 5],  # KOALA-700M
    **{"context_dim": SDXL_WIDTH, "num_head_channels": 64, "use_linear_in_transformer": True},
    **{"num_classes": "sequential", "adm_in_channels": 2816},
}
_OUTPUT = {"out_channels": 4, "transformer_depth_middle": -2}
_KL = {
    **{"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3},
    **{"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": []},
    "dropout": 0.0,
}


@dataclass
class TinyModel:
    """A loaded tiny checkpoint and what a sampler node needs beside it."""

    name: str
    model: Any
    vae: Any
    positive: Conditioning
    negative: Conditioning

    def latent(self, batch: int = 1, size: int = 8) -> dict[str, Tensor]:
        """An empty LATENT of `size` x `size` (8 x `size` pixels), as EmptyLatentImage makes it."""
        with torch.inference_mode():
            return {"samples": torch.zeros(batch, 4, size, size)}


def make_sd15(path: Path, seed: int = 0) -> None:
    """Save a checkpoint that loads as SD1.5, without text encoder, with a TAESD as VAE."""
    _save_checkpoint(path, _SD15 | _OUTPUT | {"transformer_depth_output": [0] * 2}, seed, 0.18215)


def make_sdxl(path: Path, seed: int = 1) -> None:
    """Save a checkpoint that loads as SDXL, without text encoders, with a TAESD as VAE."""
    _save_checkpoint(path, _SDXL | _OUTPUT | {"transformer_depth_output": [0] * 6}, seed, 0.13025)


def make_controlnet(path: Path, for_sd15: bool = True, seed: int = 2) -> None:
    """Save a ControlNet in its authors' key layout, with zero convolutions that are not zero."""
    from comfy.cldm.cldm import ControlNet

    config = _SD15 if for_sd15 else _SDXL | {"transformer_depth": [0, 0, 1]}
    with torch.device("meta"):
        shapes = ControlNet(**config, hint_channels=3, transformer_depth_middle=-1).state_dict()
    weights = _random_weights(shapes, seed)
    for key in weights:
        if "zero_convs" in key or "middle_block_out" in key:
            weights[key] *= 0.3
    _save(path, _with_prefix("control_model.", weights))


def make_lora(path: Path, rank: int = 4, seed: int = 3) -> None:
    """Save a LoRA of the attention layers of the tiny SD1.5, in the layout of kohya's trainer."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for attention, width in (("attn1", CHANNELS), ("attn2", SD15_WIDTH)):
        for layer in ("to_q", "to_k", "to_v", "to_out_0"):
            into = width if layer in ("to_k", "to_v") else CHANNELS
            key = f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_{attention}_{layer}"
            down = torch.randn(rank, into, generator=generator) / math.sqrt(into)
            up = 0.3 * torch.randn(CHANNELS, rank, generator=generator)
            weights[key + ".lora_down.weight"] = down
            weights[key + ".lora_up.weight"] = up
            weights[key + ".alpha"] = torch.tensor(float(rank))
    _save(path, weights)


def make_kl_vae(seed: int = 4, colours: int = 3) -> Any:
    """A small AutoencoderKL, the class of the real SD VAE, as a ComfyUI VAE object.

    `colours` is how many channels it decodes to; the first ones are the same for any number.
    """
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL

    params = {"ddconfig": _KL, "embed_dim": 4}
    with torch.device("meta"):
        shapes = AutoencoderKL(**params).state_dict()
    weights = _random_weights(shapes, seed)
    for name in ("weight", "bias"):
        last = weights[f"decoder.conv_out.{name}"]
        weights[f"decoder.conv_out.{name}"] = torch.cat([last, last])[:colours]
    params = {**params, "ddconfig": {**_KL, "out_ch": colours}}
    return comfy.sd.VAE(sd=weights, config={"params": params})


def make_wan_vae(seed: int = 6, width: int = 8) -> Any:
    """A narrow VAE of Wan 2.1 and Qwen-Image: 16 channels, 8x, latents in a video's shape."""
    import comfy.sd
    from comfy.ldm.wan.vae import WanVAE

    with torch.device("meta"):
        shapes = WanVAE(
            width, 16, num_res_blocks=2, temperal_downsample=[False, True, True]
        ).state_dict()
    weights = _random_weights(shapes, seed)
    for key, value in weights.items():
        if key.endswith("gamma"):
            value.fill_(1.0)
    weights["decoder.head.2.weight"] *= 0.2  # images between black and white
    return comfy.sd.VAE(sd=weights)


def make_qwen(seed: int = 7, width: int = 32) -> TinyModel:
    """A narrow Qwen-Image of one block, a flow model with latents in a video's shape."""
    import comfy.model_management as mm
    import comfy.supported_models
    from comfy.model_patcher import ModelPatcher

    sizes = {
        **{"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2},
        **{"joint_attention_dim": width, "axes_dims_rope": (4, 6, 6)},
    }
    config = comfy.supported_models.QwenImage({"image_model": "qwen_image", **sizes})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({})
    network = model.diffusion_model
    network.load_state_dict(_random_weights(network.state_dict(), seed))
    patcher = ModelPatcher(model, mm.get_torch_device(), mm.unet_offload_device())
    positive, negative = (make_conditioning(width, None, number) for number in (1, 2))
    return TinyModel("qwen", patcher, make_wan_vae(), positive, negative)


def make_conditioning(width: int, pooled: int | None = None, seed: int = 0) -> Conditioning:
    """A CONDITIONING of 77 random tokens, with a pooled output of `pooled` numbers if given."""
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        tokens = torch.randn(1, 77, width, generator=generator)
        if pooled is None:
            return [[tokens, {}]]
        return [[tokens, {"pooled_output": torch.randn(1, pooled, generator=generator)}]]


def sample(tiny: TinyModel, **changes: Any) -> Tensor:
    """Sample as ComfyUI's KSampler node does; `changes` replace arguments of common_ksampler."""
    import nodes

    arguments = {
        **{"model": tiny.model, "positive": tiny.positive, "negative": tiny.negative},
        **{"seed": 0, "steps": 4, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal"},
        "latent": tiny.latent(),
    }
    with torch.inference_mode():
        return nodes.common_ksampler(**arguments | changes)[0]["samples"]


def _save_checkpoint(path: Path, config: dict[str, Any], seed: int, vae_scale: float) -> None:
    """Save UNet and TAESD under the keys of a checkpoint of Stability AI."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    with torch.device("meta"):
        shapes = UNetModel(**config).state_dict()
    unet = _random_weights(shapes, seed)
    _carry_input(unet)
    weights = _with_prefix("model.diffusion_model.", unet)
    _save(path, weights | _with_prefix("first_stage_model.", _taesd(seed, vae_scale)))


def _random_weights(shapes: Weights, seed: int) -> Weights:
    """Weights of variance 1 / fan-in, norms of one, biases of zero; independent of key order."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key in sorted(shapes):
        shape = shapes[key].shape
        if key.endswith("bias"):
            weights[key] = torch.zeros(shape)
        elif len(shape) < 2:
            weights[key] = torch.ones(shape)
        else:
            weights[key] = torch.randn(shape, generator=generator) / math.sqrt(shape[1:].numel())
    return weights


def _carry_input(unet: Weights) -> None:
    """Lead the input through the last skip connection to the output, as most of the answer.

    Each group of the last GroupNorm holds one latent channel with alternating signs, so that its
    mean is zero and SiLU acts linearly on a pair: silu(a) - silu(-a) = a. With these four factors
    a sample ends with a spread of 1 to 3 in model space under every sampler, and the Jacobian of
    the denoised image is positive along any direction, from 0.1 at sigma 14 to 1 at sigma 0.
    """
    wide = torch.arange(CHANNELS)
    latent, sign = wide // GROUP % 4, 1.0 - 2.0 * (wide % 2)
    unet["input_blocks.0.0.weight"] *= 0.5
    unet["input_blocks.0.0.weight"][wide, latent, 1, 1] += sign
    last = max(int(key.split(".")[1]) for key in unet if key.startswith("output_blocks."))
    join = unet[f"output_blocks.{last}.0.skip_connection.weight"]
    join[:, :CHANNELS] *= 0.3
    join[:, CHANNELS:, 0, 0] = torch.eye(CHANNELS)
    unet["out.2.weight"] *= 0.15
    unet["out.2.weight"][latent, wide, 1, 1] += 1.15 * sign / 40


def _taesd(seed: int, vae_scale: float) -> Weights:
    """A random TAESD whose images and latents have the usual mean and spread."""
    from comfy.taesd.taesd import TAESD

    taesd = TAESD()
    taesd.load_state_dict(_random_weights(taesd.state_dict(), seed))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        latents = torch.randn(4, 4, 8, 8, generator=generator)
        pictures = _standardise(taesd.taesd_decoder, latents, mean=0.5, std=0.2)
        _standardise(taesd.taesd_encoder, pictures, mean=0.0, std=1.0)
    return taesd.state_dict() | {"vae_scale": torch.tensor(vae_scale)}


def _standardise(net: torch.nn.Sequential, x: Tensor, mean: float, std: float) -> Tensor:
    """Rescale the last layer so that each channel of net(x) has this mean and spread."""
    per_channel = (0, 2, 3)
    y = net(x)
    gain = std / y.std(dim=per_channel)
    net[-1].weight.mul_(gain[:, None, None, None])
    net[-1].bias.copy_(mean - gain * y.mean(dim=per_channel))
    return net(x)


def _with_prefix(prefix: str, weights: Weights) -> Weights:
    return {prefix + key: value for key, value in weights.items()}


def _save(path: Path, weights: Weights) -> None:
    """Write half-precision safetensors, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half().contiguous() for key, value in weights.items()}, path)
