"""Networks that look at images: float32 in and out, whatever precision they run in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .base import Reward
from .checkpoint import CheckpointError, Weights, check_finite, of_other_types, refuse_misfits
from .preprocessing import Preprocessing
from .processors import read_settings

# Vision networks above this many parameters recompute their blocks in the backward pass, unless
# ``layers_kept`` says that there is room: ViT-L has 304 million and fits anyway, ViT-H 632 million.
LARGE = 400_000_000
# What a gradient through a transformer takes for one image, its layers kept or recomputed: times
# its parameters and image tokens, over its width. 5 to 12 % above what is counted alive at one time
# for ViT-L, ViT-H and SigLIP so400m, as transformers and as open_clip run them (test_encoders.py).
LAYERS = {True: 0.94, False: 0.15}
# That is for blocks of one width and one number of tokens. Of other networks (VGG, ResNet, Swin)
# what autograd saves is counted; 1.0 to 2.1 times as much is alive at one time.
LAYERED = 2.2


class ImageEncoder(nn.Module):
    """Images of any size -> features.

    Args:
        net: the network.
        features: what to take from it: (net, normalised pixels) -> a float tensor [B, ...].
        preprocessing: what it was trained on.
        width: number of features.
        logit_scale: the factor on cosines that its authors trained with it, if any.
        recomputes: whether its blocks may be recomputed.
    """

    def __init__(
        self,
        net: nn.Module,
        features: Callable[..., Tensor],
        preprocessing: Preprocessing,
        width: int,
        logit_scale: float | None = None,
        recomputes: bool = False,
    ) -> None:
        super().__init__()
        self.recomputes = recomputes
        self.saved_bytes: float | None = None  # counted when it is first asked for
        self.net, self.features, self.preprocessing = net, features, preprocessing
        self.width, self.logit_scale = width, logit_scale
        self.eval()

    @property
    def place(self) -> torch.device:
        """Where the weights are now."""
        return next(self.net.parameters()).device

    def forward(self, images: Tensor, *more: Tensor) -> Tensor:
        """Features [B, ...], float32, of images [B, 3, H, W] in 0..1.

        Args:
            images: on any device.
            more: further inputs of the network, the same for all images.
        """
        pixels = self.preprocessing(images.to(self.place))
        dtype = next(self.net.parameters()).dtype
        if dtype == torch.float32:
            return self.features(self.net, pixels, *more).float()
        return with_gradient_near_one(
            lambda pixels: self.features(self.net, pixels.to(dtype), *more), pixels
        )


def try_grey(
    encoder: ImageEncoder, path: Path, instead: str = "network, for example DINOv2 or a CLIP"
) -> None:
    """One grey image, so that what cannot work is told when the file is loaded.

    Without a processor's file, a network that does not read images of its class's default size is
    given images of its own.

    Args:
        encoder: around a network of transformers, in float32.
        path: the file, for errors.
        instead: what else may be chosen.

    Raises:
        CheckpointError: the network fails on an image, or gives other than its number of features.
    """
    config: Any = encoder.net.config
    side = getattr(getattr(config, "vision_config", config), "image_size", None)
    side = side[0] if isinstance(side, list | tuple) and len(set(side)) == 1 else side
    fault = _fault(encoder)
    if fault and isinstance(side, int) and not read_settings(path.parent):
        encoder.preprocessing, first = encoder.preprocessing.at(side), encoder.preprocessing
        fault = fault if _fault(encoder) else ""
        encoder.preprocessing = first if fault else encoder.preprocessing
    if fault:
        raise CheckpointError(
            f"{path} holds a {type(encoder.net).__name__}, whose configuration reads images of "
            f"{side} pixels; it fails on one of {encoder.preprocessing.size}, as its processor "
            f"makes them ({fault}). Put the config.json and preprocessor_config.json of its own "
            f"page beside it, or choose another {instead}."
        )


def _fault(encoder: ImageEncoder) -> str:
    """What happens to a grey image, if it is not the number of features."""
    side = encoder.preprocessing.size
    try:
        with torch.no_grad():
            features = encoder(torch.full((1, 3, side, side), 0.5))
    except Exception as error:  # which one, differs by model and release
        return shorten(f"{type(error).__name__}: {error}", 200)
    wanted = (1, encoder.width)
    return "" if features.shape == wanted else f"gives {tuple(features.shape)}, not {wanted}"


def with_gradient_near_one(run: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """``run(inputs)``, float32, whose gradient stays near 1 inside, image by image.

    The gradient of one pixel is far below what float16 holds, and that of a strong weight above it.
    The backward pass divides by each image's largest entry before the network and multiplies by
    it after.

    Args:
        run: a network in half precision.
        inputs: [B, ...], float32.
    """
    peaks: list[Tensor] = []

    def divided(grad: Tensor) -> Tensor:
        peak = grad.flatten(1).abs().amax(dim=1)
        peaks[:] = [torch.where(peak > 0, peak, 1.0)]
        return grad / _per_image(peaks[0], grad)

    def restored(grad: Tensor) -> Tensor:
        return grad * _per_image(peaks[0], grad)

    outputs = run(inputs).float()
    if inputs.requires_grad and outputs.requires_grad:
        outputs.register_hook(divided)  # type: ignore[no-untyped-call]
        inputs.register_hook(restored)  # type: ignore[no-untyped-call]
    return outputs


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ...], with the dimensions of ``like``."""
    return values.view(-1, *[1] * (like.ndim - 1))


