"""The image processor that lies beside a model, as transformers reads it, in differentiable torch.

A processor's settings mean what its class makes of them, and the class differs by model and by
release. So the installed transformers reads the file, defaults included, its attributes are put
into a ``Preprocessing``, and the two are compared on images: what differs is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .checkpoint import CheckpointError, read_json
from .preprocessing import Preprocessing

FILE, NESTED = "preprocessor_config.json", "processor_config.json"
INTERPOLATIONS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
SHAPES = ((150, 211), (211, 150))  # of the images on which the two are compared
# Grey levels between the two, on average: rounding to 8 bits after the rows and after the columns
# makes 0.3, a crop that is one pixel beside makes 2.5.
MOST_LEVELS = 1.0
LARGEST = 4096  # pixels; what a file may ask for before anything is resized to it
INSTEAD = "Choose another model, for example a ViT, ConvNeXt, Swin, CLIP or DINOv2."


def read_settings(folder: Path) -> dict[str, Any]:
    """What a folder says of its image processor, in either of transformers' layouts; else {}."""
    nested = read_json(folder / NESTED).get("image_processor")
    return read_json(folder / FILE) or (nested if isinstance(nested, dict) else {})


def preprocessing_beside(path: Path, model_type: str) -> Preprocessing:
    """What the processor in a model's folder does to images.

    Args:
        path: the weights; without a processor's file beside them, the defaults of the class that
            belongs to the model are taken, and that is said.
        model_type: as config.json names it.

    Raises:
        CheckpointError: there is no such processor, or it does what this pack cannot do.
    """
    settings = read_settings(path.parent)
    if not settings:
        logging.warning(
            "LAGS: there is no %s beside %s: images are prepared by the defaults that transformers "
            "has for %s. Add the file of the model's page if it has one.",
            *(FILE, path, model_type),
        )
    try:
        return from_settings(settings, model_type)
    except ValueError as error:
        raise CheckpointError(f"{path.parent / FILE if settings else path}: {error}") from error


def from_settings(settings: Mapping[str, Any], model_type: str) -> Preprocessing:
    """What a processor with these settings does to images.

    Args:
        settings: the content of a preprocessor_config.json; what it lacks is its class's default.
        model_type: whose class is taken where the settings name none.

    Raises:
        ValueError: no such class, or it does something that no ``Preprocessing`` does.
    """
    name = _class_name(settings, model_type)
    images = [_waves(*shape) for shape in SHAPES]
    try:
        processor = _class(name).from_dict(dict(settings))
        size = _sides(processor)
        theirs = [processor(images=image, return_tensors="pt") for image in images]
    except Exception as error:  # what wrong settings raise, differs by class and release
        raise ValueError(
            f"The installed transformers prepares no image by {name} with these settings "
            f"({shorten(f'{type(error).__name__}: {error}', 200)})."
        ) from error
    look = _described(processor, size, [_pixels(outputs, name) for outputs in theirs], name)
    levels = max(map(partial(_levels_apart, look), images, theirs))
    if not levels < MOST_LEVELS:
        raise ValueError(
            f"The model's images are prepared by {name}, which follows rules of its own: ours "
            f"would be {levels:.3g} grey levels off. {INSTEAD}"
        )
    return look


def _class_name(settings: Mapping[str, Any], model_type: str) -> str:
    """The class's name without the endings that tell its variants apart."""
    name = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    if not name:
        from transformers.models.auto import image_processing_auto as auto

        kinds = auto.IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type)
        kinds = kinds.values() if isinstance(kinds, Mapping) else kinds or ()
        name = next(filter(None, kinds), None)
    if not name:
        raise ValueError(
            f"transformers has no image processor of its own for {model_type!r}: put {FILE} of "
            "the model's page beside its weights."
        )
    name = str(name).replace("FeatureExtractor", "ImageProcessor")
    return name.removesuffix("Fast").removesuffix("Pil")


def _class(name: str) -> Any:
    """The variant that works on Pillow's images, where there is one: the one that was published."""
    import transformers

    kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name, None)
    if not name.endswith("ImageProcessor") or not hasattr(kind, "from_dict"):
        raise ValueError("there is no such class")
    return kind


