"""What would be published: git's tracked files without those that .comfyignore names.

Shared by tests with and without ComfyUI, as `lags_pack.tests.published`. Git does all matching, as
for .gitignore, so there are no rules of our own to get wrong.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest

ROOT = Path(__file__).resolve().parents[1]


def pyproject() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def files(root: Path = ROOT) -> list[str]:
    """Paths of the published files, with forward slashes.

    Where the pack is not a git checkout (a downloaded archive, say), its files stand in for the
    tracked ones, less what .gitignore names.
    """
    dropped = set(_listed(root, "--ignored", "--exclude-from=.comfyignore"))
    return [name for name in _listed(root) if name not in dropped and (root / name).is_file()]


@functools.cache
def source(name: str) -> str:
    """A file of the pack, read once for all scans of the source."""
    return (ROOT / name).read_text("utf-8")


@functools.cache
def tree(name: str) -> ast.Module:
    """A Python file of the pack, parsed once for all scans of the source; not to be changed."""
    return ast.parse(source(name))


def script(name: str) -> ModuleType:
    """A file of the pack that is run by itself, as a fresh module."""
    spec = importlib.util.spec_from_file_location("script_under_test", ROOT / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(target: Path, root: Path = ROOT) -> Path:
    """Write the archive that the registry would be given; returns its path."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files(root):
            archive.write(root / name, name)
    return target


def _listed(root: Path, *options: str) -> list[str]:
    """Files that `git ls-files` names, from the pack's own repository or from a passing one."""
    if (root / ".git").exists():
        return _git(root, "ls-files", "-z", "--cached", *options)
    with tempfile.TemporaryDirectory(prefix="lags-git-") as repository:
        _git(root, "init", "--quiet", "--bare", repository)
        place = (f"--git-dir={repository}", f"--work-tree={root}")
        kinds = ("--others",) if options else ("--others", "--exclude-per-directory=.gitignore")
        return _git(root, *place, "ls-files", "-z", *kinds, *options)


def _git(root: Path, *arguments: str) -> list[str]:
    git = shutil.which("git")
    if git is None:
        raise RuntimeError("These tests build the published archive with git: install git.")
    done = subprocess.run([git, *arguments], cwd=root, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise RuntimeError(
            f"git {' '.join(arguments)} failed in {root}: {said}. The published archive is built "
            "from git's list of files: make git work there (a folder of another user has to be "
            "named in git's safe.directory)."
        )
    return [name for name in done.stdout.decode("utf-8").split("\0") if name]
