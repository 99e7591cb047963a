"""The schedule node draws what the sampler then does; the trace node writes what it did."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3
from lags_pack.guidance import Trace
from lags_pack.nodes.samplers.ksampler import LAGSKSampler
from lags_pack.nodes.tools.options import LAGSOptions
from lags_pack.nodes.tools.schedule import LAGSScheduleVisualizer
from lags_pack.nodes.tools.trace import LAGSTracePlot
from lags_pack.rewards import ColourReward, Weight
from lags_pack.runtime import plans
from lags_pack.runtime.page import STEP, shown, summary
from lags_pack.runtime.page_plan import schedule

LOOK = {"axis": "step", "theme": "light", "scale": 0.5}
RUN = {"sampler_name": "euler", "scheduler": "karras", "steps": 6, "denoise": 1.0}


def drawn(run_node: Callable[..., Any], **inputs: Any) -> tuple[Any, ...]:
    """The schedule node's outputs."""
    usual = {**RUN, **LOOK, "mode": "balanced", "c": 10.0, "nats": 3.0, "compare": "1, 100"}
    return run_node(LAGSScheduleVisualizer, **{**usual, **inputs})


def sampled(run_node: Callable[..., Any], tiny: Any, model: Any, **inputs: Any) -> Trace:
    """The trace of a run with the same settings."""
    settings = {
        "model": model,
        "seed": 1,
        "cfg": 1.0,
        "positive": tiny.positive,
        "negative": tiny.negative,
        "latent_image": tiny.latent(1),
        "vae": tiny.vae,
        "weight": Weight.of(ColourReward("hue"), 5.0),
        "strength": 1.0,
        "mode": "balanced",
        "c": 10.0,
        **RUN,
    }
    return run_node(LAGSKSampler, **{**settings, **inputs})[1]


@pytest.fixture(scope="module", params=["sd15", "sdxl", "v-prediction", "flow"])
def case(request: pytest.FixtureRequest, run_node: Callable[..., Any]) -> tuple[Any, Any]:
    """A tiny checkpoint and a MODEL made of it."""
    tiny = request.getfixturevalue("sdxl" if request.param == "sdxl" else "sd15")
    if request.param == "v-prediction":
        node, options = ModelSamplingDiscrete, {"sampling": "v_prediction", "zsnr": False}
    elif request.param == "flow":
        node, options = ModelSamplingSD3, {"shift": 3.0}
    else:
        return tiny, tiny.model
    return tiny, run_node(node, model=tiny.model, **options)[0]


@pytest.mark.parametrize("scheduler", ["karras", "normal"])
@pytest.mark.parametrize("mode", ["paper", "balanced"])
def test_plan_is_what_the_run_does(
    case: tuple[Any, Any], run_node: Callable[..., Any], mode: str, scheduler: str
) -> None:
    tiny, model = case
    _, sigmas, text = drawn(run_node, model=model, mode=mode, scheduler=scheduler)
    trace = sampled(run_node, tiny, model, mode=mode, scheduler=scheduler)
    made = plans.planned(model, sigmas, mode, 10.0, 3.0, None)
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
    plain = len(made.sigma) - len(planned)
    assert made.total_calls == trace.model_calls + plain


def test_sigmas_instead_of_a_model(run_node: Callable[..., Any]) -> None:
    levels = torch.tensor([10.0, 1.0, 0.1, 0.0])
    image, out, text = drawn(run_node, sigmas=levels, mode="paper")
    assert torch.equal(out, levels) and image.shape == (1, 384, 512, 3)
    assert "3 of 3 steps guided" in text and "6 model calls, 2.00 x plain" in text


def test_samplers_that_drop_a_level_and_denoise(run_node: Callable[..., Any], sd15: Any) -> None:
    import comfy.samplers

    for sampler, denoise in (("dpm_2", 1.0), ("euler", 0.5)):
        _, sigmas, _ = drawn(run_node, model=sd15.model, sampler_name=sampler, denoise=denoise)
        own = comfy.samplers.KSampler(sd15.model, 6, "cpu", sampler, "karras", denoise).sigmas
        assert torch.allclose(sigmas, own)


