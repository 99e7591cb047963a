"""Reading weight files: never a pickle, never half a model, never NaN."""

from __future__ import annotations

import fnmatch
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

Weights = dict[str, Tensor]
TORCH_FILES = {".pt", ".pth", ".bin", ".ckpt"}
BESIDE = {".json", ".txt", ".model"}  # configurations, processors, tokenizers
# A large model's parts: name, number, how many, suffix.
SHARD = re.compile(r"^(.*)-(\d{5})-of-(\d{5})(\.\w+)$")
WRAPPERS = ("state_dict", "model", "module")  # what published files wrap their weights in


class CheckpointError(ValueError):
    """A weight file cannot be used; the message says which, why, and what to do."""


def read_weights(path: Path) -> Weights:
    """All tensors of a file, on the CPU, mapped from the disk where its format allows.

    Raises:
        CheckpointError: no such file, an unknown kind, damaged, or holding more than tensors.
    """
    weights: Weights = {}
    for part in parts_of(path):
        weights |= _read_safetensors(part) if _is_safetensors(part) else _read_torch(part)
    return weights


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a file, without its numbers.

    Raises:
        CheckpointError: as for ``read_weights``.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for part in parts_of(path):
        if _is_safetensors(part):
            shapes |= _read_safetensors(part, _header)
        else:
            shapes |= {key: tuple(value.shape) for key, value in _read_torch(part).items()}
    return shapes


def parts_of(path: Path) -> list[Path]:
    """The files of a model that is stored in several, of which any may be named; or the one.

    Raises:
        CheckpointError: one of them is not there, empty, or of an unknown kind.
    """
    found, parts = SHARD.search(path.name), [path]
    if found:
        begin, _, count, suffix = found.groups()
        names = (f"{begin}-{i:05}-of-{count}{suffix}" for i in range(1, int(count) + 1))
        parts = [path.with_name(name) for name in names]
    for part in parts:
        if not part.is_file():
            more = f" The model has {len(parts)} parts." if found else ""
            raise CheckpointError(
                f"There is no file {part}: choose one that is there, or download it.{more}"
            )
        if part.stat().st_size == 0:
            raise CheckpointError(f"{part} is empty (0 bytes): download it again.")
    if not _is_safetensors(path) and path.suffix.lower() not in TORCH_FILES:
        raise CheckpointError(
            f"{path} is a {path.suffix or 'nameless'} file; expected .safetensors, or .pt / .pth / "
            ".bin with nothing but tensors."
        )
    return parts


def signature(path: Path) -> tuple[tuple[str, int, int], ...]:
    """What tells that a model on disk has changed: its parts, and what is read beside it.

    Raises:
        CheckpointError: as for ``parts_of``.
    """
    near = (file for file in path.parent.iterdir() if file.suffix.lower() in BESIDE)
    beside = [file for file in near if file.is_file()]
    states = ((file.name, file.stat()) for file in (*parts_of(path), *sorted(beside)))
    return tuple((name, state.st_mtime_ns, state.st_size) for name, state in states)


def _is_safetensors(path: Path) -> bool:
    return path.suffix.lower() in (".safetensors", ".sft")


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(path, "pt") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


def _read_safetensors(path: Path, read: Callable[[Path], Any] = load_file) -> Any:
    try:
        return read(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({error}): download it again."
        ) from error


def _read_torch(path: Path) -> Weights:
    if _is_program(path):
        raise CheckpointError(
            f"{path} is a TorchScript program, as OpenAI publishes its CLIPs; expected tensors. "
            "Programs are not run: get the file of the same model for transformers, a "
            ".safetensors."
        )
    try:
        mapped = zipfile.is_zipfile(path)  # torch's format since 1.6; older ones must be read whole
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged archive fails in many ways; all mean the same here
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors, which is not loaded because it could "
            "run code. Get the file from its authors' page, or a .safetensors version of it."
        ) from error
    for name in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected named tensors.")
    named = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    strays = [str(key) for key in content if key not in named]
    if strays or not content:
        raise CheckpointError(
            f"{path} holds {_listed(strays) if strays else 'nothing'} beside or instead of "
            "tensors; expected named tensors only."
        )
    return named


