"""Decoders: how the latents become images that a weight can look at, and what that takes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

import comfy.latent_formats as formats
import comfy.model_management as mm
import folder_paths
import torch
from comfy.ldm.modules.diffusionmodules.model import Decoder as KLDecoder
from comfy.ldm.wan.vae import Decoder3d
from comfy.ops import disable_weight_init
from comfy.taesd.taesd import TAESD
from torch import Tensor, nn
from torch.nn import functional as F

from ..demo.scenes.diffusion import load_small_decoder
from ..guidance import ModelError
from ..guidance.finite import is_spoilt, refuse
from ..rewards import Weight
from ..rewards.checkpoint import fill, read_weights, shape_of
from .autograd_safe import autograd_safe
from .checks import check_colours, check_vae, dimensions_of
from .gradient import frozen
from .images import without_frame
from .lean import Lean
from .model_files import ModelFileError
from .models import patchers_of, shared

DECODERS = ("auto", "vae", "taesd", "latent-rgb")
AS_NEEDED, FULL_SIZE = -1, 0  # sizes to decode at, beside a number of pixels

# Memory that a VAE takes for one image, with its gradient beside copies of its weights, and without
# one: multiples of ComfyUI's estimate for decoding it, by the class of its decoder and the
# dimensions of its latents. They are 4 to 15 % above what `dev.py bench cost` counts alive at one
# time, in half precision and in float32, which is twice as much. KLDecoder is of Stable Diffusion,
# SDXL, SD3 and Flux; Decoder3d of Wan and Qwen-Image, whose one frame ComfyUI 0.8.0 pads to three.
PADS_FRAMES = "autopad" not in signature(disable_weight_init.Conv3d._conv_forward).parameters
VAE_BYTES = {
    (KLDecoder, 2): (1.18, 0.33),
    (Decoder3d, 3): (1.45, 0.82) if PADS_FRAMES else (0.92, 0.285),
}
OTHER_VAE = (3.0, 1.0)  # as if all were kept; and ComfyUI's estimate itself
# The same of TAESD, in numbers per pixel of the image: 677 and 192 counted.
TAESD_NUMBERS = (750, 212)

# Its convolutions see one pixel around: 10 at the latents' size, 10 at twice, 10 at four times and
# 5 at eight times it, which is a little over 18 cells on each side.
TAESD_RECEPTIVE_FIELD = 19

APPROXIMATE = "vae_approx"  # ComfyUI's folder for TAESD
TAESD_FILES = (".safetensors", ".sft", ".pth", ".pt")  # best first
TAESD_FORMATS = {  # on whose latents each of its decoders was trained
    "taesd_decoder": formats.SD15,
    "taesdxl_decoder": formats.SDXL,
    "taesd3_decoder": formats.SD3,
    "taef1_decoder": formats.Flux,
    "taef2_decoder": formats.Flux2,
}
TAESD_PAGE = "https://github.com/madebyollin/taesd"
FLUX2_CHANNELS, FLUX2_PACKED = 32, 128  # what its decoder works on; what the model makes
HALF_OVERFLOWS = (
    "Many VAEs of SD and SDXL leave the range of float16: start ComfyUI with --bf16-vae or "
    "--fp32-vae, load a VAE that was fixed for it (sdxl-vae-fp16-fix), or choose another decoder "
    "in LAGS Options (taesd for a VAE, vae for TAESD)."
)
NOT_BY_PRECISION = (
    "If that is far above 10, lower the weight's strength; else its file is damaged: load another "
    "VAE, or choose another decoder in LAGS Options (taesd for a VAE, vae for TAESD)."
)


class DecoderError(ModelError):
    """A decoder made of finite latents what is not finite."""


class Decoder(Protocol):
    """Latents -> images, with what a gradient through it needs.

    Attributes:
        name: in words, for the log and errors.
        cell: pixels of the image along a side of one latent cell.
        receptive_field: how many cells away from a pixel's own it still depends on; None for all.
        patchers: ComfyUI's handles of what must be on the device.
        modules: our own networks that must be on the device.
        device: where it computes.
        dtype: in which precision.
    """

    name: str
    cell: int
    receptive_field: int | None
    patchers: tuple[Any, ...] = ()
    modules: tuple[nn.Module, ...] = ()

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype:
        """Of its arithmetic, as a rule."""
        return torch.float32

    def own_latents(self, denoised: Tensor) -> Tensor:
        """Model space -> the latents that ``images`` takes; affine, element by element."""
        return denoised

    def images(self, latents: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 3, H, W] about 0..1, float32, not clamped.

        Without the clamp a pixel that has left the range keeps its gradient back.
        """

    def check(self) -> None:
        """Refuse what gives no image, before a run; loaded already.

        Raises:
            ValueError: another number of channels.
        """

    def differentiable(self) -> AbstractContextManager[Any]:
        """Inside it autograd may pass."""
        return nullcontext()

    def bytes_per_image(self, height: int, width: int, gradient: bool) -> float:
        """Memory for one image, by its latents' size, weights not counted."""