class EncoderReward(Reward):
    """A score by what an encoder makes of images.

    Args:
        encoder: of images.
        more: further networks of the score.
    """

    def __init__(self, encoder: ImageEncoder, *more: nn.Module) -> None:
        self.encoder = encoder
        self.input_size = encoder.preprocessing.size
        self.modules = (encoder, *more)


def warn_if_cut(tokens: int, length: int, reader: str = "this model") -> None:
    """Say that a prompt is longer than what its reader reads of it."""
    if tokens > length:
        logging.warning(
            "LAGS: the prompt has %d tokens; %s reads the first %d.", tokens, reader, length
        )


_kept: ContextVar[bool] = ContextVar("kept", default=False)


@contextmanager
def layers_kept(kept: bool) -> Iterator[None]:
    """Say inside whether large networks may keep their layers' tensors, and compute none twice."""
    token = _kept.set(kept)
    try:
        yield
    finally:
        _kept.reset(token)


def are_layers_kept() -> bool:
    """What ``layers_kept`` says here; without it they are not."""
    return _kept.get()


def layers_bytes(modules: Iterable[nn.Module], kept: bool) -> float:
    """Memory that a gradient through encoders takes for one image, weights not counted.

    Args:
        modules: of a weight; what is no encoder takes next to nothing.
        kept: whether large ones keep their layers; small ones always do.
    """
    parts = [part for module in modules for part in module.modules()]
    encoders = [part for part in parts if isinstance(part, ImageEncoder)]
    return max((_layers_bytes(one, kept or not one.recomputes) for one in encoders), default=0.0)


