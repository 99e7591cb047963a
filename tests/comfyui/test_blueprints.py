"""The blueprints: as the page expects them, fit for this server, served by it, and they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lags_pack.demo.check_workflows import value_faults, workflow_faults
from lags_pack.demo.comfy import to_tensor
from lags_pack.demo.workflow import node_inputs, to_prompt
from lags_pack.rewards import ColourReward

FOLDER = Path(__file__).resolve().parents[2] / "subgraphs"
FILES = {file.stem: file for file in sorted(FOLDER.glob("*.json"))}
EACH = pytest.mark.parametrize("name", FILES)
OUTSIDE, OUT = -10, -20  # the ends of links to the whole's inputs and outputs
BLUE = {"attribute": "hue", "hue": 240, "colour": "#0000ff", "strength": 30, "auto_nats": 0}
SHOWN = ("first", "last")  # the nodes that save plain images and the blueprint's


def load(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The node that is dropped into a graph, and what is inside of it."""
    file = json.loads(FILES[name].read_text("utf-8"))
    (host,), (inside,) = file["nodes"], file["definitions"]["subgraphs"]
    return host, inside


def as_workflow(inside: dict[str, Any]) -> dict[str, Any]:
    """The inside as a workflow of its own, without what comes from outside."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [[link[name] for name in names] for link in inside["links"]]
    ours = [link for link in links if link[1] != OUTSIDE and link[3] != OUT]
    return {"nodes": inside["nodes"], "links": ours}


def test_there_are_the_promised_blueprints():
    assert list(FILES) == ["Colour grade by weight", "Draw N, keep the best", "LAGS with PickScore"]


@EACH
def test_the_whole_is_one_node_with_what_the_inside_says(name):
    host, inside = load(name)
    assert FILES[name].read_bytes().isascii(), "ComfyUI 0.8 reads it in the system's own encoding"
    assert host["type"] == inside["id"] and host["title"] == inside["name"] == name
    for side in ("inputs", "outputs"):
        kept = [(one["name"], one["type"], one.get("label")) for one in inside[side]]
        assert kept == [(one["name"], one["type"], one.get("label")) for one in host[side]]
    for one in host["inputs"]:
        assert one.get("widget", {"name": one["name"]}) == {"name": one["name"]}
    assert inside["description"] and inside["category"]


@EACH
def test_links_join_what_they_say(name):
    _, inside = load(name)
    nodes = {node["id"]: node for node in inside["nodes"]}
    for link in inside["links"]:
        number, origin, slot = link["id"], link["origin_id"], link["origin_slot"]
        target, place = link["target_id"], link["target_slot"]
        if origin == OUTSIDE:
            source = inside["inputs"][slot]
            assert number in source["linkIds"]
        else:
            source = nodes[origin]["outputs"][slot]
            assert number in source["links"]
        if target == OUT:
            end = inside["outputs"][place]
            assert number in end["linkIds"]
        else:
            end = nodes[target]["inputs"][place]
            assert number == end["link"]
        assert source["type"] == end["type"] == link["type"]
    known = {link["id"] for link in inside["links"]}
    assert known == set(range(1, inside["state"]["lastLinkId"] + 1))
    ends = [one["linkIds"] for side in ("inputs", "outputs") for one in inside[side]]
    assert all(ends) and set().union(*ends) <= known


@EACH
def test_the_inside_fits_the_server(name, info, server):
    host, inside = load(name)
    assert workflow_faults(as_workflow(inside), info, server._json("/models")) == []
    nodes = {node["id"]: node for node in inside["nodes"]}
    for given, one in zip(inside["inputs"], host["inputs"], strict=True):
        for link in (link for link in inside["links"] if link["id"] in given["linkIds"]):
            socket = nodes[link["target_id"]]["inputs"][link["target_slot"]]
            spec = node_inputs(nodes[link["target_id"]], info)[socket["name"]]
            kind = "COMBO" if isinstance(spec[0], list) else spec[0]
            assert (kind, "widget" in socket) == (one["type"], "widget" in one)


def test_the_server_offers_them_to_the_page(server):
    offered = server._json("/global_subgraphs")
    ours = {one["name"]: key for key, one in offered.items() if "lags" in one["info"]["node_pack"]}
    assert ours.keys() == FILES.keys()
    for name, key in ours.items():
        sent = server._json(f"/global_subgraphs/{key}")
        assert json.loads(sent["data"]) == json.loads(FILES[name].read_text("utf-8"))


def run(server, info: dict[str, Any], name: str, count: int, **widgets: Any) -> tuple[Any, Any]:
    """Images of a blueprint on the demo model, and those of plain sampling, by the page's links."""
    _, inside = load(name)
    prompt = to_prompt(as_workflow(inside), info)
    given = {key: ["model", slot] for slot, key in enumerate(("model", "clip", "vae"))}
    given |= {"latent_image": ["model", 3], "positive": ["prompt", 0], "negative": ["none", 0]}
    given |= {"image": ["decoded", 0], "weight": ["blue", 0], **widgets}
    taken = {one["name"] for one in inside["inputs"]}
    assert widgets.keys() <= taken
    nodes = {node["id"]: node for node in inside["nodes"]}
    for link in inside["links"]:
        key = inside["inputs"][link["origin_slot"]]["name"] if link["origin_id"] == OUTSIDE else ""
        if key in given:
            socket = nodes[link["target_id"]]["inputs"][link["target_slot"]]["name"]
            spec = node_inputs(nodes[link["target_id"]], info)[socket]
            assert key not in widgets or value_faults(name, key, given[key], spec) == []
            prompt[str(link["target_id"])]["inputs"][socket] = given[key]
    (image,) = [one for one in inside["links"] if one["id"] in inside["outputs"][0]["linkIds"]]
    found = [str(image["origin_id"]), image["origin_slot"]]
    prompt |= {
        "model": node("LAGSDemoTextModel", batch_size=count),
        "prompt": node("CLIPTextEncode", text="a cat", clip=["model", 1]),
        "none": node("CLIPTextEncode", text="", clip=["model", 1]),
        "blue": node("LAGSWeightColor", **BLUE),
        "plain": node(
            "KSampler",
            **{key: given[key] for key in ("model", "positive", "negative", "latent_image")},
            **{"seed": 1, "steps": 12, "cfg": 2, "denoise": 1},
            **{"sampler_name": "euler", "scheduler": "karras"},
        ),
        "decoded": node("VAEDecode", samples=["plain", 0], vae=["model", 2]),
        "first": node("SaveImage", images=["decoded", 0], filename_prefix="plain"),
        "last": node("SaveImage", images=found, filename_prefix="blueprint"),
    }
    entry = server.queue(prompt, timeout=300)
    images = [[server.view(**one) for one in entry["outputs"][key]["images"]] for key in SHOWN]
    return entry, images


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def blue(images: list[Any]) -> float:
    """Mean share of blue by its hue."""
    scores = [ColourReward("hue", 240.0)(to_tensor(image)[None]) for image in images]
    return float(np.mean([score.item() for score in scores]))


