"""ComfyUI workflows as files: the page's format turned into the prompt that the server runs."""

from __future__ import annotations

from typing import Any

NOTES = ("Note", "MarkdownNote")  # the page draws them; the server does not know them
CHOICE, GROWING = "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3"  # inputs that bring others
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", CHOICE)
SEEDS = ("seed", "noise_seed")  # a page adds a widget to each of these
EMPTY = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}  # where no default is said
MUTED, BYPASSED = 2, 4  # values of a node's "mode"


def to_prompt(workflow: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The prompt in API format that a page would queue for a workflow that was saved from it.

    Args:
        workflow: what the page saves: nodes, and links between them.
        info: the server's /object_info.

    Raises:
        ValueError: what no page saves, a node that this ComfyUI does not have, that is bypassed, or
            whose values do not fit its widgets.
    """
    check_saved(workflow)
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


def check_saved(workflow: Any) -> None:
    """Refuse what is no workflow of a page, or one that was damaged.

    Raises:
        ValueError: the part that is not as the page saves it.
    """
    if not isinstance(workflow, dict):
        raise ValueError(f"A workflow is a {type(workflow).__name__}; expected a JSON object.")
    for name in ("nodes", "links"):
        if not isinstance(workflow.get(name), list):
            raise ValueError(f"The workflow has no list of {name}: save it from the page, by Save.")
    for link in workflow["links"]:
        if not isinstance(link, list) or len(link) < 3 or not all(map(_is_id, link[:3])):
            raise ValueError(f"Link {link!r:.80} is damaged; expected [id, from node, slot, ...].")
    for node in workflow["nodes"]:
        if not _is_node(node):
            raise ValueError(
                f"Node {node!r:.80} is damaged; expected id, type, inputs and widgets_values as "
                "the page saves them."
            )


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str))


def _is_node(node: Any) -> bool:
    """Whether a node has all that is read of it, in its own types."""
    if not isinstance(node, dict) or not _is_id(node.get("id")):
        return False
    sockets, values = node.get("inputs", []), node.get("widgets_values")
    if not isinstance(sockets, list) or not isinstance(values, (list, type(None))):
        return False
    return isinstance(node.get("type"), str) and all(
        isinstance(socket, dict)
        and isinstance(socket.get("name"), str)
        and (socket.get("link") is None or _is_id(socket["link"]))
        for socket in sockets
    )


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
    """A node's values by the names of its widgets.

    A widget that is newer than the file has its default, as on the page.
    """
    names, values = widget_names(node, info), node.get("widgets_values") or []
    if not names:
        return {}  # what stands there is the page's own, as in Preview as Text
    saved = saved_values(node)
    if saved is not None and saved.keys() <= set(names):
        known = node_inputs(node, info)
        return {n: saved[n] if n in saved else default_of(known[n]) for n in names if n}
    if len(names) != len(values):
        raise ValueError(
            f"Node {node['id']} ({node['type']}) has {len(values)} values {values} for "
            f"{len(names)} widgets {names}: save the workflow again with this ComfyUI."
        )
    return {name: value for name, value in zip(names, values, strict=True) if name}


def widget_names(node: dict[str, Any], info: dict[str, Any]) -> list[str]:
    """The names of a node's widgets in the page's order; "" for one that the server never sees."""
    names = []
    for name, spec in node_inputs(node, info).items():
        if is_widget(spec):
            names += [name, ""] if has_companion(name, spec) else [name]
    return names


def saved_widgets(node: dict[str, Any]) -> list[str]:
    """The names of a node's widgets when it was saved; "" for the one that a page adds to a seed.

    Empty for a file of an old page, which does not name them.
    """
    names = [socket["name"] for socket in node.get("inputs", []) if "widget" in socket]
    return [one for name in names for one in ([name, ""] if name in SEEDS else [name])]


def saved_values(node: dict[str, Any]) -> dict[str, Any] | None:
    """A node's values by the names that were saved with them; None where those do not fit."""
    names, values = saved_widgets(node), node.get("widgets_values") or []
    if not names or len(names) != len(values):
        return None
    return {name: value for name, value in zip(names, values, strict=True) if name}


def default_of(spec: list[Any]) -> Any:
    """The value of a widget that nobody has set."""
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    if "default" in options:
        return options["default"]
    choices = kind if isinstance(kind, list) else options.get("options") or [EMPTY.get(kind)]
    return choices[0]["key"] if kind == CHOICE else choices[0]


def node_inputs(node: dict[str, Any], info: dict[str, Any]) -> dict[str, list[Any]]:
    """All inputs of a node, in the page's order, and what the server says of each.

    What an input brings has a longer name: "reward.file" of the choice made in "reward",
    "weights.weight0" and so on of "weights", which grows.
    """
    if node["type"] not in info:
        raise ValueError(
            f"This ComfyUI has no node {node['type']}: is the pack that brings it installed?"
        )
    saved, values = saved_values(node), iter(node.get("widgets_values") or [])
    waiting, found = list(both_kinds(info[node["type"]]["input"]).items()), {}
    while waiting:
        name, spec = waiting.pop(0)
        if spec[0] != GROWING:
            found[name] = spec
        value = next(values, None) if is_widget(spec) else None
        if has_companion(name, spec):
            next(values, None)
        if saved is not None and spec[0] == CHOICE:
            value = saved[name] if name in saved else default_of(spec)
        waiting[:0] = [(f"{name}.{inner}", of) for inner, of in brought(spec, value).items()]
    return found


def both_kinds(inputs: dict[str, Any]) -> dict[str, list[Any]]:
    """Required and optional inputs as one."""
    return {**inputs.get("required", {}), **inputs.get("optional", {})}


def brought(spec: list[Any], value: Any) -> dict[str, list[Any]]:
    """The inputs that an input brings: those of a choice, or all that a list may grow to."""
    if spec[0] == CHOICE:
        chosen = [option for option in spec[1]["options"] if option["key"] == value]
        return both_kinds(chosen[0]["inputs"]) if chosen else {}
    if spec[0] == GROWING:
        template = spec[1]["template"]
        (each,) = both_kinds(template["input"]).values()
        return dict.fromkeys(socket_names(template), each)
    return {}


def socket_names(template: dict[str, Any]) -> list[str]:
    """The names of the sockets that a growing list may have."""
    return template.get("names") or [f"{template['prefix']}{i}" for i in range(template["max"])]


def is_widget(spec: list[Any]) -> bool:
    """Whether an input is set in the node itself: a list of choices, or one of the plain types."""
    forced = len(spec) > 1 and spec[1].get("forceInput")
    return not forced and (isinstance(spec[0], list) or spec[0] in WIDGETS)


def has_companion(name: str, spec: list[Any]) -> bool:
    """Whether the page adds a widget: "fixed", "randomize" ..., or the button that uploads."""
    options = spec[1] if len(spec) > 1 else {}
    seed = spec[0] == "INT" and name in SEEDS
    named = options.get("control_after_generate") or options.get("image_upload")
    return is_widget(spec) and bool(seed or named)


def branches(prompt: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """One prompt for each image that is saved, by the last part of its file name's prefix."""
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