def _layers_bytes(encoder: ImageEncoder, kept: bool) -> float:
    convolutions = (part for part in encoder.net.modules() if isinstance(part, nn.Conv2d))
    patches = next(convolutions, None)  # the first layer makes the tokens
    if patches is None:
        return 0.0
    tokens = (encoder.preprocessing.size // patches.stride[0]) ** 2
    weights = sum(p.nbytes for p in encoder.net.parameters())
    uniform = LAYERS[kept] * weights * tokens / patches.out_channels
    return min(uniform, LAYERED * _saved_bytes(encoder)) if kept else uniform


class _Called(nn.Module):
    """An encoder without its preprocessing, for ``functional_call``."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.net, self.features = encoder.net, encoder.features

    def forward(self, pixels: Tensor) -> Tensor:
        return self.features(self.net, pixels)


def _saved_bytes(encoder: ImageEncoder) -> float:
    """What autograd keeps of one image, weights not counted; infinite where nobody can tell."""
    if encoder.saved_bytes is None:
        encoder.saved_bytes = _count_saved(encoder)
    return encoder.saved_bytes


def _count_saved(encoder: ImageEncoder) -> float:
    """The same, by one forward on the meta device, which computes nothing."""
    called, kept = _Called(encoder), dict[int, int]()
    with torch.inference_mode(False), torch.enable_grad(), layers_kept(True):
        named = (*called.named_parameters(), *called.named_buffers())
        weights = {key: torch.empty_like(value, device="meta") for key, value in named}
        own = {value.untyped_storage()._cdata for value in weights.values()}
        side, dtype = encoder.preprocessing.size, next(encoder.net.parameters()).dtype
        pixels = torch.empty(1, 3, side, side, dtype=dtype, device="meta", requires_grad=True)

        def pack(saved: Tensor) -> Tensor:
            storage = saved.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage.nbytes()
            return saved

        try:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
                made = torch.func.functional_call(called, weights, (pixels,))
        except Exception:  # which one, differs by network and release
            return float("inf")
    del made
    return float(sum(kept.values()))


class Recomputed(nn.Module):
    """A block whose inner tensors are computed again in the backward pass instead of kept."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The block's output."""
        if are_layers_kept() or not torch.is_grad_enabled():
            return self.block(*args, **kwargs)
        return checkpoint(
            self.block, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
        )


def recompute(blocks: nn.ModuleList) -> None:
    """Make all blocks of a network recompute: memory for backward falls to one tensor a block."""
    for i, block in enumerate(blocks):
        blocks[i] = Recomputed(block)


def is_large(net: nn.Module) -> bool:
    """Whether a network's blocks should recompute."""
    return sum(p.numel() for p in net.parameters()) > LARGE


def described(kind: Any, settings: Mapping[str, Any], path: Path) -> Any:
    """The settings in the config.json beside ``path`` as a configuration class of transformers.

    Raises:
        CheckpointError: the installed transformers does not read it.
    """
    try:
        return kind.from_dict(dict(settings))
    except Exception as error:  # which one, differs by release
        raise CheckpointError(
            f"{path.parent / 'config.json'} describes a model of type "
            f"{settings.get('model_type')!r}, which the installed transformers does not know or "
            f"read ({shorten(str(error), 200)})."
        ) from error


def from_transformers(
    kind: Any, config: Any, weights: Weights, path: Path, dtype: torch.dtype
) -> nn.Module:
    """A transformers model from weights in memory, through transformers' own loading.

    That loading also renames the keys of older files for newer releases.

    Args:
        kind: a model class of transformers.
        config: its configuration.
        weights: by published key.
        path: the file, for errors.
        dtype: precision.

    Raises:
        CheckpointError: keys are missing or surplus, a shape differs, a value is not finite, or
            the configuration makes no model.
    """
    import transformers

    check_finite(weights, path)
    # A configuration describes a network; which code runs it is not for a downloaded file to say.
    config._attn_implementation = None
    config.__dict__.pop("quantization_config", None)
    config.return_dict = True
    config.dtype = torch.float32  # until the end, whatever the file says
    level = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()  # what it would warn of is an error here
    transformers.logging.disable_progress_bar()
    try:
        net, found = kind.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # what a wrong configuration raises differs by model and release
        raise CheckpointError(
            f"{path} cannot be loaded with its configuration ({shorten(str(error), 200)}): put the "
            "config.json of its own page beside it."
        ) from error
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
    shapes = [str(key[0] if isinstance(key, tuple) else key) for key in found["mismatched_keys"]]
    shapes += of_other_types(net.state_dict(), weights)
    computed = _computed(net)  # some releases of transformers save them, others do not
    missing = set(found["missing_keys"]) - set(shapes) - computed
    refuse_misfits(path, missing, set(found["unexpected_keys"]) - computed, shapes)
    module: nn.Module = net.to(dtype)
    return module.requires_grad_(False).eval()


def _computed(net: nn.Module) -> set[str]:
    """Names of buffers that a network makes by itself, such as indices of positions.

    Not those beside a running mean, which are learned.
    """
    return {
        f"{name}.{key}" if name else key
        for name, part in net.named_modules()
        for key, _ in part.named_buffers(recurse=False)
        if not hasattr(part, "running_mean")
    }
