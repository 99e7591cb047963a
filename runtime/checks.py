"""Bad input, refused before sampling starts, in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..rewards import Weight

COMMAS = str.maketrans("，、；", ",,,")  # noqa: RUF001 - full width, and for lists
MOST_LEVELS = 1_000_000  # that 10000 steps at denoise 0.01 come from
IMAGES = {2, 3}  # dimensions of an image's latents: height and width, and one frame
# What a decoder enlarges by, where ComfyUI's format says another number: the x4 upscaler's, and the
# previewer of Stable Cascade's first stage.
ENLARGED = {"SD_X4": 4, "SC_Prior": 8}
NO_VAE = "This VAE is empty: the checkpoint has none. Load one with Load VAE and connect it."


@contextmanager
def seed_in_words(seed: int) -> Iterator[None]:
    """Around ComfyUI's sampling: say it in words where its noise cannot take a seed.

    On a CPU samplers that draw noise count one further, which the greatest seed leaves no room for.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if "Overflow when unpacking" not in str(error):
            raise
        raise ValueError(
            f"seed is {seed}, and on a CPU this sampler counts one further, which is more than "
            "torch takes: choose a smaller seed."
        ) from error


# What a socket without a link has in a node's validate_inputs; one with a link has None there.
UNCONNECTED: Any = object()


def check_one_connected(message: str, *sockets: Any) -> bool:
    """For validate_inputs, where one of some optional sockets has to be connected.

    ComfyUI says the error at the node, and queues all outputs that do not need the node. It would
    lose a message that is returned, where no input is checked.

    Raises:
        ValueError: none of them is, with this message.
    """
    if all(socket is UNCONNECTED for socket in sockets):
        raise ValueError(message)
    return True


def check_connected(**sockets: Any) -> None:
    """Refuse what a prompt has written into a socket: ComfyUI hands any value of JSON on.

    Args:
        sockets: by name, what came in; see `filled` for those that may stay empty.

    Raises:
        ValueError: a value that no output of a node is.
    """
    for name, value in sockets.items():
        if name == "vae" and value is None:
            raise ValueError(NO_VAE)  # what a checkpoint without one puts out
        if _is_written(value):
            raise ValueError(
                f"Input {name} is {repr(value)[:80]}; expected what another node puts out: "
                f"connect {name}."
            )


def check_chosen(name: str, chosen: Any) -> None:
    """Refuse what is no choice of a node's list; older ComfyUIs hand a wrong link's None on.

    Raises:
        ValueError: not one of them with its widgets.
    """
    if not isinstance(chosen, dict) or not isinstance(chosen.get(name), str):
        raise ValueError(
            f"Input {name} is {repr(chosen)[:80]}; expected a choice of the node's own list. "
            "Choose there; nothing can be connected to it."
        )


def filled(**sockets: Any) -> dict[str, Any]:
    """The optional sockets that hold anything."""
    return {name: value for name, value in sockets.items() if value is not None}


def _is_written(value: Any) -> bool:
    """Whether a value is plain JSON; latents and conditionings are dicts and lists of tensors."""
    if isinstance(value, dict):
        return all(_is_written(item) for item in value.values())
    if isinstance(value, list):
        return all(_is_written(item) for item in value)
    return value is None or isinstance(value, (str, int, float))


def check_vae(vae: Any, model: Any) -> None:
    """Refuse a VAE that cannot decode the model's latents into images.

    Raises:
        ValueError: no VAE, one for sound, or another number of channels, dimensions or scale.
    """
    if vae is None or getattr(vae, "first_stage_model", None) is None:
        raise ValueError(NO_VAE)
    latent = model.get_model_object("latent_format")
    dimensions, name = dimensions_of(latent), type(latent).__name__
    if not {dimensions, vae.latent_dim} <= IMAGES:
        raise ValueError(
            "LAGS guides still images; this model or VAE is for audio or 3-D shapes "
            f"(latent dimensions: model {dimensions}, VAE {vae.latent_dim}; expected 2, or 3 for "
            "images in a video's shape)."
        )
    check_colours(getattr(vae, "output_channels", 3))
    if not _keeps_shape(latent):
        raise ValueError(
            f"The latents of this model ({name}) are rearranged before its VAE decodes them, "
            "which LAGS cannot follow: guide the model that runs before it."
        )
    if vae.latent_channels != latent.latent_channels:
        raise ValueError(
            f"The VAE decodes {vae.latent_channels} latent channels and the model makes "
            f"{latent.latent_channels}: they are of different families. Connect the VAE that "
            "belongs to the model, for example the third output of Load Checkpoint."
        )
    if vae.latent_dim > dimensions:
        raise ValueError(
            "The VAE decodes latents in a video's shape and the model makes plain ones: they are "
            "of different families. Connect the VAE that belongs to the model."
        )
    scale = ENLARGED.get(name, getattr(latent, "spacial_downscale_ratio", None))
    if scale is not None and scale != vae.spacial_compression_decode():
        raise ValueError(
            f"The VAE enlarges {vae.spacial_compression_decode()}x and the model expects {scale}x: "
            "connect the VAE that belongs to the model."
        )


