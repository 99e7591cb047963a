"""`python3 dev.py matrix`: tests of what hangs on ComfyUI or transformers, on several of each.

Every part runs in the Python that ComfyUI runs in, or in our environment where it needs no ComfyUI,
with one transformers before all others; each transformers lies in a folder of its own, so that no
environment is changed.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

MAJORS = ("4", "5")
TESTS = Path(__file__).parent
# What touches transformers, and what hangs on how ComfyUI calls patches and nodes.
PLAIN = ("rewards",)
WITHIN = tuple(
    f"comfyui/test_{name}.py"
    for name in ("infrastructure", "neighbours", "reward_models", "score_images")
)


class Part(NamedTuple):
    """One cell of the table: where, with which transformers, and how it went."""

    comfyui: str
    transformers: str
    passed: int
    others: str
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether none passed, or anything but a skipped test is among the others."""
        return not self.passed or not re.fullmatch(r"(\d+ skipped)?", self.others)


def main(arguments: Sequence[str], dev: ModuleType) -> int:
    """Run all parts and print the table; 0 only if all of them passed.

    Args:
        arguments: ComfyUI's folders, then `--transformers` with versions; 4 is the newest 4.x.
        dev: dev.py, which finds interpreters and installs.
    """
    parser = argparse.ArgumentParser(prog="dev.py matrix")
    parser.add_argument("comfyui", nargs="*", type=Path)
    parser.add_argument("--transformers", nargs="+", default=MAJORS, metavar="VERSION")
    chosen = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    places = [None, *(_comfyui(dev, folder) for folder in chosen.comfyui or [_found(dev)])]
    parts = []
    for version in chosen.transformers:
        for place in places:
            parts.append(_part(dev, place, version))
            print(table(parts), flush=True)
    return int(any(part.failed for part in parts))


def table(parts: Sequence[Part]) -> str:
    """In Markdown."""
    head = ["| ComfyUI | transformers | passed | others | seconds |", "|---|---|---|---|---|"]
    rows = [
        f"| {p.comfyui} | {p.transformers} | {p.passed} | {p.others} | {p.seconds:.0f} |"
        for p in parts
    ]
    return "\n".join([*head, *rows])


def _found(dev: ModuleType) -> Path:
    """The ComfyUI that the tests would run in."""
    found = dev.locate_comfyui()
    if isinstance(found, str):
        raise dev.Problem(f"Name ComfyUI's folder after `matrix`: {found}.")
    return found.path


def _comfyui(dev: ModuleType, folder: Path) -> object:
    """A ComfyUI with the Python that runs it."""
    os.environ["COMFYUI_PATH"] = str(folder)
    found = dev.locate_comfyui()
    if isinstance(found, str):
        raise dev.Problem(found)
    return found


def _part(dev: ModuleType, comfyui: object, version: str) -> Part:
    """Run the tests of one ComfyUI, or those without any, with one transformers."""
    python = dev.ensure_environment() if comfyui is None else comfyui.python
    folder = _transformers(dev, python, version)
    _, exact = dev.ask(python, _first(folder) + "import transformers as t; print(t.__version__)")
    where = "none" if comfyui is None else dev.comfyui_version(comfyui.path)
    dev.say(f"ComfyUI {where}, transformers {exact}, with {python}")
    tests = [str(TESTS / name) for name in (PLAIN if comfyui is None else WITHIN)]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        told = [*tests, "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        try:
            _, used = dev.ask(python, "import transformers as t; print(t.__version__)")
            if used != exact:
                raise dev.Problem(f"{python} does not read PYTHONPATH: it would run {used}.")
            if comfyui is None:
                dev.call(python, dev.ROOT / "dev.py", "_pytest", "", *told, cwd=dev.ROOT)
            else:
                tools = dev.borrowed_tools(python)
                comfyui.run("_pytest", tools, *told, cwd=dev.ROOT)
        finally:
            os.environ["PYTHONPATH"] = before or ""
        return Part(where, exact, *counts(report.read_text("utf-8") if report.is_file() else ""))


def counts(report: str) -> tuple[int, str, float]:
    """(tests passed, what the others did in words, seconds) of pytest's XML report."""
    suite = re.search(r"<testsuite [^>]*>", report)
    if suite is None:
        return 0, "did not run", 0.0
    told = dict(re.findall(r'(\w+)="([^"]*)"', suite.group()))
    kinds = {kind: int(told[kind]) for kind in ("failures", "errors", "skipped")}
    passed = int(told["tests"]) - sum(kinds.values())
    others = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    return passed, others, float(told["time"])


def _first(folder: Path) -> str:
    """Python that looks into a folder before all others."""
    return f"import sys; sys.path.insert(0, {str(folder)!r}); "


def _transformers(dev: ModuleType, python: Path, version: str) -> Path:
    """A folder with one transformers for a Python, installed where it is not there yet."""
    _, ours = dev.ask(python, "import sys; print('%d.%d' % sys.version_info[:2])")
    folder = dev.environment_folder() / "matrix" / ours / f"transformers-{version}"
    if dev.ask(
        python, _first(folder) + f"import transformers as t; assert {str(folder)!r} in t.__file__"
    )[0]:
        return folder
    exact = version if version.count(".") == 2 else f"{version}.*"
    # What is compiled against numpy stays with the numpy that it has.
    _, numpy = dev.ask(python, "import numpy; print(numpy.__version__)")
    _, pip = dev.ask(dev.python_of(dev.environment_folder()), "import pip; print(pip.__path__[0])")
    wanted = [f"transformers=={exact}", f"numpy=={numpy}"]
    dev.say(f"installing {' and '.join(wanted)} into {folder}")
    dev.pip(python, pip, "install", "--upgrade", "--target", folder, *wanted)
    return folder
