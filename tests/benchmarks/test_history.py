"""Today's fidelity is that of the last recording."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lags_pack.benchmarks import history


@pytest.fixture(scope="module")
def numbers() -> dict[str, float]:
    """Measured now, by this code."""
    return history.measure()


def test_nothing_has_moved_since_the_last_recording(numbers: dict[str, float]) -> None:
    assert history.moved(history.load()[-1].numbers, numbers) == []


def test_a_move_either_way_is_seen(numbers: dict[str, float]) -> None:
    name = "heart, balanced: sliced W2"
    for factor in (0.9, 1.1, float("nan")):
        (line,) = history.moved(numbers, numbers | {name: factor * numbers[name]})
        assert line.startswith(name)
    fewer = {key: value for key, value in numbers.items() if key != name}
    assert history.moved(numbers, fewer) == [f"{name} is no longer measured"]
    assert "never recorded" in history.moved(fewer, numbers)[0]
    assert history.moved(numbers, numbers | {name: 1.01 * numbers[name]}) == []


def test_every_recording_says_when_what_and_why() -> None:
    for entry in history.load():
        assert len(entry.date) == len("2026-01-01") and entry.version and entry.reason
        assert entry.numbers
    dates = [entry.date for entry in history.load()]
    assert dates == sorted(dates)


def test_recording_adds_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: dict[str, float]
) -> None:
    file = tmp_path / "history.json"
    monkeypatch.setattr(history, "FILE", file)
    monkeypatch.setattr(history, "measure", lambda: numbers)
    assert history.main([]) == 1, "numbers that were never recorded are a change"
    assert history.main(["--record", "first"]) == 0
    assert history.main(["--record", "second"]) == 0
    assert [entry["reason"] for entry in json.loads(file.read_text())] == ["first", "second"]
    assert history.main([]) == 0
    assert history.load(file)[-1].version == history.version()