def _sides(processor: Any) -> dict[str, int]:
    """What a processor resizes to, without the entries that are not set."""
    for name in ("crop_size", "size"):
        sides = getattr(processor, name, None) or {}
        sides = {"side": sides} if isinstance(sides, int) else sides
        entries = sides if isinstance(sides, Mapping) else vars(sides)
        found = {key: int(value) for key, value in entries.items() if value is not None}
        if max(found.values(), default=0) > LARGEST:
            raise ValueError(f"{name} is {found}, above {LARGEST} pixels")
    return found


def _pixels(outputs: Any, name: str) -> Tensor:
    pixels: Tensor | None = outputs.get("pixel_values")
    if pixels is None or pixels.ndim != 4:
        raise ValueError(f"{name} does not make one image of an image. {INSTEAD}")
    return pixels


def _described(
    processor: Any, size: Mapping[str, int], made: Sequence[Tensor], name: str
) -> Preprocessing:
    """The Preprocessing with a processor's attributes.

    Args:
        processor: of transformers.
        size: what it resizes to.
        made: the pixels that it makes of images of ``SHAPES``.
        name: its class, for errors.
    """
    shapes = {tuple(pixels.shape[-2:]) for pixels in made}
    if len(shapes) > 1 or len(set(*shapes)) > 1:
        found = " or ".join(f"{height} x {width}" for height, width in sorted(shapes))
        raise ValueError(
            f"{name} makes images of {found} pixels with these settings; expected the same square "
            "of every image: do_resize true, a square size, and a square crop_size with "
            "do_center_crop true where the size is that of the short side."
        )
    if set(size) not in ({"shortest_edge"}, {"height", "width"}):
        raise ValueError(
            f"{name} resizes to {size}; expected 'shortest_edge', or 'height' and 'width'."
        )
    edge, side = size.get("shortest_edge", size.get("height", 0)), made[0].shape[-1]
    # Resample is Pillow's number.
    number, share = getattr(processor, "resample", None), getattr(processor, "crop_pct", None)
    if number not in INTERPOLATIONS:
        raise ValueError(
            f"{name} has resample {number}; expected 2 (bilinear) or 3 (bicubic). {INSTEAD}"
        )
    whole = "height" in size
    if share:  # ConvNeXt and PoolFormer: made larger, and cropped; a large ConvNeXt is not
        whole = not getattr(processor, "crop_size", None) and edge >= 384
        edge = edge if whole else int(edge / share)
    return Preprocessing(
        size=side,
        fit="squash" if whole else "crop",
        short_side=edge,
        interpolation=INTERPOLATIONS[number],
        crop_rounds_down=True,
        **_normalisation(processor),
    )


def _normalisation(processor: Any) -> dict[str, Any]:
    """Mean and std of images in 0..1, with the factor on 8-bit images in them."""
    scale = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    found = {"mean": 0.0, "std": 1.0}
    if getattr(processor, "do_normalize", False):
        found = {"mean": processor.image_mean, "std": processor.image_std}
    values = {key: v if isinstance(v, list | tuple) else (v,) * 3 for key, v in found.items()}
    return {key: tuple(float(part) / scale for part in value) for key, value in values.items()}


def _levels_apart(look: Preprocessing, image: Any, outputs: Any) -> float:
    """Mean difference of a Preprocessing to a processor's outputs, in grey levels."""
    ours = look(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    std = torch.tensor(look.std).view(3, 1, 1)
    return 255 * float(((ours - outputs["pixel_values"]) * std).abs().mean())


def _waves(height: int, width: int) -> Any:
    """A smooth 8-bit image, another in each channel, none of whose pixels is black or white."""
    rows, columns = np.linspace(0, 7, height)[:, None, None], np.linspace(0, 9, width)[:, None]
    waves = np.sin(rows + 2 * columns + np.arange(3)) * np.cos(3 * rows - np.arange(3))
    return np.uint8(np.round(127.5 + 115 * waves))
