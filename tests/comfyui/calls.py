"""What a pack's source asks of ComfyUI, and what a ComfyUI folder offers: read, never imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOTS = ("comfy", "comfy_execution", "folder_paths", "latent_preview", "nodes")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Use:
    """A name of ComfyUI in a file, and the call of it where it is called."""

    name: str
    file: str
    line: int
    call: ast.Call | None


def uses(file: Path) -> Iterator[Use]:
    """Every name of ComfyUI that a file mentions, in full, and every call of one."""
    tree = ast.parse(file.read_text("utf-8"))
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in ROOTS:
                    full = alias.name if alias.asname else alias.name.split(".")[0]
                    known[alias.asname or full] = full
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if (node.module or "").split(".")[0] in ROOTS:
                for alias in node.names:
                    known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                    yield Use(f"{node.module}.{alias.name}", file.name, node.lineno, None)
    called = {id(n.func): n for n in ast.walk(tree) if isinstance(n, ast.Call)}
    inner = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)) and id(node) not in inner:
            name = _dotted(node, known)
            if name is not None and "." in name:
                yield Use(name, file.name, node.lineno, called.get(id(node)))


def _dotted(node: ast.expr, known: dict[str, str]) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in known:
        return None
    return ".".join([known[node.id], *parts])


class Source:
    """A ComfyUI folder.

    Args:
        root: with main.py in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.module = cache(self._module)

    def _module(self, name: str) -> ast.Module | None:
        path = self.root.joinpath(*name.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return ast.parse(file.read_text("utf-8"))
        return None

    def find(self, name: str) -> ast.AST | None:
        """What a dotted name is: a module, a definition, an assignment; None where it is not."""
        parts = name.split(".")
        for cut in range(len(parts), 0, -1):
            module = ".".join(parts[:cut])
            tree = self.module(module)
            if tree is not None:
                return self._inside(tree, module, parts[cut:])
        folder = self.root.joinpath(*parts)
        return ast.Module([], []) if folder.is_dir() else None

    def _inside(self, tree: ast.AST, module: str, parts: list[str]) -> ast.AST | None:
        if not parts:
            return tree
        first, *rest = parts
        for node in _statements(tree):
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and node.name == first:
                found = node if not rest else self._inside(node, module, rest)
                if found is None and isinstance(node, ast.ClassDef):
                    found = self._in_bases(node, module, rest)
                return found
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(t, ast.Name) and t.id == first for t in targets):
                    return node
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == first:
                        base = module.split(".")
                        if node.level:
                            is_package = (self.root.joinpath(*base) / "__init__.py").is_file()
                            base = base[: len(base) - node.level + is_package]
                        else:
                            base = []
                        origin = [*base, *filter(None, [node.module]), alias.name, *rest]
                        return self.find(".".join(origin)) if origin[0] in ROOTS else node
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.asname == first:
                        full = ".".join([alias.name, *rest])
                        return self.find(full) if full.split(".")[0] in ROOTS else node
                    if alias.asname is None and alias.name.split(".")[0] == first:
                        return self.find(".".join([first, *rest])) if first in ROOTS else node
        return None

    def _in_bases(self, node: ast.ClassDef, module: str, rest: list[str]) -> ast.AST | None:
        for base in node.bases:
            found = self.find(".".join([self._base(base, module), *rest]))
            if found is not None:
                return found
        return None

    @staticmethod
    def _base(base: ast.expr, module: str) -> str:
        name = ast.unparse(base)
        return name if name.split(".")[0] in ROOTS else f"{module}.{name}"

    def arguments(self, name: str) -> ast.arguments | None:
        """The parameters of a function or of a class's __init__, itself left out; None if open."""
        found = self.find(name)
        if isinstance(found, ast.ClassDef):
            method = self.find(f"{name}.__init__")
            return _without_self(method.args) if isinstance(method, FUNCTIONS) else None
        if not isinstance(found, FUNCTIONS):
            return None
        parent = self.find(name.rsplit(".", 1)[0])
        static = any(ast.unparse(d) == "staticmethod" for d in found.decorator_list)
        bound = isinstance(parent, ast.ClassDef) and not static
        return _without_self(found.args) if bound else found.args


def _without_self(args: ast.arguments) -> ast.arguments:
    rest = args.args[1:] if not args.posonlyargs else args.args
    return ast.arguments(
        args.posonlyargs[1:], rest, args.vararg, args.kwonlyargs, args.kw_defaults, args.kwarg,
        args.defaults,
    )  # fmt: skip


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Of a module or class, those in its ifs and tries too; what counts at last comes first."""
    for node in reversed(tree.body):  # type: ignore[attr-defined]
        yield node
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from _statements(node)
            for handler in getattr(node, "handlers", []):
                yield from _statements(handler)
            for part in ("orelse", "finalbody"):
                if getattr(node, part, None):
                    yield from _statements(ast.Module(getattr(node, part), []))


def misfit(call: ast.Call, args: ast.arguments) -> str | None:
    """Why a call does not fit parameters; None where it does, as far as it can be read."""
    positional = [a.arg for a in (*args.posonlyargs, *args.args)]
    given = [a for a in call.args if not isinstance(a, ast.Starred)]
    is_open = len(given) < len(call.args) or any(k.arg is None for k in call.keywords)
    if len(given) > len(positional) and args.vararg is None:
        return f"takes {len(positional)} positional arguments, and {len(given)} are given"
    names = {*(a.arg for a in args.args), *(a.arg for a in args.kwonlyargs)}
    keywords = [k.arg for k in call.keywords if k.arg]
    unknown = [k for k in keywords if k not in names and args.kwarg is None]
    if unknown:
        return f"has no parameter {', '.join(unknown)}"
    if is_open:
        return None
    needed = positional[: len(positional) - len(args.defaults)][len(given) :]
    needed += [a.arg for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True) if d is None]
    missing = [name for name in needed if name not in keywords]
    return f"asks for {', '.join(missing)}" if missing else None
