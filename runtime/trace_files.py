"""Traces as files below ComfyUI's output folder."""

from __future__ import annotations

import csv
import io
import json
import os
from contextlib import suppress

import folder_paths

from ..guidance import Trace
from .page import shown

EXPORTS = ("none", "csv", "json")


def write(runs: list[Trace], export: str, prefix: str) -> str:
    """Write traces below ComfyUI's output folder; the file's name below it.

    Raises:
        ValueError: the prefix leads out of the output folder.
        OSError: the disk is full, or the folder may not be written to; no part of a file stays.
    """
    output = folder_paths.get_output_directory()
    try:
        folder, name, number, below, _ = folder_paths.get_save_image_path(prefix, output)
    except OSError as error:
        raise _not_written(prefix, error) from error
    except Exception as error:  # ComfyUI raises a bare Exception
        raise ValueError(
            f"filename_prefix is {prefix!r}, which leads out of {output}; expected a name below it."
        ) from error
    text = (
        as_csv(runs) if export == "csv" else json.dumps([run.to_dict() for run in runs], indent=1)
    )
    file = f"{name}_{number:05}_.{export}"
    path = os.path.join(folder, file)
    part = f"{path}.part"
    try:
        with open(part, "w", encoding="utf-8", newline="") as target:
            target.write(text)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            os.remove(part)
        raise _not_written(path, error) from error
    return os.path.join(below, file).replace(os.sep, "/")


def _not_written(path: str, error: OSError) -> OSError:
    """What keeps a file from being written, and what that means for the run."""
    return OSError(
        f"The trace could not be written to {path}: {error.strerror or error}. Make room there, "
        "choose another filename_prefix, or set export to none. The run itself is kept: queue "
        "again, and nothing is sampled anew."
    )


def as_csv(runs: list[Trace]) -> str:
    """One line per evaluation: run, number, and what the panel shows."""
    rows = []
    for run in runs:
        for i, record in enumerate(run.records, 1):
            rows.append({"run": run.label, "evaluation": i, **(shown(record) or {})})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    target = io.StringIO()
    writer = csv.DictWriter(target, columns)
    writer.writeheader()
    writer.writerows(rows)
    return target.getvalue()
