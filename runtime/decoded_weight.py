"""log w on latents: decode, score, and bring the gradient back through the decoder."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import comfy.model_management as mm
import torch
from torch import Tensor
from torch.nn import functional as F

from ..guidance import AutogradLogWeight, LogWeight, WeightError, scaled_vjp
from ..rewards import Weight
from ..rewards.encoders import layers_bytes, layers_kept
from ..rewards.masked import box_of
from .decoders import Decoder, check_decoded, shrunk, shrunk_size
from .images import without_frame
from .memory import GIGABYTE, are_loaded, is_out_of_memory, unless_out_of_memory
from .models import patchers_of

# Of what a decoder's gradient is asked for, what lies there while the weight takes its own; counted
# 0.73 to 0.80 for VAE and TAESD.
HELD = 0.8


class DecodedLogWeight:
    """A ``LogWeight`` on model-space latents, through a decoder.

    Args:
        decoder: what makes images of latents; loaded while this is used.
        weight: log w on images.
        side: shorter side in pixels of the image to decode, for which larger latents are made
            smaller first; 0 for full size.
        load: (this, the latents' shape) brings decoder and weight to the device, beside what else
            the run needs; for when something has moved them off. None where nothing does.

    Attributes:
        terms: what the last gradient was taken of, factor by factor: log w [B].
    """

    terms: dict[str, Tensor]

    def __init__(
        self,
        decoder: Decoder,
        weight: Weight,
        side: int = 0,
        load: Callable[[DecodedLogWeight, torch.Size], None] | None = None,
    ) -> None:
        self.decoder, self.weight, self.side, self.load = decoder, weight, side, load
        self.name, self.terms = weight.name, {}
        self._by_term: list[Tensor] = []
        self._boxes: dict[tuple[int, int], tuple[int, int, int, int] | None] = {}
        self.on_images = AutogradLogWeight(self._noted, weight.name)

    def images(self, latents: Tensor) -> Tensor:
        """The decoder's latents [B, C, h, w] -> what the weight sees, [B, 3, H, W].

        Where the weight looks at a part only, and the decoder's pixels depend on cells nearby only,
        the rest is left out, and black: value and gradient are as with all of it.

        Raises:
            DecoderError: the decoder has spoilt them.
        """
        images = self._images(latents)
        check_decoded(self.decoder, "an image", images, latents)
        return images

    def _images(self, latents: Tensor) -> Tensor:
        """As ``images``, unchecked."""
        mm.throw_exception_if_processing_interrupted()
        latents, cell = shrunk(latents, self.decoder.cell, self.side), self.decoder.cell
        height, width = latents.shape[-2:]
        top, bottom, left, right = self._part(height, width)
        part = self.decoder.images(latents[..., top:bottom, left:right])
        around = (left, width - right, top, height - bottom)
        return F.pad(part, [cell * cells for cells in around]) if any(around) else part

    def _part(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, bottom, left and right of the latent cells that the weight can see."""
        cell, around = self.decoder.cell, self.decoder.receptive_field
        box = self._box(cell * height, cell * width)
        if around is None or box is None:
            return 0, height, 0, width
        top, bottom, left, right = box
        return (
            max(0, top // cell - around),
            min(height, math.ceil(bottom / cell) + around),
            max(0, left // cell - around),
            min(width, math.ceil(right / cell) + around),
        )

    def _box(self, height: int, width: int) -> tuple[int, int, int, int] | None:
        """As ``box_of``; found once for a size, as masks are large and asked for in every step."""
        size = height, width
        if size not in self._boxes:
            self._boxes[size] = box_of(self.weight, *size)
        return self._boxes[size]

    def _scored(self, images: Tensor) -> Tensor:
        """strength * score [terms, B] of images; decoding them may have taken a while."""
        mm.throw_exception_if_processing_interrupted()
        with _failing_as(self.name):
            return self.weight.by_term(images)

    def _noted(self, images: Tensor) -> Tensor:
        """log w [B] of images, its factors noted."""
        by_term = self._scored(images)
        if by_term.ndim == 2:  # else a weight that breaks its contract, which is said later
            self._by_term.append(by_term.detach().float())
        return by_term.sum(dim=0)

    def __call__(self, denoised: Tensor) -> Tensor:
        """log w [B] of model-space latents.

        Raises:
            WeightError: the weight failed.
            torch.cuda.OutOfMemoryError: the decoder does not fit, not even for one image.
        """
        self._back_on_device(denoised.shape)
        latents = without_frame(self.decoder.own_latents(denoised.float()))
        rows = self._rows(latents, gradient=False)
        values = self._try_values(latents, rows)
        if values is None and rows > 1:
            _give_way(rows)
            values = self._try_values(latents, 1)
        if values is None:
            raise self._no_room(latents, gradient=False)
        return values.to(denoised.device)

    def _try_values(self, latents: Tensor, rows: int) -> Tensor | None:
        """log w, or None where memory ran out."""

        def attempt() -> Tensor:
            parts = latents.split(rows)
            return torch.cat([self._scored(self.images(part)).sum(dim=0) for part in parts])

        return unless_out_of_memory(attempt)

    def value_and_grad(self, denoised: Tensor) -> tuple[Tensor, Tensor]:
        """(log w [B], gradient like ``denoised``), float32, on its device.

        Raises:
            WeightError: the weight's shape is wrong, it has no gradient, or it failed.
            torch.cuda.OutOfMemoryError: the decoder's backward does not fit, not even one image
                at a time.
        """
        self._back_on_device(denoised.shape)
        # own_latents is affine, so its derivative is a difference, taken without autograd: some
        # formats keep constants that autograd would refuse.
        zero = torch.zeros_like(denoised, dtype=torch.float32)
        slope = self.decoder.own_latents(zero + 1) - self.decoder.own_latents(zero)
        latents = without_frame(self.decoder.own_latents(denoised.float()))
        log_w, grad = self._as_memory_allows(latents)
        self.terms = dict(zip(self.weight.labels, torch.cat(self._by_term, dim=1), strict=True))
        return log_w.to(denoised.device), grad.to(denoised.device).reshape(slope.shape) * slope

    def decoded_size(self, latent_shape: Sequence[int]) -> tuple[int, int]:
        """Height and width in pixels of what the weight sees."""
        cell = self.decoder.cell
        height, width = shrunk_size(*latent_shape[-2:], cell, self.side)
        return height * cell, width * cell

    def bytes_per_image(
        self, latent_shape: Sequence[int], gradient: bool = True, sparing: bool = True
    ) -> float:
        """Memory for one image through decoder and weight.

        Args:
            latent_shape: of the latents.
            gradient: whether its gradient is taken, or log w alone.
            sparing: whether large networks of the weight recompute their layers.
        """
        decoder = self.decoder.bytes_per_image(*self.decoded_cells(latent_shape), gradient)
        if not gradient:
            return decoder
        return max(decoder, HELD * decoder + layers_bytes(self.weight.modules, not sparing))

    def decoded_cells(self, latent_shape: Sequence[int]) -> tuple[int, int]:
        """Height and width of the latents that are decoded: of the part that the weight sees."""
        size = shrunk_size(*latent_shape[-2:], self.decoder.cell, self.side)
        top, bottom, left, right = self._part(*size)
        return bottom - top, right - left

    def _back_on_device(self, shape: torch.Size) -> None:
        """Load what was moved off since: by another node between two steps, or for lack of room."""
        ours = patchers_of([*self.weight.modules, *self.decoder.modules])
        if self.load is not None and not are_loaded([*self.decoder.patchers, *ours]):
            self.load(self, shape)

    def _rows(self, latents: Tensor, gradient: bool) -> int:
        """How many images fit at once; at least 1."""
        device = self.decoder.device
        # Newer ComfyUI counts what dynamic VRAM can give back, in the patcher's own answer.
        asked = [p for p in self.decoder.patchers if hasattr(p, "get_free_memory")]
        free = [mm.get_free_memory(device), *(p.get_free_memory(device) for p in asked)]
        needed = max(1.0, self.bytes_per_image(latents.shape, gradient))
        return int(min(max(1, max(free) // needed), latents.shape[0]))

    def _as_memory_allows(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """All images at once where they fit; else sparingly; on failure once more, one by one."""
        count = latents.shape[0]
        free = mm.get_free_memory(self.decoder.device)
        needed = self.bytes_per_image(latents.shape, sparing=False)
        all_fit = count * needed <= free
        rows = count if all_fit else self._rows(latents, gradient=True)
        done = self._try_in_parts(latents, rows, sparing=not all_fit)
        if done is None and (rows > 1 or all_fit):
            _give_way(rows)
            done = self._try_in_parts(latents, 1, sparing=True)
        if done is None:
            raise self._no_room(latents, gradient=True)
        return done

    def _no_room(self, latents: Tensor, gradient: bool) -> torch.cuda.OutOfMemoryError:
        """ComfyUI's own kind of error, so that it unloads its models as for any other node."""
        needed = self.bytes_per_image(latents.shape, gradient) / GIGABYTE
        free = mm.get_free_memory(self.decoder.device) / GIGABYTE
        what = "its gradient" if gradient else "its value"
        return torch.cuda.OutOfMemoryError(
            f"There is not enough memory for weight '{self.name}' of one image: {what} "
            f"through {self.decoder.name} alone needs about {needed:.2f} GB, and {free:.2f} GB are "
            "free. Choose the decoder taesd or a decode size of 512 in LAGS Options, make the "
            "image smaller, or close other programs on the GPU."
        )

    def _try_in_parts(
        self, latents: Tensor, rows: int, sparing: bool
    ) -> tuple[Tensor, Tensor] | None:
        """(log_w, gradient), or None where memory ran out."""
        self._by_term = []

        def attempt() -> tuple[Tensor, Tensor]:
            with self.decoder.differentiable(), layers_kept(not sparing):
                parts = [self._value_and_grad(part) for part in latents.split(rows)]
            log_w, gradient = (torch.cat(whole) for whole in zip(*parts, strict=True))
            return log_w, gradient

        return unless_out_of_memory(attempt)

    def _value_and_grad(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = latents.detach().clone().requires_grad_()
            images = self._images(leaf)
            try:
                with _failing_as(self.name):
                    log_w, grad = self.on_images.value_and_grad(images)
            except WeightError:  # it may have been given what it could not take
                check_decoded(self.decoder, "an image", images.detach(), latents)
                raise
            # The gradient of one pixel is tiny, and a decoder of half precision would lose it.
            gradient = scaled_vjp(images, leaf, grad)
            check_decoded(self.decoder, "an image", images, latents)
            check_decoded(self.decoder, "a gradient", gradient, latents, of=grad)
            return log_w, gradient


@contextmanager
def _failing_as(name: str) -> Iterator[None]:
    """Say of an error of whatever kind that it came out of this weight.

    Raises:
        WeightError: the weight failed; with the traceback of its own error.
    """
    try:
        yield
    except (WeightError, mm.InterruptProcessingException):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise WeightError(
            f"Weight '{name}' failed with {type(error).__name__}: {error}. The fault lies in the "
            "weight function or its file, not in the model: leave it out, or ask its authors."
        ).with_traceback(error.__traceback__) from error


def _give_way(rows: int) -> None:
    """Free what a failed attempt held: only once it is left is its memory no longer in use."""
    how = "one at a time" if rows > 1 else "once more, keeping less of it"
    logging.warning(
        "LAGS: not enough memory for the weight of %d images at once; trying %s.", rows, how
    )
    mm.soft_empty_cache()


class MaskedLogWeight:
    """A log-weight that moves only a part of the image.

    Args:
        inner: log w on whole images.
        mask: [B or 1, 1, h, w], 1 where the image may move.
        kept: [B, C, h, w], model space: what inner sees outside of the mask; None for what is
            there.
    """

    def __init__(self, inner: LogWeight, mask: Tensor, kept: Tensor | None = None) -> None:
        self.inner, self.mask, self.kept = inner, mask, kept
        self.name = inner.name

    def _blend(self, denoised: Tensor) -> Tensor:
        if self.kept is None:
            return denoised
        return denoised * self.mask + self.kept * (1 - self.mask)

    def __call__(self, denoised: Tensor) -> Tensor:
        """log w [B] of the blended images."""
        return self.inner(self._blend(denoised))

    def value_and_grad(self, denoised: Tensor) -> tuple[Tensor, Tensor]:
        """(log w [B], gradient), the gradient 0 outside of the mask."""
        log_w, grad = self.inner.value_and_grad(self._blend(denoised))
        return log_w, grad * self.mask
