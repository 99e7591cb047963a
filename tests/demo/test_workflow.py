"""The page's workflow format turned into a prompt, on a small made-up set of nodes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from lags_pack.demo.workflow import branches, to_prompt, widget_names

INFO: dict[str, Any] = {
    "Loader": {"input": {"required": {"file": [["a", "b"], {"image_upload": True}]}}},
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": ["INT", {}],
                "mode": ["COMBO", {"options": ["x", "y"]}],
                "given": ["FLOAT", {"forceInput": True}],
            },
            "optional": {
                "start": ["INT", {"control_after_generate": True}],
                "mask": ["MASK"],
                "text": ["STRING", {}],
            },
        }
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
    },
}


def socket(name: str, link: int | None = None) -> dict[str, Any]:
    return {"name": name, "link": link}


WORKFLOW: dict[str, Any] = {
    "nodes": [
        {"id": 9, "type": "MarkdownNote", "widgets_values": ["words"]},
        {"id": 1, "type": "Loader", "widgets_values": ["a", "image"], "inputs": [socket("file")]},
        {
            "id": 2,
            "type": "Sampler",
            "mode": 0,
            "widgets_values": [7, "fixed", "y", 3, "randomize", "hello"],
            "inputs": [socket("model", 11), socket("mask"), socket("text", 12)],
        },
        {
            "id": 3,
            "type": "SaveImage",
            "widgets_values": ["some/where/first"],
            "inputs": [socket("images", 13)],
        },
        {
            "id": 4,
            "type": "SaveImage",
            "widgets_values": ["second"],
            "inputs": [socket("images", 14)],
        },
    ],
    "links": [
        [11, 1, 0, 2, 0, "MODEL"],
        [12, 1, 1, 2, 2, "STRING"],
        [13, 2, 0, 3, 0, "IMAGE"],
        [14, 1, 0, 4, 0, "IMAGE"],
    ],
}


@pytest.fixture
def workflow() -> dict[str, Any]:
    return copy.deepcopy(WORKFLOW)


def test_widgets_have_the_pages_order_and_its_extra_values() -> None:
    assert widget_names("Loader", INFO) == ["file", ""]
    assert widget_names("Sampler", INFO) == ["seed", "", "mode", "start", "", "text"]


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
    assert {name: list(part) for name, part in found.items()} == {
        "first": ["1", "2", "3"],
        "second": ["1", "4"],
    }
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
