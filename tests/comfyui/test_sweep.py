"""One run for many settings: ComfyUI's own lists from the Sweep to the Compare node."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import comfy.model_management as mm
import pytest
import torch
from comfyui_support.executing import Executor, Prompt, run_node
from comfyui_support.prompts import colour, lags, node, sampled
from lags_pack.guidance import Trace
from lags_pack.nodes.tools.sweep import LAGSCompare
from lags_pack.rewards import ColourReward, Weight
from lags_pack.runtime import comparing, finished, sampling
from lags_pack.runtime.sweeps import NAMES, Sweep, connected, swept
from torch import Tensor

VALUES = {"strengths": "1, 4", "c": "10", "modes": "balanced", "seeds": "3, 5"}
BRIGHT = Weight.of(ColourReward("brightness"), 2.0)


def prompt_of(batch: int = 1, nats: float = 0.0, **changes: str) -> Prompt:
    """A sweep of KSampler (LAGS) on the bundled model, compared."""
    links = {name: ["sweep", i] for i, name in enumerate(NAMES)}
    links |= {"model": ["demo", 0]}
    sampler = lags(**{**links, "seed": links["seed"], "mode": links["mode"]})
    prompt = sampled(sampler, colour(nats=nats), batch)
    look = {"size": 64, "theme": "light"}
    return prompt | {
        "sweep": node("LAGSSweep", **{**VALUES, **changes}),
        "compare": node(
            "LAGSCompare",
            **{"images": ["decode", 0], "sweep": ["sweep", 4], "weight": ["weight", 0]},
            **{"traces": ["sample", 1], **look},
        ),
    }


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch) -> Executor:
    return Executor(monkeypatch)


def rows_of(table: str) -> list[dict[str, str]]:
    """A table's lines by the names of its columns, which may have a space inside."""
    head, *lines = table.splitlines()
    names = head.replace("model calls", "calls").replace("log w", "log_w").split()
    names = [name for name in names if name != "(hue)"]
    return [dict(zip(names, line.split(), strict=True)) for line in lines]


def test_every_setting_is_run_and_stands_where_its_name_is(execute):
    assert execute(prompt_of()), execute.error
    settings = [(0, 3), (0, 5), (1, 3), (1, 5), (4, 3), (4, 5)]
    assert list(zip(*(execute.outputs("sweep")[i] for i in (0, 3)), strict=True)) == settings
    images, traces = execute.outputs("decode")[0], execute.outputs("sample")[1]
    assert len(images) == len(traces) == 6
    picture, table = (values[0] for values in execute.outputs("compare"))
    rows = rows_of(table)
    assert [(float(r["strength"]), int(r["seed"])) for r in rows] == settings
    # Nothing is noted of a plain run: it said that it cost nothing.
    calls = [
        "-" if strength == 0 else str(t.model_calls)
        for (strength, _), t in zip(settings, traces, strict=True)
    ]
    assert [r["calls"] for r in rows] == calls
    scores = ColourReward("hue", 0.0)(torch.cat(images).movedim(-1, 1)).tolist()
    assert [float(r["colour"]) for r in rows] == pytest.approx(scores, abs=1e-4)
    assert [float(r["log_w"]) for r in rows] == pytest.approx([30 * s for s in scores], abs=2e-3)
    assert picture.shape[0] == 1 and picture.shape[-1] == 3


def test_one_entry_is_what_the_sampler_alone_makes(execute):
    """Strength 1 at seed 3, and plain: as a sampler with these numbers in its own widgets."""
    assert execute(prompt_of(strengths="1", seeds="3")), execute.error
    plain, guided = execute.outputs("sample")[0]
    for strength, found in ((0.0, plain), (1.0, guided)):
        alone = sampled(lags(3, strength=strength), colour())
        assert execute(alone), execute.error
        (wanted,) = execute.outputs("sample")[0]
        assert torch.equal(found["samples"], wanted["samples"])


def planned(**changes: str) -> Sweep:
    return swept(**{**VALUES, **changes})