def _is_program(path: Path) -> bool:
    """Whether a file is what torch.jit saves."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # no archive, or a damaged one: who reads it says so
        return False


def check_finite(weights: Weights, path: Path) -> None:
    """Refuse weights that would end as black images.

    Raises:
        CheckpointError: a value is NaN or infinite.
    """
    bad = [key for key, value in weights.items() if not _is_finite(value)]
    if bad:
        raise CheckpointError(
            f"{path} has values that are not finite in {_listed(bad)}: the file is damaged or was "
            "saved in too low a precision. Download it again."
        )


def _is_finite(value: Tensor) -> bool:
    if value.is_floating_point() and value.itemsize == 1:
        value = value.float()  # torch cannot ask 8-bit floats
    return bool(torch.isfinite(value).all())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; {} where there is no such file.

    Raises:
        CheckpointError: the file holds something else.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON ({error}): download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a JSON object.")
    return content


def without(weights: Weights, patterns: Sequence[str]) -> Weights:
    """The weights whose keys match none of the shell patterns."""
    surplus = {k for k in weights for pattern in patterns if fnmatch.fnmatchcase(k, pattern)}
    return {key: value for key, value in weights.items() if key not in surplus}


def below(weights: Weights, prefix: str) -> Weights:
    """The weights under a prefix, without it."""
    return {key[len(prefix) :]: v for key, v in weights.items() if key.startswith(prefix)}


def count_below(weights: Weights, prefix: str) -> int:
    """How many parts stand under a prefix: layers, where it ends before their numbers."""
    return len({key.split(".")[0] for key in below(weights, prefix)})


def shape_of(weights: Weights, key: str, dimensions: int, path: Path) -> torch.Size:
    """The shape of a weight that tells the model's sizes.

    Raises:
        CheckpointError: it is not there, or has another number of dimensions.
    """
    if key not in weights:
        refuse_misfits(path, [key], [])
    shape = weights[key].shape
    if len(shape) != dimensions:
        refuse_misfits(path, [], [], [f"{key} is {tuple(shape)}"])
    return shape


def vision_shapes(
    weights: Weights, patch: str, positions: str, dimensions: int, path: Path, tokens: int = 1
) -> dict[str, int]:
    """What the weights of a vision transformer tell of it, in transformers' words.

    Args:
        weights: of the network.
        patch: key of the convolution that embeds patches.
        positions: key of the embedding of places.
        dimensions: that the embedding of places has.
        path: the file, for errors.
        tokens: how many of the places are no patch's: the class token's.

    Raises:
        CheckpointError: one of the two is not there, or has another number of dimensions.
    """
    width, _, _, side = shape_of(weights, patch, 4, path)
    places = shape_of(weights, positions, dimensions, path)[-2]
    size = math.isqrt(places - tokens) * side
    return {"hidden_size": width, "patch_size": side, "image_size": size}


def fill(module: nn.Module, weights: Weights, path: Path, dtype: torch.dtype) -> None:
    """Put weights into a module whose parameters may be on the meta device; all, and no others.

    Floating-point weights take the given dtype. Nothing is trained here, so no parameter asks for
    a gradient.

    Raises:
        CheckpointError: keys are missing or surplus, a shape differs, or a value is not finite.
    """
    own = module.state_dict()
    shapes = [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(own[key].shape)}"
        for key in sorted(own.keys() & weights.keys())
        if own[key].shape != weights[key].shape
    ]
    shapes += of_other_types(own, weights)
    refuse_misfits(path, own.keys() - weights.keys(), weights.keys() - own.keys(), shapes)
    check_finite(weights, path)
    copies = {
        key: value.to(dtype, copy=True) if value.is_floating_point() else value.clone()
        for key, value in weights.items()
    }
    module.load_state_dict(copies, assign=True)
    module.requires_grad_(False).eval()


def of_other_types(own: Mapping[str, Tensor], weights: Weights) -> list[str]:
    """Weights of no fractions where the module computes with fractions, as quantised ones are."""
    return [
        f"{key} is {str(weights[key].dtype).removeprefix('torch.')}"
        for key in sorted(own.keys() & weights.keys())
        if own[key].is_floating_point() and not weights[key].is_floating_point()
    ]


def refuse_misfits(
    path: Path, missing: Iterable[str], surplus: Iterable[str], shapes: Iterable[str] = ()
) -> None:
    """Refuse weights that are not exactly the module's.

    Raises:
        CheckpointError: any of the three names something; the message lists it.
    """
    kinds = {"missing": missing, "surplus": surplus, "of other shapes or types": shapes}
    faults = [f"{kind}: {_listed(sorted(names))}" for kind, names in kinds.items() if names]
    if faults:
        raise CheckpointError(
            f"{path} does not hold this model. Keys {'; '.join(faults)}. Choose the file that "
            "belongs to the model, or download it again."
        )


def _listed(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
