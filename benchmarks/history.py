"""Fidelity over time: a few small, seeded runs, beside what they gave when they were last recorded.

The runs are far smaller than the tables of docs/benchmarks.md and stand for themselves only: the
same seeds give the same numbers up to rounding, so a number that moves says that the arithmetic has
changed. tests/benchmarks/test_history.py runs them and fails where one has moved by more than
TOLERANCE, either way; a change that is meant is recorded with its reason:
``python3 dev.py bench history --record "why"``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..demo.model import load_network
from ..demo.pictures import draw_pictures
from ..guidance import MODES, preset
from ..rewards import ColourReward, FrequencyReward, Reward, Weight
from . import heart
from ._family import SEVERAL, budget, family
from ._report import flushed_denormals

ROOT = Path(__file__).resolve().parents[1]
FILE = Path(__file__).with_name("history.json")
TOLERANCE = 0.05  # of a number: other processors round differently, and 30 steps carry that on
LEAST = 0.005  # that counts as a move, nats or units of the plane
POINTS, PICTURES = 2000, 8
PARTICLES, GROUPS = 256, 4
TILTS: dict[str, tuple[Reward, float]] = {
    "colour": (ColourReward("hue", hue=240.0), 20.0),
    "brightness": (ColourReward("brightness"), 15.0),
    "frequency": (FrequencyReward(0.15, 0.5), 2.0),
}


@dataclass(frozen=True)
class Entry:
    """What one recording measured.

    Attributes:
        date: of the recording, ISO.
        version: of the pack.
        reason: why it was recorded.
        numbers: by name.
    """

    date: str
    version: str
    reason: str
    numbers: dict[str, float]


def load(file: Path = FILE) -> list[Entry]:
    """All recordings, the oldest first."""
    return [Entry(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))]


def measure() -> dict[str, float]:
    """The numbers of today: distances in the plane, gains of log w on the demo model in nats."""
    return {**plane(), **tilts()}


def plane() -> dict[str, float]:
    """Sliced W2 of each mode and of the particles, on both problems."""
    numbers = {}
    for name, make in heart.PROBLEMS.items():
        problem = make()
        for mode in MODES:
            points, _ = heart.run(preset(mode), 0, problem, samples=POINTS)
            numbers[f"{name}, {mode}: sliced W2"] = heart.score(points, 0, problem)["sliced W2"]
        task = problem.task(heart.STEPS)
        drawn = family()[SEVERAL["lags"]](task, budget(task, PARTICLES), GROUPS, 0)
        distance = heart.score(heart.points(drawn), 0, problem)["sliced W2"]
        numbers[f"{name}, particles: sliced W2"] = distance
    return numbers


def tilts() -> dict[str, float]:
    """Mean gain of log w over plain images of the same seeds, of each mode."""
    network, numbers = load_network(), {}
    plain, _ = draw_pictures(network, PICTURES, seed=0, batch=PICTURES)
    for name, (reward, strength) in TILTS.items():
        weight = Weight.of(reward, strength)
        for mode in MODES:
            guided, _ = draw_pictures(
                network, PICTURES, seed=0, method=preset(mode), weight=weight, batch=PICTURES
            )
            gain = strength * (reward(guided) - reward(plain)).mean()
            numbers[f"{name}, {mode}: gain of log w"] = float(gain)
    return numbers


def moved(before: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    """One line for each number that is new, gone, or further away than the tolerance."""
    lines = [f"{name} is no longer measured" for name in before.keys() - now.keys()]
    for name, value in now.items():
        if name not in before:
            lines.append(f"{name} = {value:.4g} was never recorded")
        elif not abs(value - before[name]) <= max(TOLERANCE * abs(before[name]), LEAST):  # or NaN
            lines.append(f"{name} was {before[name]:.4g} and is {value:.4g}")
    return sorted(lines)


def version() -> str:
    """The pack's version, from pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.+?)"', text, re.MULTILINE)
    if found is None:
        raise ValueError(f'{ROOT / "pyproject.toml"} has no line version = "..."; add it.')
    return found[1]


@flushed_denormals()
def main(arguments: list[str]) -> int:
    """Print today's numbers beside the last recording; 1 where one has moved."""
    options = argparse.ArgumentParser(prog="dev.py bench history", description=__doc__)
    options.add_argument("--record", metavar="REASON", help="add today's numbers to the history")
    choice = options.parse_args(arguments)
    entries = load(FILE) if FILE.is_file() else []
    numbers = measure()
    last = entries[-1].numbers if entries else {}
    for name, value in numbers.items():
        print(f"{name:45} {value:8.4f}   recorded {last.get(name, float('nan')):8.4f}")
    changes = moved(last, numbers)
    print("\n".join(changes) or "Nothing has moved.")
    if choice.record:
        today = datetime.date.today().isoformat()
        entries.append(Entry(today, version(), choice.record, numbers))
        text = json.dumps([vars(entry) for entry in entries], indent=1)
        FILE.write_text(text + "\n", encoding="utf-8")
        print(f"Recorded in {FILE}")
    return 1 if changes and not choice.record else 0