def places(sweep: Sweep) -> dict[tuple[str, str], tuple[float, float, str, int]]:
    """The settings of every cell, by the names of its row and column."""
    return {
        (row, column): tuple(getattr(sweep.settings[run], name) for name in NAMES)
        for row, runs in zip(sweep.rows, sweep.cells, strict=True)
        for column, run in zip(sweep.columns, runs, strict=True)
    }


@pytest.mark.parametrize(
    ("changes", "columns", "rows", "common", "runs"),
    [
        ({}, "strength 1|strength 4", "seed 3|seed 5", "c 10, balanced", 6),
        ({"seeds": "7"}, "strength 1|strength 4", "", "c 10, balanced, seed 7", 3),
        ({"strengths": "2"}, "strength 2", "seed 3|seed 5", "c 10, balanced", 4),
        (
            {"modes": "fast, paper"},
            "strength 1|strength 4",
            "fast, seed 3|fast, seed 5|paper, seed 3|paper, seed 5",
            "c 10",
            10,
        ),
        (
            {"strengths": "2", "c": "1; 10", "seeds": "3"},
            "c 1|c 10",
            "",
            "strength 2, balanced, seed 3",
            3,
        ),
        ({"strengths": "2", "modes": "paper\nfast", "seeds": "3"}, "paper|fast", "", None, 3),
        (
            {"c": "1, 10", "seeds": "3"},
            "strength 1|strength 4",
            "c 1|c 10",
            "balanced, seed 3",
            5,
        ),
        ({"strengths": "0, 1, 1, 4", "seeds": "3, 5, 3"}, "strength 1|strength 4", None, None, 6),
        ({"strengths": "1，4"}, "strength 1|strength 4", "seed 3|seed 5", None, 6),  # noqa: RUF001
    ],
)
def test_rows_and_columns(changes, columns, rows, common, runs):
    sweep = planned(**changes)
    assert sweep.columns == ("plain", *columns.split("|"))
    assert rows is None or sweep.rows == tuple(rows.split("|"))
    assert common is None or sweep.common == common
    assert len(sweep.settings) == len(set(sweep.settings)) == runs
    assert [one.strength for one in sweep.settings[: runs - 1]].count(0) >= 1
    for (row, column), (strength, c, mode, seed) in places(sweep).items():
        said = f"{row}, {column}, {sweep.common}".split(", ")
        assert (strength == 0) == ("plain" in said)
        assert f"strength {strength:g}" in said or strength == 0
        assert f"seed {seed}" in said
        assert strength == 0 or {f"c {c:g}", mode} <= set(said)


def test_the_plain_images_are_run_first_and_only_once():
    sweep = planned(modes="fast, paper")
    assert [one.strength for one in sweep.settings[:2]] == [0, 0]
    assert [one.strength for one in sweep.settings[2:]].count(0) == 0
    assert [row[0] for row in sweep.cells] == [0, 1, 0, 1]


def test_the_greatest_seed_is_exact():
    assert planned(seeds=f"{2**64 - 1}, {2**53 + 1}").lists()[3][:2] == [2**64 - 1, 2**53 + 1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strengths": ""}, ["strengths", "other than 0"]),
        ({"strengths": "0"}, ["strengths", "other than 0"]),
        ({"strengths": "1, two"}, ["strengths", "'1, two'", "commas"]),
        ({"strengths": "1, nan"}, ["strengths", "nan", "-1000 to 1000"]),
        ({"strengths": "5000"}, ["strengths", "5000", "-1000 to 1000"]),
        ({"c": "0"}, ["c is 0", "0.001 to 10000"]),
        ({"c": " "}, ["Nothing stands in c"]),
        ({"modes": "slow"}, ["'slow'", "balanced, fast, paper"]),
        ({"seeds": "1.5"}, ["'1.5'", "whole numbers"]),
        ({"seeds": "-1"}, ["-1", "0 to 18446744073709551615"]),
        ({"seeds": ",".join(map(str, range(200)))}, ["600 runs (2 x 1 x 1 x 200", "256"]),
    ],
)
def test_bad_values_get_a_sentence(changes, words):
    with pytest.raises(ValueError) as caught:
        planned(**changes)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("name", "changes", "is_refused"),
    [
        ("strength", {"strengths": "1"}, True),
        ("seed", {}, True),
        ("seed", {"seeds": "3"}, False),
        ("mode", {"modes": "fast, paper"}, True),
    ],
)
def test_several_values_of_an_output_that_nothing_takes_are_refused(
    execute, name, changes, is_refused
):
    """The labels would name settings that the sampler never got."""
    prompt = prompt_of(**changes)
    own = lags(9)["inputs"]
    prompt["sample"]["inputs"][name] = own[name]
    assert execute(prompt) is not is_refused
    if is_refused:
        assert execute.error["node_type"] == "LAGSSweep"
        assert f"output {name} is not connected" in execute.error["exception_message"]
    else:  # what the Sweep says of it is not what was run, so the title is silent
        (sweep,) = execute.outputs("sweep")[4]
        assert "seed" not in sweep.common and "balanced" in sweep.common


