"""Workflows that follow from others: SDXL's from SD 1.5's, and new widgets from the nodes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from lags_pack.demo.make_workflows import (
    MADE,
    derived,
    derived_blueprints,
    graphs,
    make_away,
    make_sdxl,
    named,
    with_new_widgets,
)
from lags_pack.demo.workflow import saved_values, widget_values
from lags_pack.tests import published

PROJECT = {"name": "a-pack", "version": "1.2.3"}
FOLDER = Path(__file__).resolve().parents[2] / "workflows"
BLUEPRINTS = FOLDER.with_name("subgraphs")


def text(name: str) -> str:
    return (FOLDER / f"{name}.json").read_text("utf-8")


def values(workflow: dict[str, Any], kind: str) -> list[list[Any]]:
    return [node["widgets_values"] for node in workflow["nodes"] if node["type"] == kind]


def test_only_what_depends_on_the_size_changes():
    sd15 = json.loads(text("sd15_fairness"))
    sd15["nodes"][-1]["properties"]["x"] = 28  # neither a widget nor pixels
    sdxl = json.loads(make_sdxl("fairness", json.dumps(sd15)))
    assert values(sdxl, "EmptyLatentImage") == [[1024, 1024, 4]]
    assert values(sdxl, "KSampler")[0][:4] == [1, "fixed", 30, 6]
    assert values(sdxl, "CheckpointLoaderSimple") == [["sd_xl_base_1.0.safetensors"]]
    assert sdxl["nodes"][-1]["properties"]["x"] == 28
    assert sdxl["links"] == sd15["links"]
    assert "SD 1.5" not in json.dumps(sdxl)


def test_away_is_fairness_with_another_goal():
    away = json.loads(make_away(text("sd15_fairness")))
    said, before = json.dumps(away), json.loads(text("sd15_fairness"))
    (weight,) = (node for node in away["nodes"] if node["type"] == "LAGSWeightClassifier")
    assert weight["widgets_values"][1:3] == ["away", "nsfw"]
    names = [socket["name"] for socket in weight["inputs"] if "widget" in socket]
    assert names == ["file", "goal", "goal.classes", "precision", "strength", "auto_nats"]
    assert not any(word in said for word in ("fair", "vit-base", "breed"))
    links = {link[0] for link in away["links"]}
    sockets = [socket["link"] for node in away["nodes"] for socket in node["inputs"]]
    assert {link for link in sockets if link is not None} == links
    outputs = [output["links"] for node in away["nodes"] for output in node.get("outputs", [])]
    assert {link for found in outputs for link in found or []} == links
    assert len(before["links"]) == len(links) + 1 and before["id"] != away["id"]


def test_our_nodes_say_which_pack_has_them():
    quick = text("quickstart_demo")
    before, after = (json.loads(one) for one in (quick, named(quick, PROJECT)))
    for old, new in zip(before["nodes"], after["nodes"], strict=True):
        ours = new["type"].startswith("LAGS")
        pack = {"cnr_id": "a-pack", "ver": "1.2.3"} if ours else {}
        assert new["properties"] == {**old["properties"], **pack}
    assert named(json.dumps(after), PROJECT) == named(quick, PROJECT)


def test_the_bundled_workflows_name_this_pack():
    """ComfyUI Manager offers it to who opens a shared file without having it."""
    project = published.pyproject()["project"]
    wanted = {"cnr_id": project["name"], "ver": project["version"]}
    for path in [*FOLDER.glob("*.json"), *BLUEPRINTS.glob("*.json")]:
        found = [
            node for graph in graphs(json.loads(path.read_text("utf-8"))) for node in graph["nodes"]
        ]
        ours = [node for node in found if wanted.items() <= node["properties"].items()]
        assert ours and ours == [node for node in found if node["type"].startswith("LAGS")]


# ---- new widgets -------------------------------------------------------------------------------


def input_of(kind: str, **options: Any) -> list[Any]:
    return [kind, options]


FIRST = {"first": input_of("BOOLEAN", default=True)}
OLD = {"attribute": input_of("COMBO", options=["hue"]), "hue": input_of("FLOAT", default=0.0)}
OLD["colour"] = input_of("STRING")
LAST = {"last": input_of("COMBO", options=["one", "two"])}
OLD_INFO = {"LAGSX": {"input": {"required": OLD}}}
NEW_INFO = {"LAGSX": {"input": {"required": {**FIRST, **OLD}, "optional": LAST}}}


def widget(name: str, link: int | None) -> dict[str, Any]:
    return {"name": name, "widget": {"name": name}, "link": link}


SOCKETS = [{"name": "socket", "link": 1}, widget("attribute", None), widget("hue", 2)]
INPUTS = [*SOCKETS, widget("colour", 4)]
NODE = {"id": 3, "type": "LAGSX", "inputs": INPUTS, "widgets_values": ["hue", 240.0, "#2060ff"]}
# from output 0 of node 1 to socket 0 of node 3, and so on; the third ends at another node
TO = ((1, 3, 0), (2, 3, 2), (3, 5, 3), (2, 3, 3))
LINKS = [[i, start, 0, end, place, "X"] for i, (start, end, place) in enumerate(TO, 1)]
SAVED = {"nodes": [NODE], "links": LINKS}


def test_new_widgets_get_their_defaults_and_their_places():
    text = with_new_widgets(json.dumps(SAVED), NEW_INFO)
    (node,), links = json.loads(text)["nodes"], json.loads(text)["links"]
    assert node["widgets_values"] == [True, "hue", 240.0, "#2060ff", "one"]
    names = [one["name"] for one in node["inputs"]]
    assert names == ["socket", "first", "attribute", "hue", "colour", "last"]
    assert {link[0]: link[4] for link in links} == {1: 0, 2: 3, 3: 3, 4: 4}
    assert with_new_widgets(text, NEW_INFO) == text


def test_a_blueprint_gets_them_too(tmp_path):
    """Links of a subgraph have names for what a workflow's have in places."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(names, link, strict=True)) for link in LINKS]
    graph = {"nodes": [{**copy.deepcopy(NODE), "properties": {}}], "links": links}
    file = {"nodes": [], "links": [], "definitions": {"subgraphs": [graph]}}
    path = tmp_path / "a blueprint.json"
    path.write_text(json.dumps(file), "utf-8")
    made = json.loads(derived_blueprints(tmp_path, NEW_INFO, PROJECT)[path])
    (graph,) = made["definitions"]["subgraphs"]
    (node,) = graph["nodes"]
    assert node["widgets_values"] == [True, "hue", 240.0, "#2060ff", "one"]
    assert node["properties"] == {"cnr_id": "a-pack", "ver": "1.2.3"}
    assert {link["id"]: link["target_slot"] for link in graph["links"]} == {1: 0, 2: 3, 3: 3, 4: 4}


