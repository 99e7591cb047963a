"""The matrix of versions: what is installed for it, what is read of a run, and its table."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lags_pack.tests.published import ROOT, script


@pytest.fixture(scope="module")
def matrix() -> Any:
    return script("tests/matrix.py")


COUNTS = 'errors="{}" failures="{}" skipped="{}" tests="{}"'
REPORT = f'<testsuites><testsuite name="pytest" {COUNTS} time="12.5">'


@pytest.mark.parametrize(
    ("numbers", "expected", "failed"),
    [
        ((0, 0, 0, 9), (9, "", 12.5), False),
        ((0, 0, 2, 9), (7, "2 skipped", 12.5), False),
        ((1, 2, 0, 9), (6, "2 failures, 1 errors", 12.5), True),
        ((0, 0, 0, 0), (0, "", 12.5), True),
        ((0, 0, 9, 9), (0, "9 skipped", 12.5), True),
    ],
)
def test_counts_of_a_report(matrix: Any, numbers: tuple[int], expected: Any, failed: bool) -> None:
    """Errors, failures, skipped, tests."""
    assert matrix.counts(REPORT.format(*numbers)) == expected
    assert matrix.Part("0.8.0", "5.1.0", *expected).failed is failed


def test_a_run_without_a_report_is_a_failure(matrix: Any) -> None:
    part = matrix.Part("0.8.0", "5.1.0", *matrix.counts(""))
    assert part.failed and part.passed == 0
    assert matrix.table([part]).endswith("| 0.8.0 | 5.1.0 | 0 | did not run | 0 |")


@pytest.mark.parametrize(("version", "wanted"), [("4", "4.*"), ("4.50.3", "4.50.3")])
def test_each_transformers_has_a_folder_of_its_own(
    matrix: Any, tmp_path: Path, version: str, wanted: str
) -> None:
    """For a Python's version, with the numpy that it has."""
    installed: list[tuple[Any, ...]] = []

    def ask(python: Path, code: str) -> tuple[bool, str]:
        for word, answer in (("version_info", "3.12"), ("numpy", "2.1.0")):
            if word in code:
                return True, answer
        return "transformers" not in code, "/pip"

    dev = SimpleNamespace(ask=ask, say=lambda text: None)
    dev.pip, dev.environment_folder = lambda *command: installed.append(command), lambda: tmp_path
    dev.python_of = lambda folder: folder / "python"
    folder = matrix._transformers(dev, Path("python"), version)
    assert folder == tmp_path / "matrix" / "3.12" / f"transformers-{version}"
    (command,) = installed
    assert command[-3:] == (folder, f"transformers=={wanted}", "numpy==2.1.0")


def test_what_is_run_exists(matrix: Any) -> None:
    for name in (*matrix.PLAIN, *matrix.WITHIN):
        assert (ROOT / "tests" / name).exists(), name
