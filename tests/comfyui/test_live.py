"""What the page is told and may ask, beside the schedule itself: the cost of events, cut runs."""

from __future__ import annotations

import json
import math
import statistics
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfyui_support.executing import run_node
from comfyui_support.prompts import METHODS
from comfyui_support.weighing import demo_case
from lags_pack.guidance import StepRecord, Trace
from lags_pack.nodes import METHODS as METHOD_NODES
from lags_pack.nodes.tools.score import LAGSScoreImages
from lags_pack.rewards import ColourReward, Weight
from lags_pack.runtime import page as live
from lags_pack.runtime.last_model import remember
from lags_pack.runtime.page_plan import schedule

ASKED = {
    **{"node": "never run", "sampler_name": "euler", "scheduler": "karras", "steps": 20},
    **{"denoise": 1.0, "mode": "paper", "c": 10.0},
}


def test_events_cost_less_than_a_hundredth_of_a_step(monkeypatch):
    _, trace = demo_case(16, strength=30.0, sampler_name="euler").lags()
    step = statistics.median(record.seconds for record in trace.records)

    def send(event: str, body: dict[str, Any], client: str | None) -> None:
        json.dumps({"type": event, "data": body})

    page = SimpleNamespace(client_id="a page", send_sync=send)
    monkeypatch.setattr(live, "page_server", lambda: page)
    tell = live.watcher("5")
    assert tell is not None
    guided = Trace(trace.label)  # a plain step has fewer numbers
    guided.add(next(record for record in trace.records if record.active))
    tell(guided)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        tell(guided)
        times.append(time.perf_counter() - start)
    cost = statistics.median(times)
    print(f"an event: {1e6 * cost:.0f} us, {100 * cost / step:.2f} % of a step of {step:.3f} s")
    assert cost < 0.01 * step


def test_numbers_that_are_not_finite_reach_the_page_as_none():
    ones = torch.ones(2)
    spoiled = torch.tensor([1.0, float("nan")])
    trace = Trace("spoiled")
    trace.add(StepRecord(ones, True, ones, spoiled, ones, ones, ones, 2, 1, 0.5))
    trace.add(StepRecord(ones, True, ones, ones, ones, ones, ones, 2, 1, 0.5))
    told = json.loads(json.dumps(live.summary(trace), allow_nan=False))
    assert [point["log_w"] for point in told["points"]] == [None, 1.0]
    assert [point["alpha"] for point in told["points"]] == [1.0, 1.0]


def test_a_run_between_two_steps_is_part_of_the_whole():
    whole = schedule(ASKED)
    part = schedule({**ASKED, "start_at_step": 5, "end_at_step": 12})
    assert part["sigma"] == whole["sigma"][5:12]
    assert part["alpha"] == whole["alpha"][5:12]
    assert schedule({**ASKED, "start_at_step": 0, "end_at_step": 10000}) == whole
    with pytest.raises(ValueError, match="start_at_step is 20, of 20 steps"):
        schedule({**ASKED, "start_at_step": 20, "end_at_step": 10000})


def test_a_run_that_adds_no_noise_tilts_no_start():
    tilted, going_on = schedule(ASKED), schedule({**ASKED, "add_noise": "disable"})
    assert tilted["model_calls"] - going_on["model_calls"] in (0, 2)
    few = {**ASKED, "mode": "balanced", "c": 1.0, "steps": 8}
    more = {**few, "steps": 20}
    for asked, calls in ((few, 2), (more, 0)):  # the start's measurement is the first step's
        start = schedule(asked)["model_calls"]
        assert start - schedule({**asked, "add_noise": "disable"})["model_calls"] == calls


@pytest.mark.parametrize("method", [None, {"type": "LAGSMethodMPGD", "rho": 1.0}])
def test_strength_0_is_planned_as_plain_sampling(method):
    plan = schedule({**ASKED, "mode": "balanced", "strength": 0.0, "method": method})
    assert (plan["model_calls"], plan["relative_cost"], any(plan["active"])) == (20, 1.0, False)


def test_connected_sigmas_take_the_place_of_steps():
    with pytest.raises(ValueError, match="run the node once"):
        schedule({**ASKED, "sigmas": True})
    remember("with sigmas", None, torch.tensor([5.0, 2.0, 1.0, 0.0]))
    plan = schedule({**ASKED, "node": "with sigmas", "sigmas": True})
    assert plan["sigma"] == [5.0, 2.0, 1.0]
    assert plan["source"]["key"] == "connected_sigmas"


@pytest.mark.parametrize("node", METHOD_NODES)
def test_a_connected_method_is_planned_as_it_runs(node):
    kind = node.__name__
    case = demo_case(1, strength=30.0, steps=6)
    remember("with a method", case.model)
    asked = {"node": "with a method", "method": {"type": kind, **METHODS[kind]}}
    widgets = {k: v for k, v in case.settings.items() if not isinstance(v, dict | list)}
    planned = schedule({**widgets, "strength": 1.0, "mode": "balanced", "c": 10.0, **asked})
    (method,) = run_node(node, **METHODS[kind])
    _, trace = case.lags(method=method)
    told = live.summary(trace)
    assert planned["model_calls"] == told["model_calls"] > 0
    assert planned["model_backwards"] == told["model_backwards"]
    assert planned["weight_calls"] == told["weight_calls"]
    ran = {round(point["sigma"], 3): point["active"] for point in told["points"]}
    sigmas = [round(sigma, 3) for sigma in planned["sigma"]]
    assert dict(zip(sigmas, planned["active"], strict=True)) == ran


def test_a_method_of_another_pack_has_no_plan():
    asked = {**ASKED, "method": {"type": "SomebodysMethod", "dial": 3}}
    assert schedule(asked) == {"other": "SomebodysMethod"}
    for bad in ("das", {"dial": 3}, {"type": "LAGSMethodDPS"}):
        with pytest.raises((ValueError, KeyError)):
            schedule({**ASKED, "method": bad})
    for rho in (-1.0, 1e9, math.nan, "much"):
        with pytest.raises(ValueError):
            method = {"type": "LAGSMethodDPS", "rho": rho, "normalised": False}
            schedule({**ASKED, "method": method})


def test_widgets_that_no_plan_hangs_on_are_no_trouble():
    more = {"seed": 1, "control_after_generate": "fixed", "momentum": 0.5, "lags_panel": ""}
    assert schedule({**ASKED, **more}) == schedule(ASKED)
    all_levels = {name: value for name, value in ASKED.items() if name != "denoise"}
    assert schedule(all_levels) == schedule(ASKED)


def test_scores_reach_the_page_best_first():
    images = torch.zeros(3, 300, 400, 3)
    for i, red in enumerate((0.2, 0.9, 0.5)):
        images[i, ..., 0] = red
    weight = Weight.of(ColourReward("hue", 0.0), 10.0)
    with torch.inference_mode():
        output = LAGSScoreImages.execute(images, weight, 1)
    shown = output.ui["lags_scores"]
    assert [one["index"] for one in shown] == [1, 2, 0]
    assert [one["rank"] for one in shown] == [1, 2, 3]
    scores = output.result[3]
    assert [one["score"] for one in shown] == [scores[1], scores[2], scores[0]]
    assert all(one["image"]["type"] == "temp" for one in shown)
    json.dumps(output.ui)
