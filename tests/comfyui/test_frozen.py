"""What earlier releases promised to saved workflows still holds: tests/frozen has a record of each.

Where this fails, the change breaks workflows that people have saved: undo it, or add an optional
input, an option, a node beside the old one. Records of released versions are never changed;
``python3 dev.py sync`` writes the one of a version to come, and what is new since the last.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from lags_pack.nodes import NODES
from lags_pack.tests import published
from lags_pack.tests.comfyui import headless
from lags_pack.tests.derived import frozen

RELEASES = frozen.releases()
WORKFLOWS = {
    path.stem: json.loads(path.read_text("utf-8"))
    for path in (published.ROOT / "workflows").glob("*.json")
}


@pytest.fixture(scope="module")
def today() -> frozen.Description:
    """What the pack promises as it is."""
    return frozen.describe(frozen.node_info(headless.object_info()), WORKFLOWS)


@pytest.mark.parametrize("version", RELEASES)
def test_promises_are_kept(version, today):
    assert frozen.breaks(RELEASES[version], today) == []


def test_every_node_and_socket_is_described(today):
    assert today["nodes"].keys() == {node.define_schema().node_id for node in NODES}
    assert set(today["sockets"]) == {
        *("LAGS_WEIGHT", "LAGS_METHOD", "LAGS_OPTIONS", "LAGS_TRACE", "LAGS_SWEEP"),
    }
    assert today["workflows"].keys() == WORKFLOWS.keys()


# ---- what must fail, and what may pass ---------------------------------------------------------

Change = Callable[[dict[str, Any]], Any]
LOAD, SAMPLER, COMBINE = "LAGSLoadWeight", "LAGSKSampler", "LAGSCombineWeights"


def first(mapping: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    return {name: value, **mapping}


def inputs(new: dict[str, Any], node: str = SAMPLER) -> dict[str, Any]:
    return new["nodes"][node]["inputs"]


def pickscore(new: dict[str, Any]) -> dict[str, Any]:
    return choices(new)["PickScore"]


def choices(new: dict[str, Any]) -> dict[str, Any]:
    return inputs(new, LOAD)["reward"]["choices"]


def growing(new: dict[str, Any]) -> dict[str, Any]:
    return inputs(new, COMBINE)["weights"]


def sampler_in(new: dict[str, Any]) -> list[Any]:
    (found,) = [one for one in new["workflows"]["quickstart_demo"] if one[0] == SAMPLER]
    return found


NUMBER = {"type": "FLOAT", "required": False, "min": 0.0, "max": 1.0}
SOCKET = {"type": "LAGS_OPTIONS", "required": False}
BROKEN: dict[str, tuple[Change, str]] = {
    "node removed": (lambda new: new["nodes"].pop(SAMPLER), "node LAGSKSampler is gone"),
    "category": (lambda new: new["nodes"][SAMPLER].update(category="x"), "category"),
    "input removed": (lambda new: inputs(new).pop("options"), "input options is gone"),
    "input renamed": (lambda new: inputs(new).update(x=inputs(new).pop("c")), "input c is gone"),
    "input type": (lambda new: inputs(new)["steps"].update(type="FLOAT"), "INT became FLOAT"),
    "optional became required": (
        lambda new: inputs(new)["method"].update(required=True),
        "method: is required now",
    ),
    "new required input": (
        lambda new: inputs(new).update(extra={**NUMBER, "required": True}),
        "new and required",
    ),
    "narrower range": (lambda new: inputs(new)["steps"].update(max=100), "max 10000 became 100"),
    "higher minimum": (lambda new: inputs(new)["strength"].update(min=0.0), "min -1000"),
    "option removed": (lambda new: inputs(new)["mode"]["options"].remove("fast"), "['fast']"),
    "choice removed": (lambda new: choices(new).pop("aesthetic"), "choice aesthetic is gone"),
    "nested input removed": (
        lambda new: pickscore(new).pop("prompt"),
        "PickScore.prompt is gone",
    ),
    "nested input's type": (
        lambda new: pickscore(new)["strength"].update(type="INT"),
        "PickScore.strength: FLOAT became INT",
    ),
    "growing input's sockets": (
        lambda new: growing(new).update(prefix="w"),
        "prefix weight became w",
    ),
    "fewer sockets": (lambda new: growing(new).update(max=8), "max 16"),
    "sockets' type": (
        lambda new: growing(new)["each"]["weight"].update(type="X"),
        "LAGS_WEIGHT became X",
    ),
    "widget put between": (
        lambda new: new["nodes"][SAMPLER].update(inputs=first(inputs(new), "extra", NUMBER)),
        "saved values stand for",
    ),
    "widget put into a choice ahead of others": (
        lambda new: choices(new).update(
            aesthetic=first(choices(new)["aesthetic"], "extra", NUMBER)
        ),
        "saved values stand for",
    ),
    "outputs swapped": (lambda new: new["nodes"][SAMPLER]["outputs"].reverse(), "outputs"),
    "output renamed": (
        lambda new: new["nodes"][SAMPLER]["outputs"][0].__setitem__(1, "latent"),
        "outputs",
    ),
    "socket type gone": (lambda new: new["sockets"].remove("LAGS_TRACE"), "socket LAGS_TRACE"),
    "workflow removed": (
        lambda new: new["workflows"].pop("quickstart_demo"),
        "workflow quickstart_demo is gone",
    ),
    "workflow's node changed": (
        lambda new: sampler_in(new).__setitem__(0, "KSampler"),
        "workflow quickstart_demo: no",
    ),
    "workflow's node has fewer values": (
        lambda new: sampler_in(new).__setitem__(1, sampler_in(new)[1] - 1),
        "workflow quickstart_demo: no LAGSKSampler with",
    ),
}
KEPT: dict[str, Change] = {
    "nothing": lambda new: None,
    "new node": lambda new: new["nodes"].update(New=copy.deepcopy(new["nodes"][SAMPLER])),
    "new optional socket, anywhere": lambda new: new["nodes"][SAMPLER].update(
        inputs=first(inputs(new), "extra", SOCKET)
    ),
    "new optional widget at the end": lambda new: inputs(new).update(extra=NUMBER),
    "required became optional": lambda new: inputs(new)["c"].update(required=False),
    "wider range": lambda new: inputs(new)["steps"].update(min=0, max=20000),
    "new option": lambda new: inputs(new)["mode"]["options"].insert(0, "new"),
    "new choice": lambda new: choices(new).update(new={}),
    "new output": lambda new: new["nodes"][SAMPLER]["outputs"].append(["IMAGE", "plot"]),
    "more sockets": lambda new: growing(new).update(max=32),
    "new workflow": lambda new: new["workflows"].update(new=[["LAGSKSampler", 9]]),
    "more values of a workflow's node": lambda new: sampler_in(new).__setitem__(1, 99),
    "more nodes in a workflow": lambda new: new["workflows"]["quickstart_demo"].append(["X", 0]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_seen(name, today):
    new, (change, said) = copy.deepcopy(today), BROKEN[name]
    change(new)
    assert said in "; ".join(frozen.breaks(today, new))


@pytest.mark.parametrize("name", KEPT)
def test_an_addition_passes(name, today):
    new = copy.deepcopy(today)
    KEPT[name](new)
    assert frozen.breaks(today, new) == []


# ---- what is new -------------------------------------------------------------------------------

ADDED = [name for name in KEPT if name not in ("nothing", "required became optional")]


@pytest.mark.parametrize("name", ADDED)
def test_an_addition_is_news(name, today):
    new = copy.deepcopy(today)
    KEPT[name](new)
    found = frozen.news([today], new)
    assert any(found.values())
    assert frozen.breaks(found, new) == []
    assert not any(frozen.news([today, found], new).values())


def test_what_a_release_had_is_no_news(today):
    assert not any(frozen.news([today], today).values())


def test_a_record_is_written_once(today):
    (version, record), *_ = RELEASES.items()
    new = copy.deepcopy(record)
    inputs(new)["extra"] = NUMBER
    assert frozen.records(record, version) == {frozen.NEXT: None}
    ((path, text),) = frozen.records(new, version).items()
    assert path == frozen.NEXT and text is not None
    assert json.loads(text)["nodes"].keys() == {SAMPLER}
    to_come = frozen.records(new, "99.0.0")
    assert to_come[frozen.NEXT] is None
    assert json.loads(to_come[frozen.FOLDER / "99.0.0.json"] or "") == new
