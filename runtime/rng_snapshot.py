"""A second evaluation of a MODEL as if the first had not been.

Two evaluations differ by what their inputs differ by, only if whatever else decides them is alike:
the numbers that patches draw at random (ToMe, HyperTile), what functions on the branches
remember of earlier ones (APG's momentum), and what guidance under this one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CellType
from typing import Any

import torch
from torch import Tensor

from .nested import runs_in

# Those that combine the branches. Functions after them are left alone: SAG's reads what attention
# patches have written in the very evaluation, also where only one branch was evaluated.
SEVERAL, SINGLE = "sampler_pre_cfg_function", "sampler_cfg_function"
RESTORED = (Tensor, int, float)  # what of them is put back


class Snapshot:
    """What an evaluation begins from, noted before it.

    Args:
        options: the model_options whose functions will act on the branches, and which guided runs
            under this one are handed on in.
        device: where patches may draw, beside the CPU.
    """

    def __init__(self, options: dict[str, Any], device: torch.device) -> None:
        self.cuda = device if device.type == "cuda" else None
        self.random = torch.get_rng_state()
        self.random_cuda = None if self.cuda is None else torch.cuda.get_rng_state(self.cuda)
        functions = [*options.get(SEVERAL, ()), options.get(SINGLE)]
        self.cells = [cell for function in functions for cell in _variables(function)]
        self.values = _noted(self.cells)
        self.runs = [(run, run.memory.copied()) for run in runs_in(options)]

    @contextmanager
    def again(self) -> Iterator[None]:
        """For one more evaluation; then all remember what they did before it."""
        after, memories = _noted(self.cells), [run.memory for run, _ in self.runs]
        try:
            with self.rewound():
                for run, memory in self.runs:
                    run.memory = memory.copied()
                    run.memory.is_aside = True
                yield
        finally:
            _put_back(after)
            for (run, _), memory in zip(self.runs, memories, strict=True):
                run.memory = memory

    @contextmanager
    def rewound(self) -> Iterator[None]:
        """From that beginning: for a try in the place of one that failed."""
        _put_back(self.values)
        with torch.random.fork_rng([] if self.cuda is None else [self.cuda]):
            torch.set_rng_state(self.random)
            if self.random_cuda is not None:
                torch.cuda.set_rng_state(self.random_cuda, self.cuda)
            yield


def _variables(function: Callable[..., Any] | None) -> list[CellType]:
    """The variables of outer functions in which one may remember: they hold numbers or tensors."""
    cells = getattr(function, "__closure__", None) or ()
    held = [cell for cell in cells if cell != CellType()]  # none is empty
    return [c for c in held if c.cell_contents is None or isinstance(c.cell_contents, RESTORED)]


def _noted(cells: list[CellType]) -> list[tuple[CellType, Any]]:
    """What they hold; of tensors a copy, because they may be written into."""
    held = [(cell, cell.cell_contents) for cell in cells]
    return [(cell, value.clone() if isinstance(value, Tensor) else value) for cell, value in held]


def _put_back(noted: list[tuple[CellType, Any]]) -> None:
    for cell, value in noted:
        cell.cell_contents = value.clone() if isinstance(value, Tensor) else value