def test_options_are_drawn(run_node: Callable[..., Any], sd15: Any) -> None:
    widgets = {
        "schedule": "hard gate",
        "sigma_gate": 1.0,
        "skip_below": 0.0,
        "shift_limit": 0.0,
        "relative_step": 0.0,
        "epsilon": 0.0,
    }
    (options,) = run_node(LAGSOptions, **widgets)
    plain, gated = (
        drawn(run_node, model=sd15.model, mode="paper", **extra)[0]
        for extra in ({}, {"options": options})
    )
    assert not torch.equal(plain, gated)
    asked = {"node": "none", **RUN, "mode": "paper", "c": 10.0, "options": widgets}
    answer = schedule(asked)
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
def test_bad_input(run_node: Callable[..., Any], inputs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        drawn(run_node, **inputs)


def test_route_knows_the_model_after_a_run(run_node: Callable[..., Any], sd15: Any) -> None:
    from lags_pack.runtime.last_model import remember

    asked = {"node": "77", **RUN, "mode": "paper", "c": 10.0}
    before = schedule(asked)
    assert before["source"].startswith("SD")
    (flow,) = run_node(ModelSamplingSD3, model=sd15.model, shift=3.0)
    remember("77", flow)
    after = schedule(asked)
    assert after["source"] == "the connected model"
    assert after["sigma"][0] == pytest.approx(1.0) and before["sigma"][0] > 14
    assert schedule({**asked, "node": "78"})["sigma"] == before["sigma"]
    for bad in ({"c": "x"}, {"c": 0}, {"mode": "slow"}, {"steps": 0}, {"steps": 10**9}):
        with pytest.raises(ValueError):
            schedule({**asked, **bad})
    with pytest.raises(KeyError):
        schedule({"node": "1"})


def test_route_over_http(server: Any) -> None:
    import urllib.request
    from urllib.error import HTTPError

    def ask(body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310
            f"{server.url}/lags/schedule",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)

    asked = {"node": "1", **RUN, "mode": "paper", "c": 10.0}
    assert len(ask(asked)["alpha"]) == 6
    with pytest.raises(HTTPError) as refused:
        ask({**asked, "c": -1})
    assert refused.value.code == 400 and "-1" in json.load(refused.value)["error"]


def test_trace_is_drawn_and_written(
    run_node: Callable[..., Any], sd15: Any, comfy_base: Path
) -> None:
    runs = {
        f"trace{i}": sampled(run_node, sd15, sd15.model, mode=m)
        for i, m in enumerate(("balanced", "paper"))
    }
    for export in ("csv", "json"):
        image, file = run_node(
            LAGSTracePlot, traces=runs, **LOOK, export=export, filename_prefix="lags/run"
        )
        assert image.shape == (1, 384, 512, 3)
        written = comfy_base / "output" / file
        assert written.is_file() and file.startswith("lags/run_")
        if export == "json":
            assert json.loads(written.read_text()) == [t.to_dict() for t in runs.values()]
            continue
        rows = list(csv.DictReader(written.open()))
        assert len(rows) == sum(len(trace.records) for trace in runs.values())
        first = runs["trace0"].records[0]
        assert float(rows[0]["log_w"]) == pytest.approx(float(first.log_w.mean()))
    _, none = run_node(
        LAGSTracePlot, traces=runs, **LOOK, export="none", filename_prefix="lags/run"
    )
    assert none == ""


@pytest.mark.parametrize("prefix", ["../out", "/out", "a/../../out"])
def test_files_stay_in_the_output_folder(
    run_node: Callable[..., Any], comfy_base: Path, prefix: str
) -> None:
    before = set(comfy_base.glob("**/out*"))
    with pytest.raises(ValueError, match="leads out"):
        run_node(
            LAGSTracePlot,
            traces={"trace0": Trace()},
            **LOOK,
            export="json",
            filename_prefix=prefix,
        )
    assert set(comfy_base.glob("**/out*")) == before


def test_page_gets_one_event_per_evaluation_and_the_same_numbers_at_the_end(
    run_node: Callable[..., Any], sd15: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lags_pack.runtime import page as live

    class Page:
        client_id = "me"
        sent: list[tuple[str, dict[str, Any], str]] = []

        def send_sync(self, event: str, body: dict[str, Any], client: str) -> None:
            self.sent.append((event, json.loads(json.dumps(body, allow_nan=False)), client))

    page = Page()
    monkeypatch.setattr(live, "page_server", lambda: page)
    trace = sampled(run_node, sd15, sd15.model)
    assert page.sent == [], "a node without an id has no panel"
    trace.watcher = live.watcher("5")
    records = list(trace.records)
    trace.clear()
    for record in records:
        trace.add(record)
    events = [event for event, _, _ in page.sent]
    assert events == ["lags.start"] + [STEP] * len(records)
    assert {body["node"] for _, body, _ in page.sent} == {"5"}
    assert {client for _, _, client in page.sent} == {"me"}
    points = [body["point"] for event, body, _ in page.sent if event == STEP]
    assert points == summary(trace)["points"] == [shown(record) for record in records]
    assert [body["index"] for event, body, _ in page.sent if event == STEP] == list(
        range(len(records))
    )
    assert points[0]["term colour (hue)"] == pytest.approx(points[0]["log_w"])
