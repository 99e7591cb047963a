"""ComfyUI workflows as files: the page's format turned into the prompt that the server runs."""

from __future__ import annotations

from typing import Any

NOTES = ("Note", "MarkdownNote")  # the page draws them; the server does not know them
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
MUTED, BYPASSED = 2, 4  # values of a node's "mode"


def to_prompt(workflow: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The prompt in API format that a page would queue for a workflow that was saved from it.

    Args:
        workflow: what the page saves: nodes, and links between them.
        info: the server's /object_info.

    Raises:
        ValueError: a node that this ComfyUI does not have, that is bypassed, or whose values do
            not fit its widgets.
    """
    nodes = {node["id"]: node for node in real_nodes(workflow)}
    sources = {link[0]: link[1:3] for link in workflow["links"]}
    prompt = {}
    for key, node in nodes.items():
        inputs = widget_values(node, info)
        for socket in node.get("inputs", []):
            origin, slot = sources.get(socket.get("link"), (None, 0))
            if origin in nodes:
                inputs[socket["name"]] = [str(origin), slot]
        prompt[str(key)] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def real_nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes that are run: neither notes nor muted ones."""
    nodes = [node for node in workflow["nodes"] if node["type"] not in NOTES]
    for node in nodes:
        if node.get("mode") == BYPASSED:
            raise ValueError(
                f"Node {node['id']} ({node['type']}) is bypassed: only a page can run it."
            )
    return [node for node in nodes if node.get("mode") != MUTED]


def widget_values(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """A node's values by the names of its widgets."""
    names, values = widget_names(node["type"], info), node.get("widgets_values") or []
    if len(names) != len(values):
        raise ValueError(
            f"Node {node['id']} ({node['type']}) has {len(values)} values {values} for "
            f"{len(names)} widgets {names}: save the workflow again with this ComfyUI."
        )
    return {name: value for name, value in zip(names, values, strict=True) if name}


def widget_names(kind: str, info: dict[str, Any]) -> list[str]:
    """The names of a node's widgets in the page's order; "" for one that the server never sees."""
    names = []
    for name, spec in node_inputs(kind, info).items():
        options = spec[1] if len(spec) > 1 else {}
        if not is_widget(spec) or options.get("forceInput"):
            continue
        names.append(name)
        seed = spec[0] == "INT" and name in ("seed", "noise_seed")
        if seed or options.get("control_after_generate") or options.get("image_upload"):
            names.append("")  # "fixed", "randomize" ..., or the button that uploads
    return names


def node_inputs(kind: str, info: dict[str, Any]) -> dict[str, list[Any]]:
    """All inputs of a node and what the server says of each."""
    if kind not in info:
        raise ValueError(f"This ComfyUI has no node {kind}: is the pack that brings it installed?")
    inputs = info[kind]["input"]
    return {**inputs.get("required", {}), **inputs.get("optional", {})}


def is_widget(spec: list[Any]) -> bool:
    """Whether an input is set in the node itself: a list of choices, or one of the plain types."""
    return isinstance(spec[0], list) or spec[0] in WIDGETS


def branches(prompt: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """One prompt for each picture that is saved, by the last part of its file name's prefix."""
    found = {}
    for key, node in prompt.items():
        if node["class_type"] == "SaveImage":
            name = node["inputs"]["filename_prefix"].split("/")[-1]
            found[name] = {needed: prompt[needed] for needed in ancestors(prompt, key)}
    return found


def ancestors(prompt: dict[str, Any], key: str) -> list[str]:
    """A node and all that it needs, in the prompt's order."""
    needed, waiting = set(), [key]
    while waiting:
        node = waiting.pop()
        needed.add(node)
        links = [value for value in prompt[node]["inputs"].values() if isinstance(value, list)]
        waiting += [origin for origin, _ in links if origin not in needed]
    return [node for node in prompt if node in needed]
