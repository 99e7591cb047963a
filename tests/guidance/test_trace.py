from __future__ import annotations

import json
import math
from dataclasses import replace

import torch
from lags_pack.guidance import StepRecord, Trace, preset
from lags_pack.tests.analytic import Gaussian, LinearLogWeight, sigmas

BASE = Gaussian(torch.zeros(8), 0.5)
LEVELS = (0.1, 1.0, 0.5, 0.05)  # balanced skips the first and the last


def run(trace: Trace) -> None:
    method, weight = preset("balanced"), LinearLogWeight(torch.ones(8))
    for level in LEVELS:
        x = level * torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
        trace.add(method(BASE.denoise, weight, x, sigmas(2, level))[1])


def test_counts_what_the_run_cost_and_is_ready_for_json() -> None:
    trace = Trace("balanced")
    run(trace)
    assert [record.active for record in trace.records] == [False, True, True, False]
    assert (trace.model_calls, trace.weight_calls) == (6, 2)
    assert trace.seconds == sum(record.seconds for record in trace.records) > 0
    read = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    assert read["label"] == "balanced" and len(read["records"]) == 4
    skipped, guided = read["records"][:2]
    assert skipped["alpha"] is None and skipped["active"] is False
    assert guided["sigma_ve"] == [1.0, 1.0] and guided["model_calls"] == 2
    for name in ("alpha", "log_w", "predicted_gain", "shift_rms", "denoised_rms"):
        assert len(guided[name]) == 2
    assert guided.keys() == skipped.keys() == vars(trace.records[0]).keys()
    assert Trace().records == [], "not shared"


def test_a_record_that_waits_is_not_lost() -> None:
    trace, one = Trace(), torch.ones(1)
    trace.pending = StepRecord.skipped(one, 0.1)
    trace.add(StepRecord.skipped(2 * one, 0.1))
    assert [float(record.sigma_ve) for record in trace.records] == [1.0, 2.0]


def test_records_are_freed_from_inference_mode_and_from_the_run_and_are_float32() -> None:
    trace, sigma = Trace(), sigmas(1, 1.0)
    with torch.inference_mode():
        inside = torch.ones(1)
        assert inside.is_inference()
        trace.add(StepRecord(sigma, True, inside, inside, inside, inside, inside, 2, 1, 0.1))
    sigma.zero_()
    kept = trace.records[0]
    assert kept.sigma_ve.item() == 1.0
    assert not any(v.is_inference() for v in vars(kept).values() if isinstance(v, torch.Tensor))
    half = torch.ones(1, dtype=torch.bfloat16)
    trace.add(StepRecord(half, True, half, half, half, half, half, 2, 1, 0.1))
    assert trace.records[1].alpha.dtype == torch.float32


def test_a_weight_of_zero_leaves_valid_json() -> None:
    none = StepRecord.skipped(torch.ones(2), 0.1)
    record = replace(
        none, log_w=torch.tensor([-math.inf, 1.0]), terms={"a": torch.tensor([math.nan])}
    )
    read = json.loads(json.dumps(record.to_dict(), allow_nan=False))
    assert read["log_w"] == [None, 1.0] and read["terms"] == {"a": [None]}
