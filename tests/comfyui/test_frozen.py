"""What earlier releases promised to saved workflows still holds: tests/frozen has a record of each.

Where this fails, the change breaks workflows that people have saved: undo it, or add an optional
input, an option, a node beside the old one. Records of published versions are never changed;
frozen.py writes the one of the version to come.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comfyui_support import frozen
from lags_pack.nodes import NODES
from lags_pack.tests import published

RECORDS = sorted(frozen.FOLDER.glob("*.json"))
WORKFLOWS = published.ROOT / "workflows"


@pytest.fixture(scope="module")
def today() -> frozen.Description:
    """What the pack promises as it is."""
    return frozen.describe(frozen.node_info(NODES), WORKFLOWS)


def test_the_version_to_come_has_a_record() -> None:
    assert published.pyproject()["project"]["version"] in {path.stem for path in RECORDS}


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_promises_are_kept(path: Path, today: frozen.Description) -> None:
    assert frozen.breaks(json.loads(path.read_text("utf-8")), today) == []


def test_the_record_of_this_version_is_whole(today: frozen.Description) -> None:
    """Also what is new in it is promised from now on; run frozen.py where this fails."""
    path = frozen.FOLDER / f"{published.pyproject()['project']['version']}.json"
    assert frozen.breaks(today, json.loads(path.read_text("utf-8"))) == []


def test_every_node_and_socket_is_described(today: frozen.Description) -> None:
    assert today["nodes"].keys() == {node.define_schema().node_id for node in NODES}
    assert set(today["sockets"]) == {"LAGS_WEIGHT", "LAGS_METHOD", "LAGS_OPTIONS", "LAGS_TRACE"}
    assert today["workflows"].keys() == {path.stem for path in WORKFLOWS.glob("*.json")}


# ---- what must fail, and what may pass ---------------------------------------------------------

Change = Callable[[dict[str, Any]], Any]
LOAD, SAMPLER, COMBINE = "LAGSLoadWeight", "LAGSKSampler", "LAGSCombineWeights"


def first(mapping: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The mapping with one more entry, ahead of the others."""
    return {name: value, **mapping}


def inputs(new: dict[str, Any], node: str = SAMPLER) -> dict[str, Any]:
    return new["nodes"][node]["inputs"]


def pickscore(new: dict[str, Any]) -> dict[str, Any]:
    return inputs(new, LOAD)["reward"]["choices"]["PickScore"]


NUMBER = {"type": "FLOAT", "required": False, "min": 0.0, "max": 1.0}
SOCKET = {"type": "LAGS_OPTIONS", "required": False}
BROKEN: dict[str, tuple[Change, str]] = {
    "node removed": (lambda new: new["nodes"].pop(SAMPLER), "node LAGSKSampler is gone"),
    "category": (lambda new: new["nodes"][SAMPLER].update(category="x"), "category"),
    "input removed": (lambda new: inputs(new).pop("options"), "input options is gone"),
    "input renamed": (
        lambda new: inputs(new).update(confidence=inputs(new).pop("c")),
        "input c is gone",
    ),
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
    "choice removed": (
        lambda new: inputs(new, LOAD)["reward"]["choices"].pop("aesthetic"),
        "choice aesthetic is gone",
    ),
    "nested input removed": (lambda new: pickscore(new).pop("prompt"), "PickScore.prompt is gone"),
    "nested input's type": (
        lambda new: pickscore(new)["strength"].update(type="INT"),
        "PickScore.strength: FLOAT became INT",
    ),
    "growing input's sockets": (
        lambda new: inputs(new, COMBINE)["weights"].update(prefix="w"),
        "prefix weight became w",
    ),
    "fewer sockets": (lambda new: inputs(new, COMBINE)["weights"].update(max=8), "max 16"),
    "sockets' type": (
        lambda new: inputs(new, COMBINE)["weights"]["each"]["weight"].update(type="X"),
        "LAGS_WEIGHT became X",
    ),
    "widget put between": (
        lambda new: new["nodes"][SAMPLER].update(inputs=first(inputs(new), "extra", NUMBER)),
        "saved values stand for",
    ),
    "widget put into a choice ahead of others": (
        lambda new: inputs(new, LOAD)["reward"]["choices"].update(
            aesthetic=first(inputs(new, LOAD)["reward"]["choices"]["aesthetic"], "extra", NUMBER)
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
        lambda new: new["workflows"]["quickstart_demo"][0].__setitem__(1, 99),
        "workflow quickstart_demo: no",
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
    "new choice": lambda new: inputs(new, LOAD)["reward"]["choices"].update(new={}),
    "new output": lambda new: new["nodes"][SAMPLER]["outputs"].append(["IMAGE", "plot"]),
    "more sockets": lambda new: inputs(new, COMBINE)["weights"].update(max=32),
    "new workflow": lambda new: new["workflows"].update(new=[["LAGSKSampler", 9]]),
    "more nodes in a workflow": lambda new: new["workflows"]["quickstart_demo"].append(["X", 0]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_seen(name: str, today: frozen.Description) -> None:
    new, (change, said) = copy.deepcopy(today), BROKEN[name]
    change(new)
    assert said in "; ".join(frozen.breaks(today, new))


@pytest.mark.parametrize("name", KEPT)
def test_an_addition_passes(name: str, today: frozen.Description) -> None:
    new = copy.deepcopy(today)
    KEPT[name](new)
    assert frozen.breaks(today, new) == []
