"""What every benchmark shares: its arguments, its table, its JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

Row = Mapping[str, Any]


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Inside, numbers too small for full precision are 0, which is faster; as before after it."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """An argument parser with ``--json FILE``."""
    result = argparse.ArgumentParser(prog=f"dev.py bench {name}", description=description)
    result.add_argument("--json", type=Path, help="write the rows as a flat list of objects")
    return result


def printed(row: dict[str, Any]) -> dict[str, Any]:
    """The row, printed as soon as it is found, so that an interrupted run has said it."""
    print(*map(_text, row.values()), flush=True)
    return row


def report(rows: Sequence[Row], json_path: Path | None = None) -> None:
    """Print rows as a Markdown table; write them as JSON where a path is given."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_text(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(c), *(len(line[i]) for line in cells)) for i, c in enumerate(columns)]
    print("| " + " | ".join(c.ljust(w) for c, w in zip(columns, widths, strict=True)) + " |")
    print("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    for line in cells:
        print("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |")
    if json_path is not None:
        json_path.write_text(json.dumps([dict(row) for row in rows], indent=1), encoding="utf-8")
        print(f"Rows written to {json_path}")


def interleaved_seconds(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each run, the runs taking turns so that a noisy moment hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = perf_counter()
            run()
            seconds[name].append(perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
