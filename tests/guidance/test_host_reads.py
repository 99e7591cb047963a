"""A guided step waits for the device twice outside ComfyUI too, and a plain one once."""

from __future__ import annotations

import pytest
import torch
from lags_pack import guidance
from lags_pack.guidance import METHODS
from lags_pack.tests import host_reads
from lags_pack.tests.analytic import LinearLogWeight
from lags_pack.tests.guidance.test_methods import LEVELS, SLOPE, bound, denoiser, draw


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", METHODS)
def test_an_evaluation_waits_for_the_noise_level_and_for_what_is_finite(
    name: str, level: float
) -> None:
    (x, sigma), trace = draw(level), guidance.Trace()
    log_weight, model = LinearLogWeight(SLOPE), denoiser()
    with host_reads.HostReads() as reads:
        method = bound(name)
        reads.found.clear()  # the run's noise levels
        _, trace.pending = method(model, log_weight, x, sigma)
    assert reads.found.total() == 1 + trace.pending.active, reads.found
    with host_reads.HostReads() as reads:
        trace.settle(sigma)
    assert reads.found.total() == 1, "the record, with the next noise level"


def test_each_kind_of_reading_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_reads, "is_ours", lambda frame: True)
    x = torch.ones(3)
    ways = [
        *(lambda x: float(x[0]), lambda x: bool(x[0]), lambda x: x.cpu(), lambda x: x.tolist()),
        *(lambda x: x.to("cpu"), lambda x: torch.ones(2).to(x.device)),
        *(
            lambda x: x[x > 0],
            lambda x: x.max().item(),
            lambda x: int(x.sum()),
            lambda x: x.numpy(),
        ),
        lambda x: (2 * x.sum().to(torch.float64)).item(),
    ]
    for way in ways:
        with host_reads.HostReads() as reads:
            way(x)
        assert reads.found.total() == 1
    with host_reads.HostReads() as reads:
        here = x.cpu() * torch.ones(3)
        assert bool(here.any()) and here.tolist() and here[here > 0].sum().item() == 3
    assert reads.found.total() == 1
