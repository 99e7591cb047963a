"""Bad input, refused before sampling starts, in words that say what to do."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..rewards import Weight

COMMAS = str.maketrans("，、；", ",,,")  # noqa: RUF001 - full width, and for lists
MOST_LEVELS = 1_000_000  # that 10000 steps at denoise 0.01 come from
NO_VAE = "This VAE is empty: the checkpoint has none. Load one with Load VAE and connect it."


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
    """Refuse a VAE that cannot decode the model's latents.

    Raises:
        ValueError: no VAE, a video or audio VAE, or another number of channels or scale.
    """
    if vae is None or getattr(vae, "first_stage_model", None) is None:
        raise ValueError(NO_VAE)
    latent = model.get_model_object("latent_format")
    if vae.latent_dim != 2 or getattr(latent, "latent_dimensions", 2) != 2:
        raise ValueError(
            "LAGS guides still images; this model or VAE is for video or audio "
            f"(latent dimensions: model {getattr(latent, 'latent_dimensions', 2)}, "
            f"VAE {vae.latent_dim}; expected 2)."
        )
    if vae.latent_channels != latent.latent_channels:
        raise ValueError(
            f"The VAE decodes {vae.latent_channels} latent channels and the model makes "
            f"{latent.latent_channels}: they are of different families. Connect the VAE that "
            "belongs to the model, for example the third output of Load Checkpoint."
        )
    scale = getattr(latent, "spacial_downscale_ratio", None)
    if scale is not None and scale != vae.spacial_compression_decode():
        raise ValueError(
            f"The VAE enlarges {vae.spacial_compression_decode()}x and the model expects {scale}x: "
            "connect the VAE that belongs to the model."
        )


def check_latent(samples: Tensor) -> None:
    """Refuse latents that are not a batch of still images.

    Raises:
        ValueError: video, packed or empty latents.
    """
    if getattr(samples, "is_nested", False) or samples.ndim != 4:
        shape = "nested" if getattr(samples, "is_nested", False) else tuple(samples.shape)
        raise ValueError(
            f"Latents have shape {shape}; LAGS expects [batch, channels, height, width]: still "
            "images, not video or packed latents."
        )
    if samples.shape[0] == 0:
        raise ValueError("The latent batch is empty; expected at least one image.")


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


def check_mask(latent: dict[str, Any]) -> None:
    """Refuse a noise mask that does not belong to the latents: ComfyUI would stretch it silently.

    Raises:
        ValueError: another aspect ratio than the latents, or a batch that is neither 1 nor theirs.
    """
    mask, samples = latent.get("noise_mask"), latent["samples"]
    if mask is None:
        return
    height, width = samples.shape[-2:]
    mask_height, mask_width = mask.shape[-2:]
    # A mask comes at the size of the image or of the latents; rounding to latent cells may cost
    # up to one cell on a side.
    drift = abs(mask_height / height - mask_width / width) / (mask_height / height)
    if drift > 1 / min(height, width) + 1e-6:
        raise ValueError(
            f"The mask is {mask_width}x{mask_height} and the latents are {width}x{height}: another "
            "shape. Make the mask from the image that was encoded, or resize it to match."
        )
    count = mask.reshape(-1, mask_height, mask_width).shape[0]
    if count not in (1, samples.shape[0]):
        raise ValueError(
            f"There are {count} masks for {samples.shape[0]} images; expected 1 or as many as "
            "images."
        )


def without_gradient(weight: Weight) -> str:
    """The factors of a weight that no gradient can be taken of, for messages."""
    return ", ".join(term.reward.name for term in weight.terms if not term.reward.differentiable)


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
