"""Who may import whom: read from the source, nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
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
    "runtime": {"guidance", "rewards", "plots", "demo"},
    "nodes": {"guidance", "rewards", "plots", "demo", "runtime"},
}
# From the ground up: a room may only import what stands below it.
FLOORS = ("guidance", "rewards", "plots", "demo", "runtime", "nodes")
# Count and measure ComfyUI's own networks and our decoders, in ComfyUI's Python: as runtime may.
INSIDE_COMFYUI = {ROOT / "benchmarks" / f"{name}.py" for name in ("_comfyui", "_full_size")}
NODES_API = "comfy_api.latest"  # all of ComfyUI that nodes may import
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
            if room != "runtime" and not (room == "nodes" and name.startswith(NODES_API)):
                faults.append(f"{room} imports ComfyUI's {name}")
        elif top in ROOMS:
            faults.append(f"{name} imported by an absolute name")
    return faults


def private_faults(source: str, folder: Path) -> list[str]:
    """Private names that a module in a folder imports from another; private modules are none."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            place = folder.joinpath(*[".."] * (node.level - 1), *(node.module or "").split("."))
            names = [a.name for a in node.names if a.name.startswith("_")]
            faults += [name for name in names if not (place / f"{name}.py").is_file()]
    return faults


def module_of(path: Path) -> str:
    """A file's dotted name, that of the folder for its __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACK, *(parts[:-1] if parts[-1] == "__init__" else parts)])


def import_graph(sources: dict[Path, str]) -> dict[str, set[str]]:
    """Which of these modules each of them imports."""
    modules = {module_of(path) for path in sources}
    graph = {}
    for path, source in sources.items():
        package = ".".join([PACK, *path.relative_to(ROOT).parts[:-1]])
        names = set(imports(ast.parse(source), package))
        # Of `from .a import b`, b is a module or a name of module a.
        found = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module_of(path)] = (found & modules) - {module_of(path)}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a round; none where there is no such round."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def parsed(path: Path) -> ast.Module:
    return tree(path.relative_to(ROOT).as_posix())


def package_of(path: Path) -> str:
    if path in INSIDE_COMFYUI:
        return f"{PACK}.runtime"
    return ".".join([PACK, *path.relative_to(ROOT).parts[:-1]])


MODULES = [(room, path) for room in ALLOWED for path in files(room)]
TOP = sorted(ROOT.glob("*.py"))


def _id(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


@pytest.mark.parametrize(("room", "path"), MODULES, ids=_id)
def test_rooms_import_only_what_they_may_and_no_private_name(room: str, path: Path) -> None:
    assert import_faults(parsed(path), package_of(path)) == []
    assert private_faults(path.read_text(encoding="utf-8"), path.parent) == []


def test_rooms_stand_on_those_below_them() -> None:
    sources = {path: path.read_text(encoding="utf-8") for room in FLOORS for path in files(room)}
    rooms = {
        (module.split(".")[1], name.split(".")[1])
        for module, names in import_graph(sources).items()
        for name in names
    }
    upwards = {(a, b) for a, b in rooms if FLOORS.index(a) < FLOORS.index(b)}
    assert not upwards
    assert {("nodes", "runtime"), ("runtime", "guidance"), ("runtime", "rewards")} <= rooms


@pytest.mark.parametrize("room", ALLOWED)
def test_no_modules_import_each_other_in_a_circle(room: str) -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in files(room)}
    assert circle(import_graph(sources)) == [] and len(sources) > 3


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from .b import x", "from .a import y"),
        ("from . import b", "from . import a"),
        ("def f():\n    from .b import x", "from ..plots.a import y"),
    ],
)
def test_a_circle_is_seen(first: str, second: str) -> None:
    a, b = ROOT / "plots" / "a.py", ROOT / "plots" / "b.py"
    assert circle(import_graph({a: first, b: second}))
    assert not circle(import_graph({a: first, b: ""}))


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("from .trace import _plain", ["_plain"]),
        ("from .trace import _plain as plain, Trace", ["_plain"]),
        ("from ..benchmarks import _report", []),
        ("from ..benchmarks._report import report", []),
        ("from __future__ import annotations", []),
    ],
)
def test_private_names_are_seen(source: str, faults: list[str]) -> None:
    assert private_faults(source, ROOT / "guidance") == faults


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


LETS_PASS = [
    ("guidance", "from .trace import Trace\nfrom . import ve\nimport torch, math"),
    ("nodes", "from comfy_api.latest import io, ui\nfrom ..runtime.run import difference_step"),
    ("runtime", "from nodes import common_ksampler\nimport comfy.sd\nfrom ..guidance import LAGS"),
    ("benchmarks", "from ..demo import heart\nfrom ._report import report"),
]


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
        ("nodes", "from nodes import common_ksampler", "ComfyUI's nodes"),
        ("nodes", "def f():\n    import comfy.samplers", "ComfyUI's comfy.samplers"),
        ("nodes", "from comfy_execution.graph import x", "ComfyUI's comfy_execution"),
        ("runtime", "from ..nodes.inputs import seed_input", "runtime imports nodes"),
        ("nodes", "from guidance import LAGS", "absolute name"),
        ("nodes", "import rewards.base", "absolute name"),
        ("nodes", "from ..tests import analytic", "nodes imports tests"),
        *((room, source, "") for room, source in LETS_PASS),
    ],
)
def test_the_import_rule_sees_faults_only(room: str, source: str, fault: str) -> None:
    found = import_faults(ast.parse(source), f"{PACK}.{room}")
    assert fault in "; ".join(found) and bool(found) == bool(fault)