@dataclass(frozen=True)
class Decoding:
    """What the user chose.

    Attributes:
        decoder: one of ``DECODERS``.
        side: shorter side in pixels of the decoded image; ``FULL_SIZE``, or ``AS_NEEDED``.
    """

    decoder: str = DECODERS[0]
    side: int = AS_NEEDED

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder is {self.decoder!r}; expected one of {DECODERS}.")
        if not self.side >= AS_NEEDED:
            raise ValueError(
                f"decode size is {self.side}; expected a number of pixels, {FULL_SIZE} for full "
                f"size, or {AS_NEEDED} for what the weight needs."
            )

    def faithful(self) -> Decoding:
        """The same, but with what nobody chose set to the user's VAE at full size."""
        return Decoding(
            "vae" if self.decoder == DECODERS[0] else self.decoder,
            FULL_SIZE if self.side == AS_NEEDED else self.side,
        )

    def side_for(self, weight: Weight) -> int:
        """Shorter side in pixels to decode at, for this weight; 0 for full size."""
        return self.side if self.side != AS_NEEDED else weight.needed_side or FULL_SIZE


class VAEDecoder(Decoder):
    """The user's own VAE.

    Args:
        vae: ComfyUI's VAE object.
        process_latent_out: model space -> the VAE's latents.
    """

    def __init__(self, vae: Any, process_latent_out: Callable[[Tensor], Tensor]) -> None:
        self.vae, self.own_latents = vae, process_latent_out
        self.net: nn.Module = vae.first_stage_model
        self.is_small = isinstance(self.net, TAESD)
        # The VAE itself attends to, and normalises over, the whole image.
        self.receptive_field = TAESD_RECEPTIVE_FIELD if self.is_small else None
        self.name = "the VAE" if not self.is_small else "the VAE (TAESD)"
        self.cell = int(vae.spacial_compression_decode())
        self.patchers = (vae.patcher,)
        self.offset, self.gain = _affine_part(vae.process_output)
        decoder = getattr(self.net, "decoder", self.net)
        self.copies = sum(weight.numel() for weight in decoder.parameters()) * self.dtype.itemsize

    @property
    def device(self) -> torch.device:
        """The VAE's."""
        return self.vae.device

    @property
    def dtype(self) -> torch.dtype:
        """The VAE's."""
        return self.vae.vae_dtype

    def images(self, latents: Tensor) -> Tensor:
        return self._decoded(latents)[:, :3].float() * self.gain + self.offset  # without alpha

    def check(self) -> None:
        """As a decoder, by a small image: a VAE's object says what its encoder takes in."""
        if not self.is_small:  # TAESD has three channels
            self._decoded(torch.zeros(1, self.vae.latent_channels, 8, 8))

    def _decoded(self, latents: Tensor) -> Tensor:
        """What the network makes of latents: colours, and alpha where there is one."""
        on_device = getattr(mm, "cuda_device_context", nullcontext)
        if self.vae.latent_dim == 3:
            latents = latents.unsqueeze(2)  # one frame
        with on_device(self.device):
            decoded = self.net.decode(latents.to(self.device, self.vae.vae_dtype))  # type: ignore[operator]
        image = without_frame(decoded)
        check_colours(image.shape[1])
        return image

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        """As a decoder; the VAE is as before after it."""
        with autograd_safe(self.net), frozen(self.net), Lean():
            yield

    def bytes_per_image(self, height: int, width: int, gradient: bool) -> float:
        """As a decoder: by ComfyUI's estimate, and what that is off by."""
        if self.is_small:
            return _taesd_bytes(height * width * self.cell**2, self.dtype, gradient)
        dimensions = self.vae.latent_dim
        shape = (1, self.vae.latent_channels, *(1,) * (dimensions - 2), height, width)
        decoder = type(getattr(self.net, "decoder", None))
        with_gradient, value = VAE_BYTES.get((decoder, dimensions), OTHER_VAE)
        estimate = float(self.vae.memory_used_decode(shape, self.dtype))
        return estimate * with_gradient + self.copies if gradient else estimate * value


