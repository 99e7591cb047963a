"""Which model files there are, and where: registered folders only, nothing is downloaded."""

from __future__ import annotations

import fnmatch
import functools
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import comfy.sd1_clip
import folder_paths

from ..rewards.base import Published
from ..rewards.checkpoint import SHARD, CheckpointError, read_shapes, signature
from ..rewards.layouts import Layout, Shapes, layout_of

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


# Why a file cannot serve, by its choice, path and shapes; "" where it can.
Fault = Callable[[str, Path, Shapes], str]


@dataclass(frozen=True)
class ModelFile:
    """A file that a weight needs.

    Attributes:
        what: in words, for errors.
        published: where it comes from; None where any model of a kind will do.
        patterns: shell patterns of its usual names, in lower case, best first. They are of names
            below a folder; one that begins with a borrowed folder's name is of that folder's.
        folders: ComfyUI's folders to look into beside weight_functions.
        layouts: kinds of files that can serve.
        bundled: the folder of what comes with the pack for it; only asked for by name.
    """

    what: str
    published: Published | None = None
    patterns: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    layouts: tuple[Layout, ...] = ()
    bundled: str = ""

    def choices(self) -> list[str]:
        """What the widget offers: names below weight_functions, others with their folder's name."""
        names = _names(FOLDER)
        for folder in self.folders:
            names += [f"{folder}/{name}" for name in _names(folder)]
        if self.bundled:
            found = (name for name in _names(BUNDLED) if name.startswith(f"{self.bundled}/"))
            names += [f"{BUNDLED}/{name}" for name in found]
        return [AUTO, *names] if self.patterns else names or [AUTO]

    def path(
        self, choice: str, layouts: tuple[Layout, ...] = (), fault: Fault = lambda *_: ""
    ) -> Path:
        """The file of a choice.

        Args:
            choice: of the widget.
            layouts: kinds of files that can serve this time, for auto; () is all of this weight's.
            fault: what else auto is to look at.

        Raises:
            ModelFileError: it is not there, or lies outside of the registered folders.
        """
        if choice != AUTO:
            return self._located(choice)
        return self._located(self._usual(layouts or self.layouts, fault))

    def signature(self, choice: str) -> list[Any]:
        """What tells that a choice's file has changed, or that auto may take another; JSON."""
        found: list[Any] = []
        for name in self._named() if choice == AUTO else [choice]:
            try:
                found.append([name, signature(self._located(name))])
            except (CheckpointError, ModelFileError, OSError):
                found.append([name])  # the run says what is wrong
        return found

    def _located(self, name: str) -> Path:
        first, _, rest = name.partition("/")
        known = (*self.folders, BUNDLED) if self.bundled else self.folders
        borrowed = [(first, rest)] if first in known else []
        for folder, inner in (*borrowed, (FOLDER, name)):
            path = _inside(folder, inner)
            if path is not None:
                return path
        raise ModelFileError(self._missing(name))

    def _usual(self, layouts: tuple[Layout, ...], fault: Fault) -> str:
        """The choice that auto stands for: the first usual name whose file can serve.

        A file that cannot be read is taken where none can serve: its reader says what is wrong.
        """
        fit, unread, passed = [], [], []
        for name in self._named():
            try:
                why = self._why_not(name, layouts, fault)
            except (CheckpointError, ModelFileError):
                unread.append(name)
                continue
            passed.append(f"{name} ({why})") if why else fit.append(name)
        if not fit and not unread:
            raise ModelFileError(self._missing("", passed))
        self._tell(fit or unread, passed)
        return (fit or unread)[0]

    def _why_not(self, name: str, layouts: tuple[Layout, ...], fault: Fault) -> str:
        path = self._located(name)
        shapes = _shapes(path, signature(path))
        layout = layout_of(shapes)
        if layout not in layouts:
            return layout.name if layout else "of an unknown kind"
        return fault(name, path, shapes)

    def _named(self) -> Iterator[str]:
        """Choices with a usual name, the best first."""
        own = f"{BUNDLED}/"  # a small model of ours never stands for a published one
        names = [name for name in self.choices()[1:] if not name.startswith(own)]
        named = (name for pattern in self.patterns for name in names if self._fits(name, pattern))
        return iter(dict.fromkeys(named))

    def _fits(self, name: str, pattern: str) -> bool:
        folder, _, inner = name.partition("/")
        if folder in self.folders and not pattern.startswith(f"{folder}/"):
            name = inner
        return fnmatch.fnmatchcase(SHARD.sub(r"\1\4", name).lower(), pattern)

    def _tell(self, fit: list[str], passed: list[str]) -> None:
        """Say what auto took, where there was a choice."""
        also = f" {', '.join(fit[1:])} would serve too." if fit[1:] else ""
        rest = f" Passed over: {', '.join(passed)}." if passed else ""
        if also or rest:
            logging.info(
                "LAGS: auto took %s for %s, the first of its usual names that can serve.%s%s",
                *(fit[0], self.what, also, rest),
            )

    def _missing(self, name: str, passed: list[str] | None = None) -> str:
        place = ", ".join(folder_paths.get_folder_paths(FOLDER))
        asked = f"There is no file {name!r} for" if name else "No file was found for"
        if self.published is None:
            return (
                f"{asked} {self.what} in {place}. Put the folder of a model's page there (its "
                "config.json and model.safetensors), then press R to refresh and choose it."
            )
        source = self.published
        rest = f" None of these can serve: {', '.join(passed)}." if passed else ""
        return (
            f"{asked} {self.what}.{rest} Download {PurePosixPath(source.file).name} "
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
    return sorted(name for name in found if name.lower().endswith(SUFFIXES) and _is_first(name))


def _is_first(name: str) -> bool:
    """Whether a file is not the second or a later part of a model: the first stands for all."""
    part = SHARD.search(name)
    return part is None or int(part[2]) == 1


@functools.lru_cache(maxsize=256)
def _shapes(path: Path, _: tuple[tuple[str, int, int], ...]) -> Shapes:
    return read_shapes(path)


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
        folder = target.parent
        if folder.name == "blobs":  # a Hugging Face cache: the names are links beside that folder
            folder = folder.parent
        raise ModelFileError(
            f"{path} is a link to {target}, outside of ComfyUI's model folders. Move the file, or "
            f"name the folder {folder} in extra_model_paths.yaml under {FOLDER}."
        )
    return path
