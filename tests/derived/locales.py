"""The English texts of the nodes as ComfyUI's page looks them up, made from the nodes themselves.

locales/LANGUAGE/nodeDefs.json   one entry per node: names and tooltips
locales/LANGUAGE/main.json       the parts of the category, the types of the sockets

The page takes an input's texts from `inputs.<key>`, where the key is the input's name with each
"." as "_": a widget inside a choice, `reward.auto_nats`, is `reward_auto_nats`, and the second
socket of a growing row `weights.weight1` is `weights_weight1`. It takes an output's from its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

LOCALES = Path(__file__).resolve().parents[2] / "locales"
FILES = ("main", "nodeDefs")
OURS = "LAGS"  # what the ids of our nodes and the names of our sockets' types begin with

Json = dict[str, Any]
Input = tuple[str, str, Json, str]  # name, type, what the node says of it, the choice it belongs to


def english(object_info: Mapping[str, Json]) -> dict[str, Json]:
    """Contents of the two files of locales/en, by the file's name.

    object_info: of all nodes, as ComfyUI's page is told. Parts of categories that ComfyUI has
    too stay out: what a pack says of them would replace ComfyUI's own translation everywhere.
    """
    nodes = {name: one for name, one in object_info.items() if name.startswith(OURS)}
    others = [one for name, one in object_info.items() if not name.startswith(OURS)]
    types = {kind for node in nodes.values() for kind in _types(node) if kind.startswith(OURS)}
    main = {
        "nodeCategories": {part: part for part in sorted(_parts(nodes.values()) - _parts(others))},
        "dataTypes": {kind: _type_in_words(kind) for kind in sorted(types)},
    }
    return {"main": main, "nodeDefs": {name: _node(one) for name, one in nodes.items()}}


def _parts(nodes: Iterable[Json]) -> set[str]:
    """Parts of the nodes' categories."""
    return {part for node in nodes for part in node["category"].split("/")}


def _types(node: Json) -> list[str]:
    """Types of a node's sockets."""
    return [kind for _, kind, _, _ in _inputs(node)] + list(node["output"])


def _type_in_words(kind: str) -> str:
    """LAGS_WEIGHT -> LAGS weight."""
    return f"{OURS} {kind.removeprefix(OURS).replace('_', ' ').strip().lower()}"


def _node(node: Json) -> Json:
    """One node's entry."""
    texts: Json = {"display_name": node["display_name"], "description": node["description"]}
    texts["inputs"] = _input_texts(_inputs(node))
    texts["outputs"] = {
        str(place): _output(*output)
        for place, output in enumerate(
            zip(node["output"], node["output_name"], node["output_tooltips"], strict=True)
        )
    }
    return texts


def _output(kind: str, name: str, tooltip: str) -> Json:
    """An output's texts. One that is called after its type has the type's name on the page."""
    return {"tooltip": tooltip} if name == kind else {"name": name, "tooltip": tooltip}


def _inputs(node: Json) -> Iterator[Input]:
    """All inputs that a node can have, those inside a choice or a growing row too."""
    for group in ("required", "optional"):
        for name, spec in node["input"].get(group, {}).items():
            yield from _unfold(name, spec, "")


def told_of_inputs(node: Json) -> Json:
    """What a node says of each input, by the input's key."""
    return {name.replace(".", "_"): told for name, _, told, _ in _inputs(node)}


def _unfold(name: str, spec: list[Any], choice: str) -> Iterator[Input]:
    """An input and what appears with it."""
    kind, told = spec[0], (spec[1] if len(spec) > 1 else {})
    if kind == "COMFY_AUTOGROW_V3":
        yield from _grown(name, told["template"])
        return
    yield name, kind if isinstance(kind, str) else "COMBO", told, choice
    if kind == "COMFY_DYNAMICCOMBO_V3":
        for option in told["options"]:
            for group in ("required", "optional"):
                for inner, spec in option["inputs"].get(group, {}).items():
                    yield from _unfold(f"{name}.{inner}", spec, option["key"])


def _grown(name: str, template: Json) -> Iterator[Input]:
    """The sockets of a growing row, to the last. The page shows its tooltip nowhere."""
    [[kind, told]] = template["input"]["required"].values()
    for place in range(template["max"]):
        yield f"{name}.{template['prefix']}{place}", kind, told, ""


def _input_texts(inputs: Iterator[Input]) -> Json:
    """Entries of inputs by their key.

    There is one entry for all options of a choice: where the options' tooltips differ it has a
    line for each, "option: tooltip".
    """
    texts: Json = {}
    tooltips: dict[str, dict[str, list[str]]] = {}
    for name, _, told, choice in inputs:
        key = name.replace(".", "_")
        texts[key] = {"name": told.get("display_name") or name.rpartition(".")[2]}
        tooltips.setdefault(key, {}).setdefault(told["tooltip"], []).append(choice)
    for key, found in tooltips.items():
        lines = [f"{', '.join(options)}: {tooltip}" for tooltip, options in found.items()]
        texts[key]["tooltip"] = "\n".join(lines) if len(found) > 1 else next(iter(found))
    return texts


def read(language: str) -> dict[str, Json]:
    """Contents of a language's files, by the file's name."""
    folder = LOCALES / language
    return {name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in FILES}


def written(contents: Json) -> str:
    """The text of a language's file."""
    return json.dumps(contents, indent=2, ensure_ascii=False) + "\n"


def flat(texts: Any, path: str = "") -> dict[str, str]:
    """Every text of a language's files by where it stands: its keys, joined by dots."""
    if not isinstance(texts, dict):
        return {path: texts}
    found: dict[str, str] = {}
    for key, inner in texts.items():
        found |= flat(inner, f"{path}.{key}" if path else key)
    return found


def languages() -> list[str]:
    """The languages that there are."""
    return sorted(folder.name for folder in LOCALES.iterdir() if folder.is_dir())


def differences(language: str) -> list[str]:
    """The entries of English that a language lacks, and those that English has not."""
    wanted, found = flat(read("en")), flat(read(language))
    lacking = [f"{language} lacks {path}" for path in wanted if path not in found]
    return lacking + [f"{language} has a stale {path}" for path in found if path not in wanted]