class TAESDDecoder(Decoder):
    """TAESD, a decoder of 1.2 million weights for the latents of a model family.

    Source: https://github.com/madebyollin/taesd. It shows the same image with less fine detail,
    for a twentieth of the VAE's arithmetic and a tenth of its memory.

    Args:
        net: the decoder part.
        cell: pixels along a side of a latent cell.
    """

    name = "TAESD"
    receptive_field = TAESD_RECEPTIVE_FIELD

    def __init__(self, net: nn.Module, cell: int) -> None:
        self.net, self.modules, self.cell = net, (net,), cell

    @property
    def device(self) -> torch.device:
        """Where the memory manager puts it."""
        (patcher,) = patchers_of(self.modules)
        return patcher.load_device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(self.net.parameters()).dtype

    def images(self, latents: Tensor) -> Tensor:
        weight = next(self.net.parameters())
        return self.net(latents.to(weight)).float()

    def bytes_per_image(self, height: int, width: int, gradient: bool) -> float:
        return _taesd_bytes(height * width * self.cell**2, self.dtype, gradient)


class LatentRGBDecoder(Decoder):
    """One linear map from each latent cell to a colour: ComfyUI's fast preview.

    Args:
        latent_format: of the model; knows the map.

    Raises:
        ValueError: it does not.
    """

    name = "latent-rgb"
    cell = 1

    def __init__(self, latent_format: Any) -> None:
        factors = getattr(latent_format, "latent_rgb_factors", None)
        if factors is None:
            raise ValueError(
                f"decoder is 'latent-rgb', and the latents of this model "
                f"({type(latent_format).__name__}) have no colours known to ComfyUI: choose "
                "'taesd', 'vae' or 'auto'."
            )
        bias = getattr(latent_format, "latent_rgb_factors_bias", None) or [0.0, 0.0, 0.0]
        self.unpacked = getattr(latent_format, "latent_rgb_factors_reshape", None)
        self.receptive_field = 0 if self.unpacked is None else None
        if self.unpacked is not None:
            one = torch.zeros(1, latent_format.latent_channels, 1, 1)
            self.cell = int(self.unpacked(one).shape[-1])
        with torch.inference_mode(False):
            self.factors = torch.tensor(factors, dtype=torch.float32)  # [C, 3]
            self.bias = torch.tensor(bias, dtype=torch.float32).view(3, 1, 1)

    @property
    def device(self) -> torch.device:
        """Where the diffusion model computes."""
        return mm.get_torch_device()

    def images(self, latents: Tensor) -> Tensor:
        """As a decoder; the image has a pixel per cell, or several where cells are packed."""
        cells = latents.float() if self.unpacked is None else self.unpacked(latents.float())
        colours = torch.einsum("bchw,cr->brhw", cells, self.factors.to(cells.device))
        return (colours + self.bias.to(cells.device) + 1) / 2

    def bytes_per_image(self, height: int, width: int, gradient: bool) -> float:
        """As a decoder: the image and its gradient."""
        return 2 * 3 * 4 * height * width * self.cell**2


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """An IMAGE [B, H, W, C] of latents by ComfyUI's own decoding, as VAE Decode makes it.

    Raises:
        DecoderError: the VAE overflowed.
    """
    images: Tensor = vae.decode(latents)
    images = images[:, 0] if images.ndim == 5 else images  # one frame
    check_decoded(VAEDecoder(vae, torch.Tensor.clone), "an image", images, latents)
    return images


