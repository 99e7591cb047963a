"""The benchmarks measure what they say, and write rows that others can read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from lags_pack.benchmarks import heart, tilt
from lags_pack.benchmarks._report import interleaved_seconds, report
from lags_pack.demo import run


def test_strength_leaves_the_asked_effective_share() -> None:
    """For normal scores the effective share at strength s is exp(-s^2), the shift is s."""
    scores = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    for share in (0.8, 0.5):
        strength = tilt.strength_for(scores, share)
        assert strength == pytest.approx(math.sqrt(-math.log(share)), rel=0.03)
        shift = tilt.tilted_mean(scores, strength) - float(scores.mean())
        assert shift == pytest.approx(strength, rel=0.03)


def test_report_writes_a_flat_list_with_a_method_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"method": "a", "value": 1.23456}, {"method": "b", "other": 2}]
    report(rows, tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    printed = capsys.readouterr().out
    assert "1.23" in printed and "| b " in printed


def test_interleaved_runs_take_turns() -> None:
    order: list[str] = []
    runs = {name: (lambda n=name: order.append(n)) for name in "ab"}
    assert set(interleaved_seconds(runs, 3)) == {"a", "b"}
    assert order == list("ababab")


def test_every_row_of_the_heart_runs() -> None:
    for name, method in heart.methods().items():
        points, trace = heart.run(method, 0, steps=8, samples=200)
        assert torch.isfinite(points).all(), name
        assert trace.model_calls >= (0 if method is None else 8)


def test_demo_prints_its_table_and_writes_its_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.main(["--pictures", "2", "--steps", "4", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for name in ("plain", "balanced", "fast", "paper"):
        assert f"\n{name} " in printed
    for picture in ("demo.png", "schedule.png"):
        assert (tmp_path / picture).stat().st_size > 1000
        assert str(tmp_path / picture) in printed
