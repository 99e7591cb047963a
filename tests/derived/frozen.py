"""The record of what a release has promised to saved workflows, and what breaks a promise.

tests/frozen/VERSION.json   all that a release promised; never written again
tests/frozen/next.json      the nodes, sockets and workflows that have more than in any release
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "frozen"
NEXT = FOLDER / "next.json"
OURS = "LAGS"  # what the ids of our nodes begin with
CHOICE, GROWING = "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3"  # inputs that bring others
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", CHOICE}
FILES = {"file", "text_file", "clip"}  # lists of what the user has
MOVED = {"quickstart_demo": "colour_demo"}  # where a graph lies since another has its name
NOTES = ("Note", "MarkdownNote")  # a page's own nodes, free to be rewritten

Description = dict[str, Any]


# ---- describing --------------------------------------------------------------------------------


def describe(info: dict[str, Any], workflows: dict[str, Any]) -> Description:
    """What a release promises.

    Args:
        info: nodes by id, each as ComfyUI's /object_info has it.
        workflows: the pack's own, by name.
    """
    nodes = {name: describe_node(node) for name, node in sorted(info.items())}
    return {
        "nodes": nodes,
        "sockets": sorted(sockets(nodes)),
        "workflows": {name: describe_workflow(one) for name, one in sorted(workflows.items())},
    }


def describe_node(node: dict[str, Any]) -> Description:
    """A node's category, inputs in order, and outputs in order."""
    return {
        "category": node["category"],
        "inputs": describe_inputs(node["input"]),
        "outputs": [list(pair) for pair in zip(node["output"], node["output_name"], strict=True)],
    }


def describe_inputs(inputs: dict[str, Any]) -> Description:
    """Inputs by name, in the order in which a page draws them and saves their values."""
    return {
        name: describe_input(name, spec, kind == "required")
        for kind in ("required", "optional")
        for name, spec in inputs.get(kind, {}).items()
    }


def describe_input(name: str, spec: list[Any], required: bool) -> Description:
    """Type, whether it must be given, range, options, and what it brings."""
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    found: Description = {"type": kind, "required": required}
    if kind in ("INT", "FLOAT"):
        found |= {limit: options[limit] for limit in ("min", "max") if limit in options}
    elif kind == "COMBO" and name not in FILES and options["options"]:
        found["options"] = list(options["options"])
    elif kind == CHOICE:
        found["choices"] = {o["key"]: describe_inputs(o["inputs"]) for o in options["options"]}
    elif kind == GROWING:
        template = options["template"]
        found["each"] = describe_inputs(template["input"])
        found |= {
            key: template[key] for key in ("prefix", "min", "max", "names") if key in template
        }
    return found


def sockets(nodes: dict[str, Description]) -> set[str]:
    """The pack's own socket types."""
    kinds = {kind for node in nodes.values() for kind, _ in node["outputs"]}
    return {kind for kind in kinds if kind.startswith("LAGS_")}


def describe_workflow(workflow: dict[str, Any]) -> list[list[Any]]:
    """Type and number of saved widget values of each node, sorted."""
    real = [node for node in workflow["nodes"] if node["type"] not in NOTES]
    return sorted([node["type"], len(node.get("widgets_values") or [])] for node in real)


# ---- comparing ---------------------------------------------------------------------------------


def breaks(old: Description, new: Description) -> list[str]:
    """What a workflow that was saved with the old release would no longer find."""
    found = []
    for name, node in old["nodes"].items():
        if name not in new["nodes"]:
            found.append(f"node {name} is gone")
        else:
            found += [f"{name}: {fault}" for fault in node_breaks(node, new["nodes"][name])]
    found += [f"socket {kind} is gone" for kind in old["sockets"] if kind not in new["sockets"]]
    for name, nodes in old["workflows"].items():
        if name not in new["workflows"]:
            found.append(f"workflow {name} is gone")
            continue
        there = (new["workflows"].get(place, []) for place in (name, MOVED.get(name, name)))
        lost = min((_lost(nodes, graph) for graph in there), key=len)
        found += [f"workflow {name}: no {kind} with {count} values" for kind, count in lost]
    return found


def _lost(old: list[list[Any]], new: list[list[Any]]) -> list[tuple[str, int]]:
    """Nodes of a workflow, with the number of their values, that it no longer has.

    One with more values, of widgets that are newer, stands for one with fewer.
    """
    left, lost = sorted(new, key=lambda one: one[1]), []
    for kind, count in sorted(old, key=lambda one: one[1]):
        found = next((one for one in left if one[0] == kind and one[1] >= count), None)
        if found is None:
            lost.append((kind, count))
        else:
            left.remove(found)
    return lost


def node_breaks(old: Description, new: Description) -> Iterator[str]:
    """Of one node."""
    if old["category"] != new["category"]:
        yield f"category {old['category']} became {new['category']}"
    if new["outputs"][: len(old["outputs"])] != old["outputs"]:
        yield f"outputs {old['outputs']} became {new['outputs']}"
    yield from inputs_break(old["inputs"], new["inputs"])
    for chosen in selections(old["inputs"]):
        before, now = widgets(old["inputs"], chosen), widgets(new["inputs"], chosen)
        if now[: len(before)] != before:
            yield f"saved values stand for {before}, and would be read as {now}"


