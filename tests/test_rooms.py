"""Who may import whom: read from the source, nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from lags_pack.tests.published import ROOT, tree

PACK = "lags_pack"
ROOMS = ("guidance", "rewards", "plots", "runtime", "nodes", "demo", "benchmarks", "tests")
# What a room may import of the others; a room always has itself.
ALLOWED = {
    "guidance": set(),
    "rewards": set(),
    "plots": {"guidance"},
    "demo": {"guidance", "rewards", "plots"},
    "benchmarks": {"guidance", "rewards", "plots", "demo"},
    "runtime": {"guidance", "rewards", "plots", "demo", "nodes"},
    "nodes": {"guidance", "rewards", "plots", "demo", "runtime"},
}
# Counts ComfyUI's own networks and our decoders, in ComfyUI's Python: it may what nodes may.
INSIDE_COMFYUI = ROOT / "benchmarks" / "_comfyui.py"
COMFYUI = {"folder_paths", "server", "latent_preview", "nodes", "execution", "node_helpers"}


def imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Dotted names that a module imports; relative ones as lags_pack.<room>..."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            base += [node.module] if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant))


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def is_comfyui(name: str) -> bool:
    top = name.split(".")[0]
    return top in COMFYUI or top.startswith("comfy")


def import_faults(tree: ast.Module, package: str) -> list[str]:
    """What breaks the import rule in a module of a package such as lags_pack.guidance."""
    room = package.split(".")[1]
    faults = []
    for name in imports(tree, package):
        top, *rest = name.split(".")
        if top == PACK:
            if rest and rest[0] in ROOMS and rest[0] not in ALLOWED[room] | {room}:
                faults.append(f"{room} imports {rest[0]}")
        elif is_comfyui(name):
            if room not in ("nodes", "runtime"):
                faults.append(f"{room} imports ComfyUI's {name}")
        elif top in ROOMS:
            faults.append(f"{name} imported by an absolute name")
    return faults


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def parsed(path: Path) -> ast.Module:
    return tree(path.relative_to(ROOT).as_posix())


def package_of(path: Path) -> str:
    if path == INSIDE_COMFYUI:
        return f"{PACK}.nodes"
    return ".".join([PACK, *path.relative_to(ROOT).parts[:-1]])


MODULES = [(room, path) for room in ALLOWED for path in files(room)]
TOP = sorted(ROOT.glob("*.py"))


def _id(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


@pytest.mark.parametrize(("room", "path"), MODULES, ids=_id)
def test_rooms_import_only_what_they_may(room: str, path: Path) -> None:
    assert import_faults(parsed(path), package_of(path)) == []


@pytest.mark.parametrize("path", [*files("tests"), *TOP], ids=_id)
def test_the_packs_rooms_have_no_absolute_name(path: Path) -> None:
    """Inside ComfyUI `import nodes` is ComfyUI's; only its own tests may want that one."""
    allowed = {"nodes"} if path.is_relative_to(ROOT / "tests" / "comfyui") else set()
    tops = {name.split(".")[0] for name in imports(parsed(path), package_of(path))}
    assert not tops & set(ROOMS) - allowed


def test_every_room_is_looked_at() -> None:
    assert {room for room, _ in MODULES} == set(ALLOWED)
    folders = {path.name for path in ROOT.iterdir() if next(path.glob("*.py"), None)}
    assert folders <= set(ROOMS)


@pytest.mark.parametrize(
    ("room", "source", "fault"),
    [
        ("guidance", "from ..rewards import Weight", "guidance imports rewards"),
        ("guidance", "from .. import rewards", "guidance imports rewards"),
        ("guidance", "from ..nodes.patch import compute_dtype", "guidance imports nodes"),
        ("guidance", "def f():\n    import comfy.sd", "ComfyUI's comfy.sd"),
        ("guidance", "from comfy_api.latest import io", "ComfyUI's comfy_api"),
        ("rewards", "from ..guidance import LAGS", "rewards imports guidance"),
        ("rewards", "import folder_paths", "ComfyUI's folder_paths"),
        ("rewards", "from lags_pack.guidance import LAGS", "rewards imports guidance"),
        ("demo", "from ..benchmarks import heart", "demo imports benchmarks"),
        ("demo", "import importlib\nimportlib.import_module('comfy.utils')", "comfy.utils"),
        ("demo", "from ..nodes import sockets", "demo imports nodes"),
        ("benchmarks", "from nodes import common_ksampler", "ComfyUI's nodes"),
        ("nodes", "from guidance import LAGS", "absolute name"),
        ("nodes", "import rewards.base", "absolute name"),
        ("nodes", "from ..tests import analytic", "nodes imports tests"),
    ],
)
def test_the_import_rule_sees(room: str, source: str, fault: str) -> None:
    assert fault in "; ".join(import_faults(ast.parse(source), f"{PACK}.{room}"))


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("guidance", "from .trace import Trace\nfrom . import ve\nimport torch, math"),
        (
            "nodes",
            "from nodes import common_ksampler\nimport comfy.sd\nfrom ..guidance import LAGS",
        ),
        ("benchmarks", "from ..demo import heart\nfrom ._report import report"),
    ],
)
def test_the_import_rule_lets_pass(room: str, source: str) -> None:
    assert import_faults(ast.parse(source), f"{PACK}.{room}") == []