def check_decoded(
    decoder: Decoder, what: str, made: Tensor, latents: Tensor, of: Tensor | None = None
) -> None:
    """Refuse what a decoder has spoilt, before the weight is blamed for it.

    Args:
        decoder: whose fault it would be.
        what: it has made, in words.
        made: the values.
        latents: what was decoded.
        of: what it made them of, where that is not the latents; where it is not finite, it is
            another's fault.

    Raises:
        DecoderError: a value is NaN or infinite.
    """

    def error() -> DecoderError:
        kind = type(decoder.net).__name__ if isinstance(decoder, VAEDecoder) else decoder.name
        dtype = str(decoder.dtype).removeprefix("torch.")
        return DecoderError(
            f"The decoder {kind}, in {dtype}, made {what} that is not finite of latents that are "
            f"(up to {float(latents.abs().max()):.3g}). "
            + (HALF_OVERFLOWS if decoder.dtype == torch.float16 else NOT_BY_PRECISION)
        )

    refuse(is_spoilt(made) & ~is_spoilt(latents if of is None else of), error)


def decoder_of(decoding: Decoding, vae: Any, model: Any) -> Decoder:
    """The decoder for a MODEL's latents.

    Raises:
        ValueError: the VAE does not belong to the latents, or they have no such decoder.
        ModelFileError: TAESD's file is not there.
    """
    check_vae(vae, model)
    return choose(
        decoding.decoder,
        vae,
        model.get_model_object("latent_format"),
        # Asked through the model at each use: what patches it may replace the format for a run.
        lambda denoised: model.model.process_latent_out(denoised),
    )


def choose(
    decoder: str, vae: Any, latent_format: Any, process_latent_out: Callable[[Tensor], Tensor]
) -> Decoder:
    """The decoder of a name.

    Args:
        decoder: one of ``DECODERS``; auto is TAESD where its file is there, else the VAE.
        vae: ComfyUI's VAE object.
        latent_format: of the model.
        process_latent_out: model space -> the VAE's latents.

    Raises:
        ValueError: the model's latents have no such decoder.
        ModelFileError: TAESD's file is not there.
    """
    own = VAEDecoder(vae, process_latent_out)
    if decoder == "vae" or (decoder == "auto" and own.is_small):
        return own
    if decoder == "latent-rgb":
        return LatentRGBDecoder(latent_format)
    bundled = getattr(latent_format, "lags_small_decoder", None)
    if bundled is not None:
        return TAESDDecoder(shared(read_bundled, bundled, "float32"), own.cell)
    name = taesd_of(latent_format)
    if decoder == "auto":
        if name is None:
            return own
        if taesd_file(name) is None:
            _say_once(f"LAGS: the weight looks through the VAE. {_where_to_get(name)}")
            return own
    return _taesd(name, latent_format)


def _taesd(name: str | None, latent_format: Any) -> TAESDDecoder:
    if name is None:
        raise ValueError(
            f"decoder is 'taesd', and none is trained for the latents of this model "
            f"({type(latent_format).__name__}): choose 'vae' or 'auto'."
        )
    path = taesd_file(name)
    if path is None:
        raise ModelFileError(f"decoder is 'taesd', and its file is missing. {_where_to_get(name)}")
    net = shared(read_taesd, path, "auto")
    channels = next(net.parameters()).shape[1]
    expected = latent_format.latent_channels
    if channels != (FLUX2_CHANNELS if expected == FLUX2_PACKED else expected):
        raise ModelFileError(
            f"{path} decodes {channels} latent channels and the model makes {expected}: "
            f"{_where_to_get(name)}"
        )
    return TAESDDecoder(net, getattr(latent_format, "spacial_downscale_ratio", 8))


