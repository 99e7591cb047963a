"""The schedule node draws what the sampler then does; the trace node writes what it did."""

from __future__ import annotations

import asyncio
import csv
import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import comfy.samplers
import execution
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3
from comfyui_support.executing import Executor, run_node
from comfyui_support.guided import OPTIONS, Case, options
from comfyui_support.prompts import node
from comfyui_support.weighing import case_of
from lags_pack.guidance import Trace
from lags_pack.nodes.samplers.mmsold import LAGSMMSOLD
from lags_pack.nodes.tools.schedule import LAGSScheduleVisualizer
from lags_pack.nodes.tools.trace import LAGSTracePlot
from lags_pack.runtime import page as live
from lags_pack.runtime import plans
from lags_pack.runtime.last_model import remember
from lags_pack.runtime.page import STEP, shown, summary
from lags_pack.runtime.page_plan import schedule

LOOK = {"axis": "step", "theme": "light", "scale": 0.5}
RUN = {"sampler_name": "euler", "scheduler": "karras", "steps": 6, "denoise": 1.0}
ASKED = {"node": "1", **RUN, "mode": "paper", "c": 10.0}


def drawn(**inputs: Any) -> tuple[Any, ...]:
    """The schedule node's outputs."""
    usual = {**RUN, **LOOK, "mode": "balanced", "c": 10.0, "nats": 3.0, "compare": "1, 100"}
    return run_node(LAGSScheduleVisualizer, **{**usual, **inputs})


def plotted(traces: list[Trace], export: str, prefix: str) -> tuple[Any, str]:
    """The plot of traces, and the name of the file that is written."""
    sockets = {f"trace{i}": trace for i, trace in enumerate(traces)}
    chosen = {**LOOK, "export": export, "filename_prefix": prefix}
    return run_node(LAGSTracePlot, traces=sockets, **chosen)


@pytest.fixture(scope="module")
def plain(sd15) -> Case:
    return case_of(sd15, 1, 8, strength=5.0, cfg=1.0, **RUN)


@pytest.fixture(scope="module", params=["sd15", "sdxl", "v-prediction", "flow"])
def case(request, plain, sdxl) -> Case:
    """A tiny checkpoint, or a MODEL made of it."""
    if request.param == "sdxl":
        return case_of(sdxl, 1, 8, strength=5.0, cfg=1.0, **RUN)
    model = plain.model
    if request.param == "v-prediction":
        settings = {"sampling": "v_prediction", "zsnr": False}
        (model,) = run_node(ModelSamplingDiscrete, model=model, **settings)
    elif request.param == "flow":
        (model,) = run_node(ModelSamplingSD3, model=model, shift=3.0)
    return replace(plain, model=model)


@pytest.mark.parametrize("scheduler", ["karras", "normal"])
@pytest.mark.parametrize("mode", ["paper", "balanced"])
def test_plan_is_what_the_run_does(case, mode, scheduler):
    _, sigmas, text = drawn(model=case.model, mode=mode, scheduler=scheduler)
    # The visualizer has no cfg and plans for two branches, which ask about no distilled model.
    _, trace = case.lags(mode=mode, scheduler=scheduler, cfg=2.0)
    made = plans.planned(case.model, sigmas, mode, 10.0, 3.0, None)
    # A flow model's first level has no signal: that evaluation is plain, and not in the trace.
    planned = [(s, a) for s, a in zip(made.sigma_ve, made.active, strict=True) if s < 999]
    assert len(planned) == len(trace.records)
    for (sigma, active), record in zip(planned, trace.records, strict=True):
        assert float(record.sigma_ve[0]) == pytest.approx(float(sigma), rel=1e-4)
        assert record.active == bool(active)
    if mode == "paper":
        done = [float(record.alpha[0]) for record in trace.records]
        assert done == pytest.approx(made.alpha.tolist()[-len(done) :], rel=1e-4)
    assert f"{int(made.active.sum())} of {len(made.sigma)} steps guided" in text
    assert trace.unrecorded == len(made.sigma) - len(planned)
    assert made.total_calls == trace.model_calls


def test_sigmas_instead_of_a_model():
    levels = torch.tensor([10.0, 1.0, 0.1, 0.0])
    image, out, text = drawn(sigmas=levels, mode="paper")
    assert torch.equal(out, levels) and image.shape == (1, 384, 512, 3)
    assert "3 of 3 steps guided" in text and "6 model calls, 2.00 x plain" in text


@pytest.mark.parametrize(("sampler", "denoise"), [("dpm_2", 1.0), ("euler", 0.5)])
def test_samplers_that_drop_a_level_and_denoise(sd15, sampler, denoise):
    _, sigmas, _ = drawn(model=sd15.model, sampler_name=sampler, denoise=denoise)
    own = comfy.samplers.KSampler(sd15.model, 6, "cpu", sampler, "karras", denoise).sigmas
    assert torch.allclose(sigmas, own)


def test_options_are_drawn(sd15):
    widgets = {**OPTIONS, "schedule": "hard gate", "sigma_gate": 1.0, "skip_below": 0.0}
    plain, gated = (
        drawn(model=sd15.model, mode="paper", **extra)[0]
        for extra in ({}, {"options": options(**widgets)})
    )
    assert not torch.equal(plain, gated)
    answer = schedule({**ASKED, "node": "none", "options": widgets})
    assert [a == (s <= 1.0) for a, s in zip(answer["alpha"], answer["sigma"], strict=True)]
    assert set(answer["alpha"]) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "connect a model"),
        ({"sigmas": torch.tensor([])}, "no noise level"),
        ({"sigmas": torch.tensor([math.nan, 0.0])}, "not finite"),
        ({"sigmas": torch.tensor([1.0, 0.0]), "compare": "ten"}, "'ten'"),
        ({"sigmas": torch.tensor([1.0, 0.0]), "compare": "-1"}, "-1"),
        ({"sigmas": torch.tensor([1.0, 0.0]), "c": math.nan}, "nan"),
    ],
)
def test_bad_input(inputs, said):
    with pytest.raises(ValueError, match=said):
        drawn(**inputs)


