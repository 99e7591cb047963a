"""Which model files there are, and where: registered folders only, nothing is downloaded."""

from __future__ import annotations

import fnmatch
import logging
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import comfy.sd1_clip
import folder_paths

from ..rewards.base import Published

FOLDER = "weight_functions"
BUNDLED = "lags_demo"  # ComfyUI's name for the folder of weights that come with the pack
SUFFIXES = (".safetensors", ".sft", ".pt", ".pth", ".bin")
AUTO = "auto"  # the published file, by its usual names


class ModelFileError(ValueError):
    """A model file is missing or may not be read; the message says what to do."""


def register_folder() -> None:
    """Make models/weight_functions known to ComfyUI; extra_model_paths.yaml may add others.

    And, under a name of its own, what comes with the pack.
    """
    bundled = Path(__file__).resolve().parents[1] / "demo" / "weight_functions"
    folder_paths.add_model_folder_path(BUNDLED, str(bundled))
    folder = os.path.join(folder_paths.models_dir, FOLDER)
    folder_paths.add_model_folder_path(FOLDER, folder)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:  # a read-only installation: the yaml file can still name a folder
        logging.warning("LAGS: %s could not be made (%s).", folder, error)


@dataclass(frozen=True)
class ModelFile:
    """A file that a weight needs.

    Attributes:
        what: in words, for errors.
        published: where it comes from; None where any model of a kind will do.
        patterns: shell patterns of its usual names, in lower case, best first.
        folders: ComfyUI's folders to look into beside weight_functions.
    """

    what: str
    published: Published | None = None
    patterns: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    def choices(self) -> list[str]:
        """What the widget offers: names below weight_functions, others with their folder's name."""
        names = _names(FOLDER)
        for folder in self.folders:
            names += [f"{folder}/{name}" for name in _names(folder)]
        return [AUTO, *names] if self.patterns else names or [AUTO]

    def path(self, choice: str) -> Path:
        """The file of a choice.

        Raises:
            ModelFileError: it is not there, or lies outside of the registered folders.
        """
        name = self._usual() if choice == AUTO else choice
        if name is None:
            raise ModelFileError(self._missing(""))
        first, _, rest = name.partition("/")
        borrowed = [(first, rest)] if first in self.folders else []
        for folder, inner in (*borrowed, (FOLDER, name)):
            path = _inside(folder, inner)
            if path is not None:
                return path
        raise ModelFileError(self._missing(name))

    def _usual(self) -> str | None:
        own = f"{BUNDLED}/"  # a small model of ours never stands for a published one
        names = [name for name in self.choices()[1:] if not name.startswith(own)]
        for pattern in self.patterns:
            for name in names:
                if fnmatch.fnmatchcase(name.lower(), pattern):
                    return name
        return None

    def _missing(self, name: str) -> str:
        place = ", ".join(folder_paths.get_folder_paths(FOLDER))
        asked = f"There is no file {name!r} for" if name else "No file was found for"
        if self.published is None:
            return (
                f"{asked} {self.what} in {place}. Put the folder of a model's page there (its "
                "config.json and model.safetensors), then press R to refresh and choose it."
            )
        source = self.published
        return (
            f"{asked} {self.what}. Download {PurePosixPath(source.file).name} "
            f"({source.gigabytes:g} GB) from {source.page} and save it as {source.file} in {place}."
        )


def tokenizer_folder() -> Path:
    """ComfyUI's own CLIP tokenizer."""
    return Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"


def _names(folder: str) -> list[str]:
    """Weight files below a registered folder, with forward slashes."""
    if folder not in folder_paths.folder_names_and_paths:
        return []
    found = (name.replace("\\", "/") for name in folder_paths.get_filename_list(folder))
    return sorted(name for name in found if name.lower().endswith(SUFFIXES))


def _inside(folder: str, name: str) -> Path | None:
    """A file below a registered folder; None where there is none.

    Raises:
        ModelFileError: the name leads out of all registered folders, by itself or by a link.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or Path(name).drive:
        raise ModelFileError(
            f"The file name {name!r} leads out of the folder {folder}; expected a name below it."
        )
    for root in folder_paths.get_folder_paths(folder):
        path = Path(root) / parts
        if path.is_file():
            return _checked(path)
    return None


def _checked(path: Path) -> Path:
    """The path, unless a link leads out of every registered folder."""
    roots = [root for paths, _ in folder_paths.folder_names_and_paths.values() for root in paths]
    target = path.resolve()
    if not any(target.is_relative_to(Path(root).resolve()) for root in roots):
        raise ModelFileError(
            f"{path} is a link to {target}, outside of ComfyUI's model folders. Move the file, or "
            "name its folder in extra_model_paths.yaml."
        )
    return path