def test_a_file_that_is_older_is_read_with_defaults():
    (node,) = copy.deepcopy(SAVED["nodes"])
    assert widget_values(node, NEW_INFO) == {"first": True, **saved_values(node), "last": "one"}
    as_it_is = json.dumps(SAVED, indent=1) + "\n"
    assert with_new_widgets(json.dumps(SAVED), OLD_INFO) == as_it_is
    del node["widgets_values"][0]
    with pytest.raises(ValueError, match="2 values"):
        widget_values(node, NEW_INFO)


def test_a_seed_keeps_its_companion():
    info = {"LAGSX": {"input": {"required": {}, "optional": {}}}}
    info["LAGSX"]["input"]["required"] = {"seed": input_of("INT", default=0)}
    info["LAGSX"]["input"]["optional"] = {"noise_seed": input_of("INT", default=7)}
    inputs = [widget("seed", None)]
    node = {"id": 1, "type": "LAGSX", "inputs": inputs, "widgets_values": [5, "increment"]}
    text = with_new_widgets(json.dumps({"nodes": [node], "links": []}), info)
    assert json.loads(text)["nodes"][0]["widgets_values"] == [5, "increment", 7, "fixed"]


def test_sdxl_follows_the_file_of_the_same_folder(tmp_path):
    for name in MADE:
        (tmp_path / f"sd15_{name}.json").write_text(text(f"sd15_{name}"), "utf-8")
    made = derived(tmp_path, {}, published.pyproject()["project"])
    both = {f"{base}_{name}" for name in MADE for base in ("sd15", "sdxl")}
    assert {path.stem for path in made} == both | {"sd15_away"}
    assert all(made_text == text(path.stem) for path, made_text in made.items())