GREYS = 0.1003, 0.2003, 0.3003  # that no letter's edge has: those are whole 255ths


def shown(sweep: Sweep, sizes: list[tuple[int, int, int]], **inputs: Any) -> tuple[Tensor, str]:
    """What Compare gives for grey images [batch, height, width], brighter from run to run."""
    images = [torch.full((*size, 3), GREYS[i]) for i, size in enumerate(sizes)]
    given = {"images": images, "sweep": [sweep], "weight": [BRIGHT], "size": [64]}
    picture, table = run_node(LAGSCompare, **{**given, "theme": ["light"], **inputs})
    return picture, table


def greys(picture: Tensor, value: float) -> int:
    """How many pixels have an image's own grey."""
    return int((picture - value).abs().amax(-1).lt(1e-4).sum())


ONE = {"strengths": "1", "seeds": "3"}


def test_batches_are_rows_and_are_all_there():
    picture, table = shown(planned(**ONE), [(2, 64, 64), (2, 64, 64)])
    assert greys(picture, GREYS[0]) >= 2 * 64 * 64 and greys(picture, GREYS[1]) >= 2 * 64 * 64
    rows = [line.split() for line in table.splitlines()[1:]]
    assert [row[4] for row in rows] == ["1", "2", "1", "2"]
    assert [float(row[5]) for row in rows] == pytest.approx(
        [*GREYS[:1] * 2, *GREYS[1:2] * 2], abs=1e-4
    )


def test_images_of_different_size_keep_their_shape():
    picture, _ = shown(planned(**ONE), [(1, 128, 64), (1, 32, 128)])
    assert greys(picture, GREYS[0]) == 64 * 32 and greys(picture, GREYS[1]) == 16 * 64


def test_a_batch_that_is_short_leaves_a_gap():
    picture, table = shown(planned(**ONE), [(1, 64, 64), (3, 64, 64)])
    assert greys(picture, GREYS[0]) == 64 * 64 and greys(picture, GREYS[1]) == 3 * 64 * 64
    assert len(table.splitlines()) == 5


def test_alpha_and_numbers_that_are_none_are_drawn():
    images = [torch.rand(1, 64, 64, 4), torch.full((1, 64, 64, 3), torch.nan)]
    picture, _ = shown(planned(**ONE), [], images=images, weight=None)
    assert picture.isfinite().all()


@pytest.mark.parametrize(("sizes", "count"), [([(1, 8, 8)], "1 run,"), ([(1, 8, 8)] * 3, "3 runs")])
def test_another_number_of_images_than_settings_is_refused(sizes, count):
    with pytest.raises(ValueError, match=f"images of {count}.* sweep has 2"):
        shown(planned(**ONE), sizes)
    with pytest.raises(ValueError, match="traces of 1 run,"):
        shown(planned(**ONE), [(1, 8, 8)] * 2, traces=[Trace()])


def test_an_automatic_strength_is_what_the_runs_used():
    """The second run's power is 2, so half of what it used is the weight's own."""
    automatic = Weight.of(ColourReward("brightness"), 1.0, spread=3.0)
    traces = [Trace(), Trace(strengths={"colour (brightness)": 40.0})]
    sweep = planned(strengths="2", seeds="3")
    _, table = shown(sweep, [(1, 8, 8)] * 2, weight=[automatic], traces=traces)
    log_w = [float(line.split()[6]) for line in table.splitlines()[1:]]
    assert log_w == pytest.approx([20 * grey for grey in GREYS[:2]], abs=1e-3)


