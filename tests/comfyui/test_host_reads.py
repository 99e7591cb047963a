"""How often a step waits for the GPU: numbers that Python reads off tensors, by line of ours.

Counted without a GPU: all that was not made on the host, or of what has been copied there, counts.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest
import torch
from comfyui_support.weighing import case_of
from lags_pack.guidance import schedules
from lags_pack.runtime.run import Guidance
from lags_pack.tests.published import ROOT
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

LEAN = str(ROOT / "runtime" / "lean.py")  # operations pass through it
COPIES = {Tensor.cpu, Tensor.numpy}
READS = {
    *(Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__float__, Tensor.__int__),
    *(Tensor.__index__, Tensor.equal, torch.equal, torch.allclose, Tensor.nonzero, *COPIES),
}


class HostReads(TorchFunctionMode):
    """Notes where the pack's own lines read off a tensor that the host does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.on_host = WeakIdKeyDictionary()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        away = [tensor for tensor in given if tensor not in self.on_host]
        masks = function is Tensor.__getitem__ and any(t.dtype == torch.bool for t in given[1:])
        if away and (function in READS or masks):
            self._note()
        made = function(*args, **kwargs)
        if not away or function in COPIES:
            for leaf in tree_leaves(made):
                if isinstance(leaf, Tensor):
                    self.on_host[leaf] = True
        return made

    def _note(self) -> None:
        frame = sys._getframe(2)
        while frame.f_globals["__name__"].startswith("torch") or frame.f_code.co_filename == LEAN:
            frame = frame.f_back  # type: ignore[assignment]
        if is_ours(frame):
            self.found[f"{frame.f_code.co_filename}:{frame.f_lineno}"] += 1


def is_ours(frame: Any) -> bool:
    """Whether a line is of the pack's own."""
    file = frame.f_code.co_filename
    return file.startswith(str(ROOT)) and "/tests/" not in file


@pytest.fixture
def steps(sd15, monkeypatch) -> list[tuple[bool, Counter[str]]]:
    """Every evaluation of a run in mode balanced: whether it is guided, and what it reads."""
    case, reads, seen = case_of(sd15, batch=2, steps=8, strength=20.0), HostReads(), []
    reads.on_host[schedules._GRID] = True
    inner = Guidance.predict_noise

    def counted(self: Guidance, *args: Any, **kwargs: Any) -> Tensor:
        done, before = len(self.trace.records), reads.found.copy()
        denoised = inner(self, *args, **kwargs)
        if len(self.trace.records) > done:  # else it was of the tilted start
            seen.append((self.trace.records[-1].active, reads.found - before))
        return denoised

    monkeypatch.setattr(Guidance, "predict_noise", counted)
    with reads:
        case.lags(mode="balanced")
    return seen


MOST = {True: 10, False: 3}  # the noise level, whether it is guided, the trace; and what is finite


def test_a_step_reads_few_numbers_off_the_gpu(steps):
    for is_guided, most in MOST.items():
        found = [reads for active, reads in steps[1:] if active is is_guided]
        assert found and all(reads == found[0] for reads in found)
        assert found[0].total() <= most, found[0]
        assert max(n for line, n in found[0].items() if "trace.py" in line) == 1


def test_each_kind_of_reading_is_counted(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "is_ours", lambda frame: True)
    x = torch.ones(3)
    ways = [
        *(lambda x: float(x[0]), lambda x: bool(x[0]), lambda x: x.cpu(), lambda x: x.tolist()),
        *(
            lambda x: x[x > 0],
            lambda x: x.max().item(),
            lambda x: int(x.sum()),
            lambda x: x.numpy(),
        ),
        lambda x: (2 * x.sum().to(torch.float64)).item(),
    ]
    for way in ways:
        with HostReads() as reads:
            way(x)
        assert reads.found.total() == 1
    with HostReads() as reads:
        here = x.cpu() * torch.ones(3)
        assert bool(here.any()) and here.tolist() and here[here > 0].sum().item() == 3
    assert reads.found.total() == 1