def check_colours(channels: int) -> None:
    """Refuse what a VAE gives if it is no image: it has three colours, or these and alpha.

    Raises:
        ValueError: another number of channels.
    """
    if channels not in (3, 4):
        raise ValueError(
            f"The VAE decodes to {channels} channels; expected an image's 3 (red, green, blue), or "
            "4 with alpha. Connect a VAE for images."
        )


def dimensions_of(latent_format: Any) -> int:
    """How many dimensions latents have beside batch and channels: 2, or 3 in a video's shape."""
    return int(getattr(latent_format, "latent_dimensions", 2))


def _keeps_shape(latent_format: Any) -> bool:
    """Whether the VAE's latents are the model's, number by number."""
    shape = (1, latent_format.latent_channels, *(1,) * dimensions_of(latent_format))
    return tuple(latent_format.process_out(torch.zeros(shape)).shape) == shape


def check_latent(samples: Tensor, model: Any = None) -> None:
    """Refuse latents that are not a batch of still images; one frame of a video is one.

    Args:
        samples: [B, C, h, w], or [B, C, 1, h, w] as models in a video's shape have it.
        model: the MODEL that is to take them, where there is one.

    Raises:
        ValueError: video, packed or empty latents, or a frame that the model has no place for.
    """
    nested = getattr(samples, "is_nested", False)
    if nested or samples.ndim not in (4, 5) or (samples.ndim == 5 and samples.shape[2] != 1):
        shape = "nested" if nested else tuple(samples.shape)
        raise ValueError(
            f"Latents have shape {shape}; LAGS expects [batch, channels, height, width], or one "
            "frame, [batch, channels, 1, height, width]: still images, not video or packed "
            "latents. Where the latents are made, set the length to 1."
        )
    if samples.shape[0] == 0:
        raise ValueError("The latent batch is empty; expected at least one image.")
    if model is None:
        return
    dimensions = dimensions_of(model.get_model_object("latent_format"))
    if samples.ndim - 2 > dimensions:
        raise ValueError(
            f"Latents have shape {tuple(samples.shape)}, an image in a video's shape, and the "
            f"latents of this model have {dimensions} dimensions: make them with Empty Latent "
            "Image, or encode the image with the model's own VAE."
        )


def check_denoise(denoise: float, steps: int) -> None:
    """Refuse a part of a run that ComfyUI would take from endlessly many noise levels.

    Raises:
        ValueError: not 0 to 1, or so little that all levels are too many.
    """
    if not 0 <= denoise <= 1:
        raise ValueError(f"denoise is {denoise}; expected 0 to 1.")
    if 0 < denoise * MOST_LEVELS < steps:
        raise ValueError(
            f"denoise is {denoise:g}, which makes {steps} steps the last of more than "
            f"{MOST_LEVELS} noise levels. Raise denoise, or set it to 0."
        )


def without_gradient(weight: Weight) -> str:
    """The factors of a weight that no gradient can be taken of, for messages."""
    terms = (term for term in weight.terms if term.strength)
    return ", ".join(term.reward.name for term in terms if not term.reward.differentiable)


def with_commas(text: str) -> str:
    """A list with plain commas between its entries, as Chinese and Japanese keyboards do not."""
    return text.translate(COMMAS)


def numbers(text: str, name: str) -> list[float]:
    """'1, 2, 0.5' -> numbers; semicolons count as commas.

    Raises:
        ValueError: something else stands there.
    """
    try:
        parts = with_commas(text).replace(";", ",").split(",")
        return [float(part) for part in parts if part.strip()]
    except ValueError as error:
        raise ValueError(f"{name} are {text!r}; expected numbers separated by commas.") from error