def widgets_of(kind: type) -> dict[str, Any]:
    """Every widget of a node at its default."""
    inputs = kind.GET_SCHEMA().inputs
    shown = {one.id: one for one in inputs if hasattr(one, "default") and not one.optional}
    return {
        name: one.default if one.default is not None else one.options[0]
        for name, one in shown.items()
    }


@pytest.mark.parametrize(
    ("kind", "socket", "said"),
    [
        (LAGSScheduleVisualizer, "model", "There are no noise levels: connect a model, or SIGMAS."),
        (LAGSMMSOLD, "images", "Neither images nor latents is connected"),
    ],
)
def test_a_node_without_its_inputs_stops_its_own_branch_only(monkeypatch, kind, socket, said):
    """It is said at the node when the prompt is queued."""
    Executor(monkeypatch)
    name = kind.GET_SCHEMA().node_id
    prompt = {
        "image": node("EmptyImage", width=8, height=8, batch_size=1, color=0),
        "other": node("PreviewImage", images=["image", 0]),
        "ours": node(name, **widgets_of(kind)),
        "shown": node("PreviewImage", images=["ours", 0]),
    }
    right, _, outputs, errors = asyncio.run(execution.validate_prompt("id", prompt, None))
    assert right and outputs == ["other"]
    (fault,) = errors["ours"]["errors"]
    assert said in fault["details"]
    kinds = {"model": ("CheckpointLoaderSimple", {"ckpt_name": "none"}), "images": (None, {})}
    loader, widgets = kinds[socket]
    prompt["model"] = node(loader, **widgets) if loader else prompt["image"]
    prompt["ours"]["inputs"][socket] = ["model", 0]
    _, _, _, errors = asyncio.run(execution.validate_prompt("id", prompt, None))
    assert "ours" not in errors


def test_route_knows_the_model_after_a_run(sd15):
    asked = {**ASKED, "node": "77"}
    before = schedule(asked)
    assert before["source"]["key"] == "sd_until_run"
    (flow,) = run_node(ModelSamplingSD3, model=sd15.model, shift=3.0)
    remember("77", flow)
    after = schedule(asked)
    assert after["source"]["key"] == "connected_model"
    assert after["sigma"][0] == pytest.approx(1.0) and before["sigma"][0] > 14
    assert schedule({**asked, "node": "78"})["sigma"] == before["sigma"]
    for bad in ({"c": "x"}, {"c": 0}, {"mode": "slow"}, {"steps": 0}, {"steps": 10**9}):
        with pytest.raises(ValueError):
            schedule({**asked, **bad})
    with pytest.raises(KeyError):
        schedule({"node": "1"})


def test_route_over_http(server):
    def ask(**changes: Any) -> tuple[int, Any]:
        status, body = server.answer("/lags/schedule", {**ASKED, **changes})
        return status, json.loads(body)

    status, told = ask()
    assert status == 200 and len(told["alpha"]) == 6
    status, told = ask(c=-1)
    assert status == 400 and "-1" in told["error"]["text"]


def test_trace_is_drawn_and_written(plain, comfy_base):
    runs = [plain.lags(mode=mode)[1] for mode in ("balanced", "paper")]
    for export in ("csv", "json"):
        image, file = plotted(runs, export, "lags/run")
        assert image.shape == (1, 384, 512, 3)
        written = comfy_base / "output" / file
        assert written.is_file() and file.startswith("lags/run_")
        if export == "json":
            assert json.loads(written.read_text()) == [trace.to_dict() for trace in runs]
            continue
        rows = list(csv.DictReader(written.open()))
        assert len(rows) == sum(len(trace.records) for trace in runs)
        first = runs[0].records[0]
        assert float(rows[0]["log_w"]) == pytest.approx(float(first.log_w.mean()))
    assert plotted(runs, "none", "lags/run")[1] == ""


@pytest.mark.parametrize("prefix", ["../out", "/out", "a/../../out"])
def test_files_stay_in_the_output_folder(comfy_base, prefix):
    before = set(comfy_base.glob("**/out*"))
    with pytest.raises(ValueError, match="leads out"):
        plotted([Trace()], "json", prefix)
    assert set(comfy_base.glob("**/out*")) == before


def test_page_gets_one_event_per_evaluation_and_the_same_numbers_at_the_end(plain, monkeypatch):
    sent: list[tuple[str, dict[str, Any], str]] = []

    def send(event: str, body: dict[str, Any], client: str) -> None:
        sent.append((event, json.loads(json.dumps(body, allow_nan=False)), client))

    page = SimpleNamespace(client_id="me", send_sync=send)
    monkeypatch.setattr(live, "page_server", lambda: page)
    _, trace = plain.lags()
    assert sent == [], "a node without an id has no panel"
    trace.watcher = live.watcher("5")
    records = list(trace.records)
    trace.clear()
    for record in records:
        trace.add(record)
    assert [event for event, _, _ in sent] == ["lags.start"] + [STEP] * len(records)
    assert {(body["node"], client) for _, body, client in sent} == {("5", "me")}
    steps = [body for event, body, _ in sent if event == STEP]
    points = [body["point"] for body in steps]
    assert points == summary(trace)["points"] == [shown(record) for record in records]
    assert [body["index"] for body in steps] == list(range(len(records)))
    assert points[0]["term colour (hue)"] == pytest.approx(points[0]["log_w"])