def test_without_a_weight_there_are_images_and_settings():
    picture, table = shown(planned(**ONE), [(1, 64, 64)] * 2, weight=None)
    assert table.splitlines()[0].split() == ["strength", "c", "mode", "seed", "image"]
    assert greys(picture, GREYS[0]) == greys(picture, GREYS[1]) == 64 * 64


def test_an_automatic_strength_shows_what_ran(execute):
    assert execute(prompt_of(nats=3.0, strengths="1")), execute.error
    used = [t.strengths["colour (hue)"] for t in execute.outputs("sample")[1] if t.strengths]
    table = execute.outputs("compare")[1][0]
    for row in rows_of(table):
        strength, score = sum(used) / len(used), float(row["colour"])
        assert float(row["log_w"]) == pytest.approx(strength * score, abs=1e-4 * strength)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """The seeds of KSampler's runs, as they come; the user stops the run whose number `stop` is."""
    monkeypatch.setattr(finished, "_lists", type(finished._lists)())
    counted: Any = Runs()
    original = sampling.common_ksampler

    def ksampler(model: Any, seed: int, *args: Any, **kwargs: Any) -> Any:
        counted.append(seed)
        if len(counted) == counted.stop:
            mm.interrupt_current_processing()
            mm.throw_exception_if_processing_interrupted()
        if len(counted) == counted.fail:
            raise ValueError("the disk is full")
        return original(model, seed, *args, **kwargs)

    monkeypatch.setattr(sampling, "common_ksampler", ksampler)
    return counted


class Runs(list):
    stop = fail = 0


@pytest.mark.parametrize("how", ["stop", "fail"])
def test_a_stopped_sweep_goes_on_where_it_was(execute, runs, how, monkeypatch):
    setattr(runs, how, 4)
    assert not execute(prompt_of())
    assert len(runs) == 4
    assert execute(prompt_of()), execute.error
    assert runs == [3, 5, 3, 5, 5, 3, 5], "the fourth again, and the two that were left"
    together = [one["samples"] for one in execute.outputs("sample")[0]]
    assert len(execute.outputs("compare")[0]) == 1
    runs.clear()
    setattr(runs, how, 0)
    afresh = Executor(monkeypatch)  # with nothing cached, of which nothing was kept
    assert afresh(prompt_of()), afresh.error
    assert runs == [3, 5, 3, 5, 3, 5]
    for one, alone in zip(together, afresh.outputs("sample")[0], strict=True):
        assert torch.equal(one, alone["samples"])


def test_stopped_twice_it_still_goes_on(execute, runs):
    for stop in (3, 5):
        runs.stop = stop
        assert not execute(prompt_of())
    assert execute(prompt_of()), execute.error
    assert runs == [3, 5, 3, 3, 5, 5, 3, 5]


def test_values_that_are_taken_out_leave_the_finished_ones(execute, runs):
    runs.stop = 5
    assert not execute(prompt_of())
    assert execute(prompt_of(strengths="1")), execute.error
    assert len(runs) == 5, "all four were finished"
    assert len(execute.outputs("sample")[0]) == 4


@pytest.mark.parametrize(
    ("node_id", "name", "value"), [("sample", "steps", 3), ("weight", "hue", 90.0)]
)
def test_other_inputs_are_run_anew(execute, runs, node_id, name, value):
    runs.stop = 4
    assert not execute(prompt_of())
    changed = prompt_of()
    changed[node_id]["inputs"][name] = value
    assert execute(changed), execute.error
    if node_id == "sample":
        assert runs[4:] == [3, 5, 3, 5, 3, 5]
    else:  # a new weight is a new object, for plain runs too
        assert len(runs[4:]) == 6


