"""The matrix of versions: what is installed for it, what is read of a run, and its table."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def matrix() -> Any:
    spec = importlib.util.spec_from_file_location("matrix_under_test", ROOT / "tests/matrix.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COUNTS = 'errors="{}" failures="{}" skipped="{}" tests="{}"'
REPORT = f'<testsuites><testsuite name="pytest" {COUNTS} time="12.5">'


@pytest.mark.parametrize(
    ("errors", "failures", "skipped", "tests", "expected", "failed"),
    [
        (0, 0, 0, 9, (9, "", 12.5), False),
        (0, 0, 2, 9, (7, "2 skipped", 12.5), False),
        (1, 2, 0, 9, (6, "2 failures, 1 errors", 12.5), True),
        (0, 0, 0, 0, (0, "", 12.5), True),
        (0, 0, 9, 9, (0, "9 skipped", 12.5), True),
    ],
)
def test_counts_of_a_report(
    matrix: Any,
    errors: int,
    failures: int,
    skipped: int,
    tests: int,
    expected: tuple[int, str, float],
    failed: bool,
) -> None:
    assert matrix.counts(REPORT.format(errors, failures, skipped, tests)) == expected
    assert matrix.Part("0.8.0", "5.1.0", *expected).failed is failed


def test_a_run_without_a_report_is_a_failure(matrix: Any) -> None:
    part = matrix.Part("0.8.0", "5.1.0", *matrix.counts(""))
    assert part.failed and part.passed == 0
    assert matrix.table([part]).endswith("| 0.8.0 | 5.1.0 | 0 | did not run | 0 |")


@pytest.mark.parametrize(
    ("version", "wanted"), [("4", "transformers==4.*"), ("4.50.3", "transformers==4.50.3")]
)
def test_each_transformers_has_a_folder_of_its_own(
    matrix: Any, tmp_path: Path, version: str, wanted: str
) -> None:
    """For a Python's version, with the numpy that it has."""
    installed: list[tuple[Any, ...]] = []

    def ask(python: Path, code: str) -> tuple[bool, str]:
        if "version_info" in code:
            return True, "3.12"
        if "numpy" in code:
            return True, "2.1.0"
        return "transformers" not in code, "/pip"

    dev = SimpleNamespace(
        ask=ask,
        say=lambda text: None,
        pip=lambda *command: installed.append(command),
        environment_folder=lambda: tmp_path,
        python_of=lambda folder: folder / "python",
    )
    folder = matrix._transformers(dev, Path("python"), version)
    assert folder == tmp_path / "matrix" / "3.12" / f"transformers-{version}"
    (command,) = installed
    assert command[-3:] == (folder, wanted, "numpy==2.1.0")


def test_what_is_run_exists(matrix: Any) -> None:
    for name in (*matrix.PLAIN, *matrix.WITHIN):
        assert (ROOT / "tests" / name).exists(), name
