"""A further evaluation of a MODEL as if the one before it had not been.

Two evaluations differ by what their inputs differ by, only if whatever else decides them is alike:
the numbers that patches draw at random (ToMe, HyperTile), and what functions on the branches
remember of earlier ones (APG's momentum).
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor

SEVERAL = ("sampler_pre_cfg_function", "sampler_post_cfg_function")
SINGLE = "sampler_cfg_function"


class Before:
    """What an evaluation begins from, noted before it.

    Args:
        options: the model_options whose functions will act on the branches.
        device: where patches may draw, beside the CPU.
    """

    def __init__(self, options: dict[str, Any], device: torch.device) -> None:
        self.cuda = device if device.type == "cuda" else None
        self.random = torch.get_rng_state()
        self.random_cuda = None if self.cuda is None else torch.cuda.get_rng_state(self.cuda)
        functions = [*(f for name in SEVERAL for f in options.get(name, ())), options.get(SINGLE)]
        self.remembered = {
            id(cell): _copy(cell.cell_contents)
            for function in functions
            for cell in _written(function)
            if cell != CellType()  # one that is empty
        }

    @contextmanager
    def again(self, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The options for one more evaluation, which leaves no trace in the user's functions."""
        cells: dict[int, CellType] = {}
        options = dict(options)
        for name in SEVERAL:
            if name in options:
                options[name] = [self._twin(function, cells) for function in options[name]]
        if SINGLE in options:
            options[SINGLE] = self._twin(options[SINGLE], cells)
        with torch.random.fork_rng([] if self.cuda is None else [self.cuda]):
            torch.set_rng_state(self.random)
            if self.random_cuda is not None:
                torch.cuda.set_rng_state(self.random_cuda, self.cuda)
            yield options

    def _twin(self, function: Callable[..., Any], cells: dict[int, CellType]) -> Any:
        """A function with variables of its own that hold what they held before, shared as theirs.

        Of those that it writes: what it reads may be written elsewhere, as SAG reads attention.
        """
        for cell in _written(function):
            if id(cell) in self.remembered:
                cells.setdefault(id(cell), CellType(_copy(self.remembered[id(cell)])))
        if not isinstance(function, FunctionType) or not function.__closure__:
            return function
        twin = FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            tuple(cells.get(id(cell), cell) for cell in function.__closure__),
        )
        twin.__kwdefaults__ = function.__kwdefaults__
        return twin


def _written(function: Any) -> list[CellType]:
    """The variables of an outer function that one assigns to."""
    if not isinstance(function, FunctionType) or not function.__closure__:
        return []
    code = function.__code__
    names = {op.argval for op in dis.get_instructions(code) if op.opname == "STORE_DEREF"}
    cells = zip(code.co_freevars, function.__closure__, strict=True)
    return [cell for name, cell in cells if name in names]


def _copy(value: Any) -> Any:
    """Of what may be written into."""
    return value.clone() if isinstance(value, Tensor) else value
