"""Whether workflow files fit a running ComfyUI, in its own words: /object_info and /models.

``python3 dev.py workflows http://127.0.0.1:8188`` starts this.
"""

from __future__ import annotations

import argparse
import json
import math
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

from .workflow import CHOICE, GROWING, NOTES, is_widget, node_inputs, socket_names, widget_values

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
MODEL_FILES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")  # what a page takes for one
BUNDLED = "lags_demo/"  # files that come with the pack
HOST = "https://huggingface.co/"  # of those that the page offers downloads from
TYPES = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}


def main(arguments: list[str]) -> int:
    """Check every workflow and print what is wrong; 0 where nothing is, 2 without a server."""
    options = argparse.ArgumentParser(prog="dev.py workflows", description=__doc__)
    options.add_argument("url", help="of a running ComfyUI that has this pack")
    chosen = options.parse_args(arguments)
    try:
        info, folders = (ask(chosen.url, path) for path in ("/object_info", "/models"))
    except (OSError, ValueError, HTTPException) as error:
        print(f"No ComfyUI answers at {chosen.url!r} ({error}); expected a running one's address.")
        return 2
    files = sorted(WORKFLOWS.glob("*.json"))
    found = [fault for file in files for fault in file_faults(file, info, folders)]
    print("\n".join([*found, f"{len(files)} workflows, {len(found)} faults"]))
    return 1 if found else 0


def ask(url: str, path: str) -> Any:
    """A server's JSON answer.

    Raises:
        ValueError: the address is not one of http.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError("it begins with neither http:// nor https://")
    with urllib.request.urlopen(url.rstrip("/") + path, timeout=60) as answer:  # noqa: S310
        return json.load(answer)


def file_faults(file: Path, info: dict[str, Any], folders: list[str]) -> list[str]:
    """What is wrong with a workflow's file, each with the file's name."""
    found = workflow_faults(json.loads(file.read_text(encoding="utf-8")), info, folders)
    if not file.with_suffix(".jpg").is_file():
        found.append(f"there is no {file.stem}.jpg")
    return [f"{file.name}: {fault}" for fault in found]


def workflow_faults(
    workflow: dict[str, Any], info: dict[str, Any], folders: list[str]
) -> list[str]:
    """What a server with this /object_info and /models would not take, or not as it was saved."""
    found = []
    for node in workflow["nodes"]:
        if node["type"] not in NOTES:
            found += node_faults(node, info)
        found += model_faults(node, folders)
    return found + link_faults(workflow, info)


def node_faults(node: dict[str, Any], info: dict[str, Any]) -> list[str]:
    """A type, an input or a value that the server does not know; a socket left open."""
    try:
        known, values = node_inputs(node, info), widget_values(node, info)
    except ValueError as error:
        return [str(error)]
    kind, sockets = node["type"], {socket["name"]: socket for socket in node["inputs"]}
    found = [f"{kind}: no input {name}" for name in sockets if name not in known]
    offered = [model.get("name") for model in models_of(node)]
    for name, value in values.items():
        if value not in offered:
            found += value_faults(kind, name, value, known[name])
    for name in needed_sockets(info[kind]["input"], values):
        if sockets.get(name, {}).get("link") is None:
            found.append(f"{kind}: {name} is not connected")
    return found


def needed_sockets(
    inputs: dict[str, Any], values: dict[str, Any], prefix: str = ""
) -> Iterator[str]:
    """The sockets that must be connected, with those of the choices made."""
    for name, spec in inputs.get("required", {}).items():
        name = prefix + name
        if spec[0] == GROWING:
            template = spec[1]["template"]
            yield from (f"{name}.{n}" for n in socket_names(template)[: template["min"]])
        elif spec[0] == CHOICE:
            chosen = [o["inputs"] for o in spec[1]["options"] if o["key"] == values[name]]
            yield from (found for i in chosen for found in needed_sockets(i, values, f"{name}."))
        elif not is_widget(spec):
            yield name


def value_faults(kind: str, name: str, value: Any, spec: list[Any]) -> list[str]:
    """Why a widget would refuse its value."""
    options = spec[1] if len(spec) > 1 else {}
    choices = spec[0] if isinstance(spec[0], list) else options.get("options")
    if spec[0] == CHOICE:
        choices = [option["key"] for option in choices]
    if choices is not None:
        return [] if value in choices else [f"{kind}: {name} = {value!r}"]
    if not isinstance(value, TYPES[spec[0]]):
        return [f"{kind}: {name} = {value!r}, not {spec[0]}"]
    if spec[0] in ("INT", "FLOAT"):
        low, high = options.get("min", -math.inf), options.get("max", math.inf)
        return [] if low <= value <= high else [f"{kind}: {name} = {value} outside {low}..{high}"]
    return []


def link_faults(workflow: dict[str, Any], info: dict[str, Any]) -> list[str]:
    """Links between sockets of different types."""
    nodes, found = {node["id"]: node for node in workflow["nodes"]}, []
    for _, origin, slot, target, socket, _ in workflow["links"]:
        source, kind = nodes[origin]["type"], nodes[target]["type"]
        if not {source, kind} <= info.keys():
            continue  # said already
        name = nodes[target]["inputs"][socket]["name"]
        given = dict(enumerate(info[source]["output"])).get(slot)
        wanted = node_inputs(nodes[target], info).get(name, [None])[0]
        if wanted not in (given, "*"):
            found.append(f"{source} gives {given} to {name}, which takes {wanted}")
    return found


def models_of(node: dict[str, Any]) -> list[dict[str, str]]:
    """The downloads that the page offers for a node."""
    return node.get("properties", {}).get("models", [])


def model_faults(node: dict[str, Any], folders: list[str]) -> list[str]:
    """Model files that the page could not offer to download, or should not."""
    kind, values = node["type"], node.get("widgets_values") or []
    files = [value for value in values if str(value).endswith(MODEL_FILES) and " " not in value]
    offered = [model.get("name") for model in models_of(node)]
    own = [name for name in files if not name.startswith(BUNDLED)]
    found = [f"{kind}: {name} has no download" for name in own if name not in offered]
    for model in models_of(node):
        name, url = model.get("name", ""), model.get("url", "")
        if not name.endswith(".safetensors") or not url.endswith(".safetensors"):
            found.append(f"{kind}: {name} from {url!r} is no safetensors file")
        if not url.startswith(HOST) or "/resolve/" not in url:
            found.append(f"{kind}: {name} comes from {url!r}, not from a file of {HOST}")
        if model.get("directory") not in folders:
            found.append(f"{kind}: {name} is for the unknown folder {model.get('directory')!r}")
        if name not in files:
            found.append(f"{kind}: {name} is offered and not chosen")
    return found