def taesd_of(latent_format: Any) -> str | None:
    """Name of the TAESD decoder trained on latents of this format; None where there is none.

    Formats may share a file's name, for previews, that have another mean or scale (Playground
    v2.5 and SDXL).
    """
    name = getattr(latent_format, "taesd_decoder_name", None)
    trained = TAESD_FORMATS.get(name)
    if trained is None or dimensions_of(latent_format) != 2:
        return None
    zero = torch.zeros(1, latent_format.latent_channels, 1, 1)
    ends = (
        (own.process_out(zero), own.process_out(zero + 1)) for own in (latent_format, trained())
    )
    same = (torch.allclose(ours, theirs) for ours, theirs in zip(*ends, strict=True))
    return name if all(same) else None


def taesd_file(name: str) -> Path | None:
    """TAESD's file for latents whose decoder has this name, safetensors first; None if missing."""
    there = folder_paths.get_filename_list(APPROXIMATE)
    for suffix in TAESD_FILES:
        for file in sorted(there):
            if file.startswith(name) and file.lower().endswith(suffix):
                path = folder_paths.get_full_path(APPROXIMATE, file)
                if path is not None:
                    return Path(path)
    return None


def read_taesd(path: Path, dtype: torch.dtype) -> nn.Module:
    """A TAESD decoder from its file; a pickle of anything but tensors is refused.

    Raises:
        CheckpointError: the file is damaged or holds something else.
    """
    weights = read_weights(path)
    channels = shape_of(weights, "1.weight", 4, path)[1]
    with torch.device("meta"):
        packed = FLUX2_PACKED if channels == FLUX2_CHANNELS else channels
        net: nn.Module = TAESD(latent_channels=packed).taesd_decoder
    fill(net, weights, path, dtype)
    return net


def read_bundled(path: Path, dtype: torch.dtype) -> nn.Module:
    """The small decoder of the bundled text-to-image model: TAESD's layout, but narrower."""
    return load_small_decoder(path.parent).to(dtype)


def shrunk_size(height: int, width: int, cell: int, side: int) -> tuple[int, int]:
    """The latents' size at which the image's shorter side is at least ``side`` pixels.

    Args:
        height: of the latents.
        width: of the latents.
        cell: pixels along a side of a latent cell.
        side: in pixels; 0 for full size. Latents are never enlarged.
    """
    shorter = min(height, width)
    wanted = math.ceil(side / cell)
    if not side or wanted >= shorter:
        return height, width
    return math.ceil(height * wanted / shorter), math.ceil(width * wanted / shorter)


def shrunk(latents: Tensor, cell: int, side: int) -> Tensor:
    """Latents [B, C, h, w] made smaller, antialiased, to what ``shrunk_size`` says."""
    size = shrunk_size(*latents.shape[-2:], cell, side)
    if size == latents.shape[-2:]:
        return latents
    return F.interpolate(latents, size, mode="bilinear", align_corners=False, antialias=True)


def _taesd_bytes(pixels: int, dtype: torch.dtype, gradient: bool) -> float:
    with_gradient, value = TAESD_NUMBERS
    return (with_gradient if gradient else value) * pixels * dtype.itemsize


def _affine_part(process_output: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Offset and gain of a VAE's output map, without its clamp: probed where nothing is clamped."""
    at_zero = float(process_output(torch.zeros(1, 1, 1, 1)).mean())
    at_quarter = float(process_output(torch.full((1, 1, 1, 1), 0.25)).mean())
    return at_zero, (at_quarter - at_zero) / 0.25


def _where_to_get(name: str) -> str:
    place = ", ".join(folder_paths.get_folder_paths(APPROXIMATE))
    return (
        f"Put {name}.safetensors or {name}.pth (5 MB, from {TAESD_PAGE}) into {place}: it needs a "
        "tenth of the memory."
    )


_said: set[str] = set()


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        logging.info(message)
