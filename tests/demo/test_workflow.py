"""The page's workflow format turned into a prompt, on a small made-up set of nodes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from lags_pack.demo.workflow import branches, node_inputs, to_prompt, widget_names, widget_values

HERE = Path(__file__).parent
# The part of a server's /object_info that counts, and a workflow as the page saves it.
INFO: dict[str, Any] = json.loads((HERE / "object_info.json").read_text("utf-8"))


def socket(name: str, link: int | None = None) -> dict[str, Any]:
    return {"name": name, "link": link}


WORKFLOW: dict[str, Any] = json.loads((HERE / "page_workflow.json").read_text("utf-8"))


@pytest.fixture
def workflow() -> dict[str, Any]:
    return copy.deepcopy(WORKFLOW)


def test_widgets_have_the_pages_order_and_its_extra_values() -> None:
    assert widget_names({"type": "Loader"}, INFO) == ["file", ""]
    names = ["seed", "", "mode", "start", "", "text"]
    assert widget_names({"type": "Sampler"}, INFO) == names


@pytest.mark.parametrize(
    ("values", "inner"),
    [
        (["nothing", 2.0], {}),
        # no "fixed": only a top-level seed has that by its name
        (["file", "auto", 7, 2.0], {"file": "auto", "seed": 7}),
        (
            ["deep", "a", "words", 5, "fixed", 2.0],
            {"inner": "a", "inner.text": "words", "step": 5},
        ),
    ],
)
def test_a_choice_brings_its_widgets(values: list[Any], inner: dict[str, Any]) -> None:
    named = {"goal": values[0], "strength": 2.0} | {f"goal.{k}": v for k, v in inner.items()}
    assert widget_values({"id": 1, "type": "Choose", "widgets_values": values}, INFO) == named


def test_a_choice_brings_its_sockets() -> None:
    node = {"id": 1, "type": "Choose", "widgets_values": ["file", "auto", 7, 2.0]}
    inputs = node_inputs(node, INFO)
    assert list(inputs) == ["goal", "goal.file", "goal.mask", "goal.seed", "strength"]
    assert inputs["goal.mask"] == ["MASK"]


def test_a_growing_list_has_its_sockets_and_is_none_itself() -> None:
    inputs = node_inputs({"id": 1, "type": "Combine", "widgets_values": [""]}, INFO)
    parts = [f"parts.part{i}" for i in range(3)]
    assert list(inputs) == [*parts, "powers", "sides.left", "sides.right"]
    assert inputs["parts.part2"] == ["WEIGHT", {}]
    assert widget_names({"type": "Combine"}, INFO) == ["powers"]


def test_links_go_to_what_is_brought() -> None:
    choose = {
        "id": 1,
        "type": "Choose",
        "widgets_values": ["file", "auto", 7, 2.0],
        # as a page sorts them once a list has grown: the slots of links are of no use
        "inputs": [socket("goal.file", 11), socket("goal"), socket("goal.mask", 12)],
    }
    combine = {
        "id": 2,
        "type": "Combine",
        "widgets_values": ["1, 2"],
        "inputs": [socket("parts.part0", 13), socket("powers"), socket("parts.part1")],
    }
    loader = {"id": 3, "type": "Loader", "widgets_values": ["a", "image"]}
    links = [[11, 3, 0, 1, 9, "COMBO"], [12, 3, 1, 1, 9, "MASK"], [13, 1, 0, 2, 9, "WEIGHT"]]
    prompt = to_prompt({"nodes": [choose, combine, loader], "links": links}, INFO)
    assert prompt["1"]["inputs"] == {
        "goal": "file",
        "goal.file": ["3", 0],
        "goal.mask": ["3", 1],
        "goal.seed": 7,
        "strength": 2.0,
    }
    assert prompt["2"]["inputs"] == {"powers": "1, 2", "parts.part0": ["1", 0]}


def test_the_pages_own_widgets_are_left_out_and_values_of_another_choice_refused() -> None:
    node = {"id": 1, "type": "Show", "widgets_values": [None, None, False]}
    assert widget_values(node, INFO) == {}
    node = {"id": 1, "type": "Choose", "widgets_values": ["nothing", "auto", 7, 2.0]}
    with pytest.raises(ValueError, match=r"4 values .* 2 widgets"):
        widget_values(node, INFO)


def test_values_and_links_become_inputs_and_notes_go(workflow: dict[str, Any]) -> None:
    sampler = {"seed": 7, "mode": "y", "start": 3, "text": ["1", 1], "model": ["1", 0]}
    first = {"images": ["2", 0], "filename_prefix": "some/where/first"}
    second = {"images": ["1", 0], "filename_prefix": "second"}
    assert to_prompt(workflow, INFO) == {
        "1": {"class_type": "Loader", "inputs": {"file": "a"}},
        "2": {"class_type": "Sampler", "inputs": sampler},
        "3": {"class_type": "SaveImage", "inputs": first},
        "4": {"class_type": "SaveImage", "inputs": second},
    }


def test_muted_nodes_go_with_their_links(workflow: dict[str, Any]) -> None:
    workflow["nodes"][1]["mode"] = 2
    prompt = to_prompt(workflow, INFO)
    assert prompt.keys() == {"2", "3", "4"}
    assert prompt["2"]["inputs"] == {"seed": 7, "mode": "y", "start": 3, "text": "hello"}


def test_branches_hold_what_their_picture_needs(workflow: dict[str, Any]) -> None:
    prompt = to_prompt(workflow, INFO)
    found = branches(prompt)
    parts = {name: list(part) for name, part in found.items()}
    assert parts == {"first": ["1", "2", "3"], "second": ["1", "4"]}
    assert found["first"]["2"] == prompt["2"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "Unknown"}, "no node Unknown"),
        ({"mode": 4}, "bypassed"),
        ({"widgets_values": [7, "fixed", "y", 3]}, r"4 values .* 6 widgets"),
    ],
)
def test_what_cannot_run_is_refused(
    change: dict[str, Any], said: str, workflow: dict[str, Any]
) -> None:
    workflow["nodes"][2] |= change
    with pytest.raises(ValueError, match=said):
        to_prompt(workflow, INFO)
