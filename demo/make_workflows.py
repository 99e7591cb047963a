"""Workflows and blueprints as they follow: SDXL's from SD 1.5's, new widgets from the nodes.

All wires are laid anew around the nodes (rails.py).

``sd15_away`` is ``sd15_fairness`` with another goal.

Change sd15_*.json on the page, then ``python3 dev.py sync``, and the two do not drift apart.
sd*_colour and the demo model's workflows are each saved from a page.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from .rails import straightened
from .workflow import node_inputs, saved_values, saved_widgets, widget_names, widget_values

OURS = "LAGS"  # what the ids of our nodes begin with
MADE = ("pickscore", "hps", "aesthetic_pickscore", "frequency", "inpaint", "methods")
MADE += ("particles", "fairness", "schedule", "sweep")
# What stands in SD 1.5's texts, notes and file names, and what in SDXL's.
TEXTS = {
    "sd15_": "sdxl_",
    "SD 1.5": "SDXL",
    "Comfy-Org/stable-diffusion-v1-5-archive/": "stabilityai/stable-diffusion-xl-base-1.0/",
    "v1-5-pruned-emaonly-fp16.safetensors": "sd_xl_base_1.0.safetensors",
    "expect 12 GB; with less, lower width and height": "at 1024 pixels expect 24 GB and more; with "
    "less, set width and height to 768",
}
LEAST_ZOOM = 0.6  # below it a page draws no titles
NUMBERS = {"steps": 30, "cfg": 6}  # of every sampler
SIZED = {"EmptyLatentImage", "SolidMask", "MaskComposite"}  # nodes that count pixels


def make_sdxl(name: str, sd15: str) -> str:
    """The text of ``sdxl_<name>.json`` from that of ``sd15_<name>.json``."""
    for old, new in TEXTS.items():
        sd15 = sd15.replace(old, new)
    workflow = json.loads(sd15)
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"lags/sdxl_{name}"))
    for node in workflow["nodes"]:
        if node["inputs"] and node["widgets_values"]:
            values = zip(saved_widgets(node), node["widgets_values"], strict=True)
            node["widgets_values"] = [larger(node["type"], *pair) for pair in values]
    return _written(workflow)


AWAY_FILE = "nsfw_image_detection/model.safetensors"
AWAY_PAGE = "https://huggingface.co/Falconsai/nsfw_image_detection"
AWAY_NOTE = (
    "**Away from a class.** log w = log(1 - p), where p is what an image classifier says of the "
    "class: 0 for an image that is surely none of it, lower and lower towards one that is. All "
    "images without the class keep their odds.\n\nNeeds\n\n{checkpoint}\n"
    "- [{file}]({page}/resolve/main/model.safetensors) in `models/weight_functions`\n"
    "- beside it config.json and preprocessor_config.json of [the same page]({page}/tree/main)\n\n"
    "Any ViT, ConvNeXt, Swin or DINOv2 classifier of transformers serves: choose its file and name "
    "one or more of its classes. It lowers how often they come and rules nothing out: look at the "
    "images. A classifier that is sure of every blurred image guides little: raise *strength* to "
    "3, or take the Particle KSampler."
)


def make_away(fairness: str) -> str:
    """The text of ``sd15_away.json`` from that of ``sd15_fairness.json``."""
    workflow = json.loads(fairness.replace("sd15_fairness", "sd15_away"))
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, "lags/sd15_away"))
    kinds = {node["type"]: node for node in workflow["nodes"]}
    (note,) = kinds["MarkdownNote"]["widgets_values"]
    checkpoint = next(line for line in note.splitlines() if "models/checkpoints" in line)
    made = AWAY_NOTE.format(checkpoint=checkpoint, file=AWAY_FILE, page=AWAY_PAGE)
    kinds["MarkdownNote"]["widgets_values"] = [made]
    weight = kinds["LAGSWeightClassifier"]
    dropped = ("goal.targets", "goal.rates")
    weight["inputs"] = [socket for socket in weight["inputs"] if socket["name"] not in dropped]
    (plain,) = (socket for socket in weight["inputs"] if socket["name"] == "plain_images")
    link, plain["link"] = plain["link"], None
    weight["widgets_values"] = [AWAY_FILE, "away", "nsfw", "auto", 1, 0]
    (model,) = weight["properties"]["models"]
    model |= {"name": AWAY_FILE, "url": f"{AWAY_PAGE}/resolve/main/model.safetensors"}
    workflow["links"] = [one for one in workflow["links"] if one[0] != link]
    for output in (output for node in workflow["nodes"] for output in node["outputs"]):
        output["links"] = output["links"] and [one for one in output["links"] if one != link]
    for node in workflow["nodes"]:
        if node["type"] == "SaveImage":
            node["widgets_values"][0] = node["widgets_values"][0].replace("/fair", "/away")
        if node["widgets_values"] == ["photo of a cat"]:
            node["widgets_values"] = ["photo of a couple at the beach"]
    workflow["groups"][1]["title"] = "Away from the class"
    return _written(workflow)


def _written(workflow: dict[str, Any]) -> str:
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


def larger(kind: str, widget: str, value: Any) -> Any:
    """SDXL's value of a widget: twice the pixels a side, half the images of a batch."""
    if kind in SIZED and widget in ("width", "height", "x", "y"):
        return 2 * value
    if widget == "batch_size":
        return max(1, value // 2)
    return NUMBERS.get(widget, value)


def with_new_widgets(text: str, info: dict[str, Any]) -> str:
    """A workflow's text in which every node of the pack has all its widgets, new ones at default.

    ``info`` is of the pack's nodes, as ComfyUI's /object_info has it.
    """
    workflow = json.loads(text)
    for graph in graphs(workflow):
        for node in graph["nodes"]:
            ours = node["type"].startswith(OURS) and node["type"] in info
            if ours and saved_values(node) is not None:
                _complete(node, graph["links"], info)
    return _written(workflow)


def named(text: str, project: dict[str, Any]) -> str:
    """A workflow's text whose nodes of the pack say which pack has them, as ComfyUI Manager reads.

    ``project`` is that part of pyproject.toml: the registry's name of the pack, and its version.
    """
    workflow = json.loads(text)
    for node in (node for graph in graphs(workflow) for node in graph["nodes"]):
        if node["type"].startswith(OURS):
            node["properties"] |= {"cnr_id": project["name"], "ver": project["version"]}
    return _written(workflow)


def graphs(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """The graph of a file and those of its subgraphs, whose links have names and no places."""
    return [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]


def _complete(node: dict[str, Any], links: list[Any], info: dict[str, Any]) -> None:
    """Add what a node lacks: values, and a socket for each, behind the one of its neighbour."""
    names, known = widget_names(node, info), node_inputs(node, info)
    before = saved_widgets(node)
    if all(name in before for name in names):
        return
    beside = dict(zip(before, node["widgets_values"][1:], strict=False))  # a seed's own widget
    values = widget_values(node, info)
    node["widgets_values"] = [
        values[name] if name else beside.get(owner, "fixed")
        for owner, name in zip(["", *names], names, strict=False)
    ]
    sockets, widgets = node["inputs"], [name for name in names if name]
    for number, name in enumerate(widgets):
        if name not in before:
            there = [socket["name"] for socket in sockets]
            place = there.index(widgets[number - 1]) + 1 if number else _first_widget(sockets)
            kind = "COMBO" if isinstance(known[name][0], list) else known[name][0]
            named = {"localized_name": name, "name": name, "type": kind}
            sockets.insert(place, {**named, "widget": {"name": name}, "link": None})
    places = {socket["link"]: i for i, socket in enumerate(sockets) if socket.get("link")}
    for link in links:
        by_place = isinstance(link, list)
        number, end, slot = (0, 3, 4) if by_place else ("id", "target_id", "target_slot")
        if link[end] == node["id"]:
            link[slot] = places[link[number]]


def _first_widget(sockets: list[dict[str, Any]]) -> int:
    return next((i for i, socket in enumerate(sockets) if "widget" in socket), len(sockets))


def laid_out(text: str) -> str:
    """A workflow's text with its wires around the nodes, opened where titles can be read."""
    workflow = straightened(json.loads(text))
    view = workflow["extra"].setdefault("ds", {"scale": LEAST_ZOOM, "offset": [60, 60]})
    view["scale"] = max(view["scale"], LEAST_ZOOM)
    return _written(workflow)


def derived(folder: Path, info: dict[str, Any], project: dict[str, Any]) -> dict[Path, str]:
    """The text that each workflow of a folder should have."""
    files = sorted(folder.glob("*.json"))
    found = {
        path: laid_out(named(with_new_widgets(path.read_text("utf-8"), info), project))
        for path in files
    }
    found[folder / "sd15_away.json"] = laid_out(make_away(found[folder / "sd15_fairness.json"]))
    for name in MADE:
        made = make_sdxl(name, found[folder / f"sd15_{name}.json"])
        found[folder / f"sdxl_{name}.json"] = laid_out(made)
    return found


def derived_blueprints(
    folder: Path, info: dict[str, Any], project: dict[str, Any]
) -> dict[Path, str]:
    """The text that each blueprint of a folder should have."""
    return {
        path: named(with_new_widgets(path.read_text("utf-8"), info), project)
        for path in folder.glob("*.json")
    }
