"""All files that follow from the nodes: written anew, or only looked at.

``python3 dev.py sync`` starts this in ComfyUI's Python, without a server. It writes

- locales/en: the English texts; of other languages it says what is lacking and what is stale,
- web/docs: a page for every node, a line for every input that a page does not name yet,
- workflows, subgraphs: new widgets at their defaults, and SDXL's workflows from SD 1.5's,
- tests/frozen: the record of a version to be released, or of what is newer than the last one.

With --check it writes nothing, names the files, and ends with 1 where there are any.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...demo.make_workflows import derived as derived_workflows
from ...demo.make_workflows import derived_blueprints
from .. import published
from ..comfyui import headless
from . import frozen, help_pages, locales

ROOT = published.ROOT
Json = dict[str, Any]


def derived(info: dict[str, Json]) -> dict[Path, str | None]:
    """The text that each file should have; None for one that should not be.

    Args:
        info: of the pack's nodes and ComfyUI's, as ``headless.object_info`` tells.
    """
    english = locales.english(info)
    files: dict[Path, str | None] = {
        locales.LOCALES / "en" / f"{name}.json": locales.written(texts)
        for name, texts in english.items()
    }
    files |= dict(_help(info, english["nodeDefs"]))
    project = published.pyproject()["project"]
    flows = derived_workflows(ROOT / "workflows", info, project)
    files |= flows
    files |= derived_blueprints(ROOT / "subgraphs", info, project)
    today = frozen.describe(
        frozen.node_info(info), {path.stem: json.loads(text) for path, text in flows.items()}
    )
    return files | frozen.records(today, project["version"])


def _help(info: dict[str, Json], english: Json) -> Iterator[tuple[Path, str]]:
    """A page of help for every node, with a line for every input."""
    for language in help_pages.WORDS:
        texts = english if language == "en" else locales.read(language)["nodeDefs"]
        for node, entry in english.items():
            path = help_pages.page(node, language)
            told, own = locales.told_of_inputs(info[node]), texts.get(node, {})
            text = _found(path) or help_pages.begun(language, entry, own)
            yield path, help_pages.completed(text, language, entry, own, told)


def stale(info: dict[str, Json]) -> dict[Path, str | None]:
    """The files that are not as they should be."""
    return {path: text for path, text in derived(info).items() if text != _found(path)}


def _found(path: Path) -> str | None:
    return path.read_bytes().decode("utf-8") if path.is_file() else None


def main(arguments: list[str]) -> int:
    """Import ComfyUI and the pack; write or check."""
    options = argparse.ArgumentParser(prog="dev.py sync", description=__doc__)
    options.add_argument("--check", action="store_true", help="write nothing")
    checking = options.parse_args(arguments).check
    logging.disable(logging.WARNING)  # ComfyUI's, of nodes that want a server
    with tempfile.TemporaryDirectory(prefix="lags-sync-") as base:
        headless.import_comfyui(Path(os.environ["COMFYUI_PATH"]), Path(base))
        changes = stale(headless.object_info())
    for path, text in changes.items():
        print(f"{path.relative_to(ROOT).as_posix()} {'is stale' if checking else 'written'}")
        if not checking:
            _write(path, text)
    if checking:
        return 1 if changes else 0
    said = [line for language in locales.languages() for line in locales.differences(language)]
    print("\n".join([*said, f"{len(changes)} files written, {len(said)} texts to translate"]))
    return 0


def _write(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode("utf-8"))
