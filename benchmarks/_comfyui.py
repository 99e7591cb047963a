"""ComfyUI's own networks at full size on the meta device, counted: no weights, nothing computed.

Runs in ComfyUI's Python only; with ``_full_size`` all of this room that may import ComfyUI.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ._memory import held_bytes, peak_bytes

HALF = torch.float16


@dataclass(frozen=True)
class Work:
    """Of one row or one image.

    Attributes:
        forward: TFLOP.
        backward: TFLOP, to the input.
        saved: GB that are there between forward and backward, weights and input not counted.
        peak: GB alive at one time in forward and backward.
        value: GB alive at one time in a forward that keeps nothing.
        reserved: GB that the pack asks for, in place of ``peak`` and of ``value``.
    """

    forward: float
    backward: float
    saved: float
    peak: float
    value: float
    reserved: tuple[float, float] = (0.0, 0.0)


UNET: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
    "dtype": HALF,
    "device": "meta",
}
UNETS: dict[str, dict[str, Any]] = {
    "SD1.5": UNET
    | {
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "context_dim": 768,
        "num_heads": 8,
    },
    "SDXL": UNET
    | {
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "context_dim": 2048,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
}
KL: dict[str, Any] = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
QWEN = "Qwen-Image"
WAN: dict[str, Any] = {"temperal_downsample": [False, True, True], "dim": 96, "z_dim": 16}

ENCODERS = {  # CLIP's image sides: layers, width, heads, patch, projection
    "ViT-L": (24, 1024, 16, 14, 768),
    "ViT-H": (32, 1280, 16, 14, 1024),
}


def import_comfyui(root: Path, scratch: Path, cpu: bool = True) -> None:
    """Make ComfyUI importable, its model folders below ``scratch``; on the CPU, or anywhere."""
    sys.path.insert(0, str(root))
    importlib.import_module("comfy.options")
    args = importlib.import_module("comfy.cli_args").args
    args.cpu, args.use_pytorch_cross_attention = cpu, True
    args.base_directory = str(scratch)
    (scratch / "custom_nodes").mkdir()
    importlib.import_module("nodes")


def unet(family: str, side: int, dtype: torch.dtype = HALF) -> Work:
    """One row of a UNet at an image's side: forward, backward, what autograd keeps."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    config = UNETS[family]
    net = UNetModel(**config, operations=comfy.ops.disable_weight_init).requires_grad_(False)
    x = _empty(1, 4, side // 8, side // 8)
    context = _empty(1, 77, config["context_dim"])
    pooled = _empty(1, 2816) if "adm_in_channels" in config else None
    timestep = torch.empty(1, device="meta")
    return count(lambda x: net(x, timestep, context=context, y=pooled), x)


def image_side(name: str) -> Any:
    """A network of ``ENCODERS`` on the meta device, as transformers has it."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    layers, width, heads, patch, projection = ENCODERS[name]
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "patch_size": patch}
    counts = {"num_hidden_layers": layers, "num_attention_heads": heads}
    with torch.device("meta"):
        config = CLIPVisionConfig(**sizes, **counts, projection_dim=projection)
        return CLIPVisionModelWithProjection(config).eval().requires_grad_(False)


def encoder(name: str) -> Work:
    """An image side at its own size, with all its layers kept."""
    net = image_side(name).to(HALF)
    return count(
        lambda images: net(pixel_values=images.to(HALF)).image_embeds, _empty(1, 3, 224, 224)
    )


def decoder(
    name: str, family: str, side: int, decode_side: int = 0, dtype: torch.dtype = HALF
) -> Work:
    """A decoder of nodes/decoders.py for a square image, from making the latents smaller on.

    Args:
        name: one of ``cost.DECODERS``.
        family: whose latents.
        side: of the image in pixels.
        decode_side: as in LAGS Options; 0 for full size.
        dtype: of its weights.
    """
    from ..runtime.decoders import shrunk

    made = _made(name, family, dtype)

    def images(latents: Tensor) -> Tensor:
        return made.images(shrunk(latents, made.cell, decode_side))

    channels = 16 if family == QWEN else 4
    latents = torch.empty(1, channels, side // 8, side // 8, device="meta")  # float32, as in a run
    cells = (decode_side or side) // 8
    with_gradient, value = (made.bytes_per_image(cells, cells, g) / 1e9 for g in (True, False))
    with made.differentiable():
        return replace(count(images, latents), reserved=(with_gradient, value))


def _made(name: str, family: str, dtype: torch.dtype) -> Any:
    """A decoder without weights."""
    import comfy.latent_formats
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.wan.vae import WanVAE
    from comfy.taesd.taesd import TAESD

    from ..runtime.decoders import LatentRGBDecoder, TAESDDecoder, VAEDecoder

    if name == "latent-rgb":
        formats = {"SD1.5": comfy.latent_formats.SD15, "SDXL": comfy.latent_formats.SDXL}
        return LatentRGBDecoder(formats[family]())
    with torch.device("meta"):
        net: nn.Module
        if name == "taesd":
            net = TAESD().taesd_decoder
        else:
            net = WanVAE(**WAN) if family == QWEN else AutoencoderKL(ddconfig=KL, embed_dim=4)
    net.to(dtype).requires_grad_(False)
    if name == "taesd":
        return TAESDDecoder(net, 8)
    vae = SimpleNamespace(
        first_stage_model=net,
        vae_dtype=dtype,
        device=torch.device("meta"),
        patcher=None,
        latent_dim=3 if family == QWEN else 2,
        latent_channels=16 if family == QWEN else 4,
        memory_used_decode=lambda shape, dtype: (
            (2200 if family == QWEN else 2178) * shape[-2] * shape[-1] * 64 * dtype.itemsize
        ),
        process_output=lambda image: (image + 1) / 2,
        spacial_compression_decode=lambda: 8,
    )
    return VAEDecoder(vae, lambda latents: latents)


def count(run: Callable[[Tensor], Tensor], leaf: Tensor) -> Work:
    """What a forward and a backward pass to its input take."""
    with torch.no_grad():
        value = peak_bytes(lambda: run(leaf))
    leaf = leaf.detach().requires_grad_()
    with FlopCounterMode(display=False) as forward:
        output = run(leaf)
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(output.sum(), leaf)
    del output
    return Work(
        forward=forward.get_total_flops() / 1e12,
        backward=backward.get_total_flops() / 1e12,
        saved=held_bytes(lambda: run(leaf)) / 1e9,
        peak=peak_bytes(lambda: torch.autograd.grad(run(leaf).sum(), leaf)) / 1e9,
        value=value / 1e9,
    )


def _empty(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=HALF, device="meta")