def test_a_sweep_that_came_to_its_end_is_run_anew(execute, runs):
    """Then ComfyUI's own cache is what knows whether anything has changed."""
    assert execute(prompt_of()), execute.error
    changed = prompt_of()
    changed["sample"]["inputs"]["c"] = 3.0
    changed["sweep"]["inputs"]["c"] = "3"
    assert execute(changed), execute.error
    assert len(runs) == 12


def test_no_model_is_kept(execute, runs):
    runs.stop = 3
    assert not execute(prompt_of())
    (kept,) = (one for key, one in finished._lists.items() if key == "sample")
    references = [one for one in kept.entries[0].given.values() if isinstance(one, weakref.ref)]
    assert len(references) >= 3 and all(one() is not None for one in references)
    white = node("EmptyImage", width=8, height=8, batch_size=1, color=0)
    assert execute({"white": white, "show": node("PreviewImage", images=["white", 0])})
    gc.collect()
    model = kept.entries[0].given["model"]
    assert model() is None


def test_the_page_is_shown_what_is_finished(execute, runs, monkeypatch):
    sent: list[Any] = []
    page = SimpleNamespace(client_id="me", send_sync=lambda *event: sent.append(event))
    monkeypatch.setattr(comparing, "page_server", lambda: page)
    runs.stop = 4
    assert not execute(prompt_of(batch=2))
    ((event, body, client),) = sent
    assert (event, client, body["node"]) == ("lags.finished", "me", "sample")
    runs_of = [{"strength": s, "seed": seed} for s, seed in ((0, "3"), (0, "5"), (1, "3"))]
    said = [(settings, number) for settings in runs_of for number in (1, 2)]
    assert [(one["settings"], one["number"]) for one in body["runs"]] == said
    assert len({one["image"]["filename"] for one in body["runs"]}) == 6
    sent.clear()
    runs.stop, runs.fail = 0, len(runs) + 1
    assert not execute(prompt_of(batch=2))
    assert sent == [], "an error is shown as one"


def test_images_that_cannot_be_shown_do_not_hide_the_stop(execute, runs, monkeypatch, caplog):
    page = SimpleNamespace(client_id="me", send_sync=lambda *event: None)
    monkeypatch.setattr(comparing, "page_server", lambda: page)

    def full(vae: Any, latents: Tensor) -> Tensor:
        raise OSError("no space left")

    monkeypatch.setattr(comparing, "decoded", full)
    runs.stop = 2
    assert not execute(prompt_of())
    assert "execution_interrupted" in execute.sent
    assert "cannot be shown: no space left" in caplog.text


@pytest.mark.parametrize(
    ("given", "again", "fits"),
    [
        ({"a": 1, "b": "x"}, {"a": 1, "b": "x"}, True),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": 2}, False),
        ({"a": [1, (2, None)]}, {"a": [1, [2, None]]}, True),
        ({"a": [1]}, {"a": [1, 2]}, False),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, False),
        ({"a": b"bytes"}, {"a": b"bytes"}, False),
    ],
)
def test_plain_values_are_compared_by_value(given, again, fits):
    assert finished._same(finished._referred(given), again) is fits


def test_objects_are_compared_by_identity():
    tensor = torch.zeros(2)
    conditioning = [[tensor, {"area": (1, 2), "control": Trace()}]]
    known = finished._referred(conditioning)
    same = [[tensor, {"area": (1, 2), "control": conditioning[0][1]["control"]}]]
    assert finished._same(known, conditioning) and finished._same(known, same)
    assert not finished._same(known, [[tensor.clone(), conditioning[0][1]]])
    assert not finished._same(known, [[tensor, {**conditioning[0][1], "control": Trace()}]])
    del tensor, conditioning, same
    gc.collect()
    assert not finished._same(known, [[None, {"area": (1, 2), "control": None}]])


def test_a_node_of_an_expanded_graph_is_taken_to_be_connected():
    """The prompt that ComfyUI hands over has none of its nodes."""
    prompt = {"7": {"inputs": {}}, "8": {"inputs": {"seed": ["7", 1]}}}
    assert connected(prompt, "7.0.0.3") == set(NAMES)
    assert connected(prompt, "7") == {NAMES[1]}
