"""How the modules of a room hang together: no circles, and no private name leaves its module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("benchmarks", "demo", "plots", "rewards")


def imports(source: str) -> Iterator[tuple[str, str]]:
    """(module, name) of the relative imports, those inside of functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            path = "." * node.level + (node.module or "")
            yield from ((path, alias.name) for alias in node.names)


def graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Which modules of a room each one imports."""
    found = {}
    for module, source in sources.items():
        targets = {name if path == "." else path[1:] for path, name in imports(source)}
        found[module] = targets & sources.keys()
    return found


def private(source: str) -> list[str]:
    return [name for path, name in imports(source) if path.strip(".") and name.startswith("_")]


def sources_of(room: str) -> dict[str, str]:
    return {file.stem: file.read_text("utf-8") for file in (ROOT / room).glob("*.py")}


@pytest.mark.parametrize("room", ROOMS)
def test_no_circles(room):
    modules = sources_of(room)
    order = list(TopologicalSorter(graph(modules)).static_order())
    assert set(order) == set(modules) and len(order) > 3


@pytest.mark.parametrize("room", ROOMS)
def test_no_private_name_is_imported(room):
    assert {name: private(source) for name, source in sources_of(room).items()} == {
        name: [] for name in sources_of(room)
    }


def test_faults_are_found():
    circle = {"a": "from .b import x", "b": "def f():\n    from . import a"}
    with pytest.raises(CycleError):
        TopologicalSorter(graph(circle)).prepare()
    assert private("from .a import _x, y\nfrom . import _a\nfrom ..demo.b import _z") == [
        "_x",
        "_z",
    ]