def inputs_break(old: Description, new: Description, prefix: str = "") -> Iterator[str]:
    """Of a list of inputs."""
    for name, spec in old.items():
        if name not in new:
            yield f"input {prefix}{name} is gone"
        else:
            yield from (f"{prefix}{name}: {fault}" for fault in input_breaks(spec, new[name]))
    for name, spec in new.items():
        if name not in old and spec["required"]:
            yield f"input {prefix}{name} is new and required"


def input_breaks(old: Description, new: Description) -> Iterator[str]:
    """Of one input."""
    if old["type"] != new["type"]:
        yield f"{old['type']} became {new['type']}"
        return
    if new["required"] and not old["required"]:
        yield "is required now"
    if "min" in old and not new.get("min", old["min"]) <= old["min"]:
        yield f"min {old['min']} became {new['min']}"
    if "max" in old and not new.get("max", old["max"]) >= old["max"]:
        yield f"max {old['max']} became {new['max']}"
    gone = [value for value in old.get("options", []) if value not in new.get("options", [])]
    if gone:
        yield f"options {gone} are gone"
    for key in ("prefix", "names"):
        if old.get(key) != new.get(key):
            yield f"{key} {old.get(key)} became {new.get(key)}"
    yield from inputs_break(old.get("each", {}), new.get("each", {}), "each ")
    for key, inputs in old.get("choices", {}).items():
        if key not in new["choices"]:
            yield f"choice {key} is gone"
        else:
            yield from inputs_break(inputs, new["choices"][key], f"{key}.")


def selections(inputs: Description) -> list[dict[str, str]]:
    """Each choice once, the others at their first; one empty selection where there are none."""
    choosing = {name: list(spec["choices"]) for name, spec in inputs.items() if "choices" in spec}
    first = {name: keys[0] for name, keys in choosing.items()}
    return [first, *({**first, name: key} for name, keys in choosing.items() for key in keys[1:])]


def widgets(inputs: Description, chosen: dict[str, str]) -> list[str]:
    """The names of saved values, in the page's order."""
    found = []
    for name, spec in inputs.items():
        if spec["type"] in WIDGETS:
            found.append(name)
        if name in chosen:
            brought = spec.get("choices", {}).get(chosen[name], {})
            found += [f"{name}.{inner}" for inner in widgets(brought, {})]
    return found


# ---- recording ---------------------------------------------------------------------------------


def node_info(object_info: dict[str, Any]) -> dict[str, Any]:
    """The pack's nodes, less the lists of samplers and schedulers, which are ComfyUI's own.

    Args:
        object_info: of the pack's nodes and of ComfyUI's.
    """
    inputs = object_info["KSampler"]["input"]["required"]
    lists = [_options(inputs[name]) for name in ("sampler_name", "scheduler")]
    found = {name: copy.deepcopy(one) for name, one in object_info.items() if name.startswith(OURS)}
    for info in found.values():
        for kind, options in info["input"].get("required", {}).values():
            if kind == "COMBO" and options["options"] in lists:
                options["options"] = []
    return found


def _options(spec: list[Any]) -> list[str]:
    """The options of a list; older nodes have them in the place of the type."""
    return spec[0] if isinstance(spec[0], list) else spec[1]["options"]


def releases() -> dict[str, Description]:
    """The records of releases, by version."""
    files = sorted(FOLDER.glob("[0-9]*.json"))
    return {path.stem: json.loads(path.read_text("utf-8")) for path in files}


def news(records: Iterable[Description], today: Description) -> Description:
    """What the pack promises that no release did: nodes and workflows that have more, sockets."""
    known = list(records)

    def is_new(kind: str, name: str, lacks: Callable[[Any, Any], Any]) -> bool:
        return all(
            name not in one[kind] or lacks(today[kind][name], one[kind][name]) for one in known
        )

    nodes = {k: v for k, v in today["nodes"].items() if is_new("nodes", k, _node_has_more)}
    flows = {k: v for k, v in today["workflows"].items() if is_new("workflows", k, _lost)}
    sockets = [kind for kind in today["sockets"] if all(kind not in r["sockets"] for r in known)]
    return {"nodes": nodes, "sockets": sockets, "workflows": flows}


def _node_has_more(new: Description, old: Description) -> bool:
    return next(node_breaks(new, old), None) is not None


def records(today: Description, version: str) -> dict[Path, str | None]:
    """Files of tests/frozen as they should be; None where there should be no such file.

    A version without a record is one to be released: its record is all that the pack promises. Once
    it is there it is never written again, and what comes after it is the news.
    """
    if version not in releases():
        return {FOLDER / f"{version}.json": _written(today), NEXT: None}
    new = news(releases().values(), today)
    return {NEXT: _written(new) if any(new.values()) else None}


def _written(description: Description) -> str:
    return json.dumps(description, indent=1) + "\n"