def test_pickscore(server, info):
    """Two images that are not the plain ones, by the file that the widget names."""
    widgets = {"prompt": "a cat on a blue background", "seed": 1, "steps": 8, "cfg": 2}
    widgets |= {"pickscore": "lags_demo/scenes_pickscore/model.safetensors"}
    _, (plain, guided) = run(server, info, "LAGS with PickScore", 2, **widgets)
    assert [image.size for image in guided] == [(128, 128)] * 2
    assert blue(guided) > blue(plain) + 0.1


def test_the_best_of_six(server, info):
    widgets = {"draw": 6, "keep": 2, "seed": 3, "steps": 8, "cfg": 2}
    entry, (_, kept) = run(server, info, "Draw N, keep the best", 1, **widgets)
    (scored,) = [output for output in entry["outputs"].values() if "lags_scores" in output]
    scores = [one["score"] for one in scored["lags_scores"]]
    assert len(scores) == 6 and len(kept) == 2 and scores == sorted(scores, reverse=True)
    assert blue(kept) == pytest.approx(np.mean(scores[:2]), abs=0.02)


def test_grading_brings_the_colour_and_keeps_the_image(server, info):
    widgets = {"hue": 240, "seed": 2, "steps": 16, "cfg": 2}
    _, (plain, graded) = run(server, info, "Colour grade by weight", 3, **widgets)
    assert blue(graded) > blue(plain) + 0.01
    before, after = (np.stack([np.array(one, float) for one in found]) for found in (plain, graded))
    own = np.abs(after - before).mean((1, 2, 3))
    other = np.abs(after - np.roll(before, 1, axis=0)).mean((1, 2, 3))
    assert (own < other).all(), (own, other)
