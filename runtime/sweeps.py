"""Lists of settings for one sampler, and how their images stand side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from ..guidance import MODES
from .checks import numbers, with_commas

MOST = 256  # settings of a sweep
STRENGTHS, COEFFICIENTS, SEEDS = (-1000.0, 1000.0), (0.001, 10000.0), (0, 2**64 - 1)
PLAIN = "plain"


@dataclass(frozen=True)
class Settings:
    """What one run of the sampler gets, by the names of its inputs; strength 0 is a plain run."""

    strength: float
    c: float
    mode: str
    seed: int

    def words(self, names: Iterable[str]) -> str:
        """Some of them as a label, such as 'c 10, paper'; strength 0 is 'plain'."""
        return ", ".join(_said(name, getattr(self, name)) for name in names)


NAMES = tuple(field.name for field in fields(Settings))


@dataclass(frozen=True)
class Sweep:
    """Settings in the order of their runs, and their places in a table.

    Attributes:
        settings: of each run, those of the first column first.
        columns: what each column is called; the first is plain.
        rows: what each row is called; of a single one ''.
        cells: number of the run at [row][column]; rows of one seed share their plain run.
        common: what all runs have in common, in words.
    """

    settings: tuple[Settings, ...]
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[int, ...], ...]
    common: str

    def lists(self) -> list[list[Any]]:
        """One list for each input of the sampler, in the order of ``NAMES``."""
        return [[getattr(one, name) for one in self.settings] for name in NAMES]


def swept(strengths: str, c: str, modes: str, seeds: str, taken: Iterable[str] = NAMES) -> Sweep:
    """All combinations, and a plain run for each seed.

    Columns are the strengths; where there is only one, the values of c, else the modes. What else
    has several values makes the rows.

    Args:
        strengths: separated by commas, as the others; 0 is the plain run, which is always there.
        c: values of the uncertainty coefficient.
        modes: names of them.
        seeds: whole numbers.
        taken: names of the outputs that a sampler is connected to.

    Raises:
        ValueError: nothing to run, a value that no sampler takes, several values of an output that
            nothing is connected to, or too many runs.
    """
    values: dict[str, list[Any]] = {
        "strength": [one for one in _within(numbers(strengths, "strengths"), STRENGTHS) if one],
        "c": _within(numbers(c, "c"), COEFFICIENTS, "c"),
        "mode": _modes(modes),
        "seed": _seeds(seeds),
    }
    values = {name: list(dict.fromkeys(found)) for name, found in values.items()}
    _check(values, set(taken))
    several = [name for name in NAMES[:-1] if len(values[name]) > 1]
    across = several[0] if several else "strength"
    down = [name for name in NAMES if name != across and len(values[name]) > 1]
    made: dict[Settings, int] = {}

    def run_of(one: dict[str, Any]) -> int:
        return made.setdefault(Settings(**one), len(made))

    first = {name: found[0] for name, found in values.items()}
    rows = [dict(zip(down, row, strict=True)) for row in product(*(values[n] for n in down))]
    plain = first | {"strength": 0.0}
    seeds_of = [{"seed": row["seed"]} if "seed" in row else {} for row in rows]
    columns = [[run_of(plain | seed) for seed in seeds_of]]
    columns += [[run_of(first | row | {across: value}) for row in rows] for value in values[across]]
    same = [name for name in NAMES if name in taken and name != across and name not in down]
    return Sweep(
        tuple(made),
        (PLAIN, *(_said(across, value) for value in values[across])),
        tuple(Settings(**first | row).words(down) for row in rows),
        tuple(zip(*columns, strict=True)),
        Settings(**first).words(same),
    )


def _said(name: str, value: Any) -> str:
    """A setting in words."""
    if name == "mode":
        return str(value)
    if name == "strength" and not value:
        return PLAIN
    return f"seed {value}" if name == "seed" else f"{name} {value:g}"


def _within(
    values: Sequence[float], limits: tuple[float, float], name: str = "strengths"
) -> list[float]:
    """The values, all in a range; NaN is in none."""
    for value in values:
        if not limits[0] <= value <= limits[1]:
            raise ValueError(
                f"One of {name} is {value:g}; expected {limits[0]:g} to {limits[1]:g}, as in "
                "KSampler (LAGS)."
            )
    return list(values)


def _words(text: str) -> list[str]:
    """'a, b' -> ['a', 'b']; semicolons and new lines count as commas."""
    parts = with_commas(text).replace(";", ",").replace("\n", ",").split(",")
    return [part.strip() for part in parts if part.strip()]


def _modes(text: str) -> list[str]:
    for mode in _words(text):
        if mode not in MODES:
            raise ValueError(f"One of modes is {mode!r}; expected some of {', '.join(MODES)}.")
    return _words(text)


def _seeds(text: str) -> list[int]:
    """Whole numbers, exact where a float is not."""
    try:
        found = [int(word) for word in _words(text)]
    except ValueError as error:
        raise ValueError(
            f"seeds are {text!r}; expected whole numbers separated by commas."
        ) from error
    for seed in found:
        if not SEEDS[0] <= seed <= SEEDS[1]:
            raise ValueError(f"One of seeds is {seed}; expected 0 to {SEEDS[1]}.")
    return found


def _check(values: dict[str, list[Any]], taken: set[str]) -> None:
    """Refuse what makes no table, or one whose labels would be wrong."""
    for name, found in values.items():
        if not found:
            what = "a strength other than 0" if name == "strength" else f"a {name}"
            raise ValueError(f"Nothing stands in {_widget(name)}; expected {what} at least.")
        if name not in taken and (name == "strength" or len(found) > 1):
            raise ValueError(
                f"The output {name} is not connected, and {_widget(name)} has {len(found)} "
                f"value{'s' * (len(found) > 1)}: connect it to {name} of the sampler"
                f"{'.' if name == 'strength' else ', or leave one value.'}"
            )
    count = math.prod(len(found) for found in values.values()) + len(values["seed"])
    if count > MOST:
        sizes = " x ".join(str(len(found)) for found in values.values())
        raise ValueError(
            f"This sweep has {count} runs ({sizes}, and the plain ones); expected {MOST} at most: "
            "take out some values."
        )


def _widget(name: str) -> str:
    """What the widget of a setting is called."""
    return name if name == "c" else f"{name}s"


def connected(prompt: dict[str, Any] | None, node: str | None) -> set[str]:
    """The names of a Sweep's outputs that another node takes; all where that is not known.

    A node of an expanded graph (loops of other packs) is not in the prompt.
    """
    if prompt is None or node not in prompt:
        return set(NAMES)
    inputs = (value for one in prompt.values() for value in one.get("inputs", {}).values())
    links = [value for value in inputs if isinstance(value, list) and len(value) == 2]
    return {name for i, name in enumerate(NAMES) if [node, i] in links}
