"""How often a step waits for the GPU, in runs of each mode; see tests/host_reads.py."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from comfyui_support.guided import Case
from comfyui_support.weighing import case_of
from lags_pack.guidance import StepRecord
from lags_pack.runtime.run import Guidance
from lags_pack.tests.host_reads import HostReads
from torch import Tensor


def steps_of(case: Case, patches: Any, **settings: Any) -> list[tuple[StepRecord, Counter[str]]]:
    """Every evaluation of a run: what it did, and what it reads."""
    reads, seen = HostReads(), []
    inner = Guidance.predict_noise

    def counted(self: Guidance, *args: Any, **kwargs: Any) -> Tensor:
        before = reads.found.copy()
        denoised = inner(self, *args, **kwargs)
        if self.trace.pending is not None:  # else it was of the tilted start
            seen.append((self.trace.pending, reads.found - before))
        return denoised

    patches.setattr(Guidance, "predict_noise", counted)
    with reads:
        case.lags(**settings)
    return seen


# Whether it is guided, and the gradients that it took.
KINDS = {
    "balanced": {(True, 1), (True, 0), (False, 0)},
    "fast": {(True, 1), (True, 0), (False, 0)},
    "paper": {(True, 1)},
}
GUIDED, PLAIN = 2, 1  # the noise level with the last step's record; and what is finite


@pytest.mark.parametrize(
    ("mode", "sampler"),
    [("balanced", "euler_ancestral"), ("balanced", "euler"), ("fast", "lcm"), ("paper", "heun")],
)
def test_a_step_waits_for_few_numbers_of_the_gpu(sd15, monkeypatch, mode, sampler):
    case = case_of(sd15, batch=2, steps=10, strength=20.0, sampler_name=sampler)
    seen = steps_of(case, monkeypatch, mode=mode)
    for record, found in seen:
        assert found.total() <= (GUIDED if record.active else PLAIN), found
    kinds = {(record.active, record.weight_calls) for record, _ in seen}
    assert kinds == KINDS[mode], "every kind of step was counted"


def test_a_run_that_ends_early_keeps_the_record_of_its_last_step(sd15, monkeypatch):
    inner, traces = Guidance.predict_noise, []

    def failing(self: Guidance, *args: Any, **kwargs: Any) -> Tensor:
        if len(traces) == 3:
            raise KeyError("pulled out")
        traces.append(self.trace)
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(Guidance, "predict_noise", failing)
    with pytest.raises(KeyError, match="pulled out"):
        case_of(sd15, sampler_name="euler").lags(mode="paper")
    assert [len(trace.records) for trace in traces] == [3, 3, 3]
