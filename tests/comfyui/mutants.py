"""Prompts in API format that are good, and seeded ways to spoil them or to change them legally."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lags_pack.demo import workflow
from lags_pack.demo.workflow import CHOICE, GROWING, both_kinds, is_widget, socket_names

Prompt = dict[str, Any]
Info = dict[str, Any]

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
ESCAPE = "lags_fuzz_escape"  # part of every file name that leads out of ComfyUI's folders
# What makes a legal prompt slow. A legal number above is taken down to it after mutation, so that
# accepted prompts are run, and run soon; numbers out of range stay, to be refused.
CAPS = {
    **{"steps": 2, "batch_size": 2, "particles": 2, "rounds": 1, "neighbours": 2, "count": 4},
    **{"draws": 2, "repeats": 2, "lookahead_steps": 2, "width": 64, "height": 64},
    **{"scale": 0.25, "decode_size": 64},
}
SMALL = {"batch_size": 1, "steps": 1, "width": 32, "height": 32, "count": 2, "scale": 0.25}
ENOUGH = 9  # images for MM-SOLD
# A node that puts out what a socket takes: class, slot.
SOURCES = {
    "MODEL": ("LAGSDemoModel", 0),
    "CONDITIONING": ("LAGSDemoModel", 1),
    "VAE": ("LAGSDemoModel", 3),
    "LATENT": ("LAGSDemoModel", 4),
    "IMAGE": ("VAEDecode", 0),
    "MASK": ("SolidMask", 0),
    "SIGMAS": ("BasicScheduler", 0),
    "LAGS_WEIGHT": ("LAGSWeightColor", 0),
    "LAGS_METHOD": ("LAGSMethodDPS", 0),
    "LAGS_OPTIONS": ("LAGSOptions", 0),
    "LAGS_TRACE": ("LAGSKSampler", 1),
    "LAGS_SWEEP": ("LAGSSweep", 4),
}
NUMBERS = [math.nan, math.inf, -math.inf, 0, -0.0, -1, 1, 0.5, 2**31, -(2**63), 2**64 - 1, 2**64]
NUMBERS += [10**9, 10**30, 1e-300, 1e300, -1e38, 3, True, False, 16, 7]
TEXTS = ["", " ", "nan", "inf", "-1", "1e999", "1, 2", "1,,nan", "0x10", "None", "auto", "\x00"]
TEXTS += ["ä" * 300, "\U0001f600" * 50, "\u202e\u0000\ufeff", "\ud800", "a" * 20000, "%s%n{0}{x}"]
TEXTS += ["#00ff00", "#zzzzzz", "green", "0, 1", "red, red", "; ; ;", "{}", "[]", "\n\r\t", "١٢"]
PATHS = [f"../../{ESCAPE}", f"/tmp/{ESCAPE}", f"..\\..\\{ESCAPE}", f"a/../../../{ESCAPE}/x"]  # noqa: S108
PATHS += ["/etc/passwd", "../../../etc/passwd", "x\x00.safetensors", "link.safetensors", "C:\\x"]
PATHS += ["weight_functions/../x", "clip_vision/../../x.safetensors", "%date:yyyy%/x", "~", "."]
OTHERS = [None, [], {}, [1], ["x", 0, 1], {"a": 1}, {"__value__": [1, 2]}, {"__value__": None}]
OTHERS += [[[]], {"__value__": {}}, {"samples": 1}, [["x", {}]]]
OTHERS += [{"__type__": "x", "__value__": "y"}]


def demo_prompts(info: Info) -> dict[str, Prompt]:
    """The workflows of the bundled model, made small."""
    prompts = {}
    for file in sorted(WORKFLOWS.glob("*_demo.json")):
        prompt = workflow.to_prompt(json.loads(file.read_text("utf-8")), info)
        for node in prompt.values():
            inputs = node["inputs"]
            inputs.update({name: SMALL[name] for name in inputs.keys() & SMALL.keys()})
        prompts[file.stem] = prompt
    return prompts


def own_nodes(info: Info) -> list[str]:
    return [kind for kind in info if kind.startswith("LAGS")]


def single_graph(kind: str, info: Info, rng: random.Random) -> Prompt:
    """One node of the pack, with what its sockets need, and all that it puts out shown."""
    prompt: Prompt = {}
    add_node(prompt, "node", kind, info, rng)
    for slot in range(len(info[kind]["output"])):
        prompt[f"show{slot}"] = {"class_type": "PreviewAny", "inputs": {"source": ["node", slot]}}
    return prompt


def add_node(prompt: Prompt, key: str, kind: str, info: Info, rng: random.Random) -> None:
    """A node with legal values in all widgets and a source at its sockets, optional ones by lot."""
    prompt[key] = {"class_type": kind, "inputs": {}}
    required = info[kind]["input"].get("required", {})
    for name, spec in both_kinds(info[kind]["input"]).items():
        if name in required or rng.random() < 0.5:
            _fill(prompt, key, name, spec, info, rng)


def _fill(
    prompt: Prompt, key: str, name: str, spec: list[Any], info: Info, rng: random.Random
) -> None:
    """Give one input of a node a legal value; with it what the value brings."""
    inputs = prompt[key]["inputs"]
    if spec[0] == GROWING:
        template = spec[1]["template"]
        (each,) = both_kinds(template["input"]).values()
        for inner in socket_names(template)[: rng.randint(1, 2)]:
            _fill(prompt, key, f"{name}.{inner}", each, info, rng)
    elif spec[0] == CHOICE:
        option = rng.choice(spec[1]["options"])
        inputs[name] = option["key"]
        for inner, of in both_kinds(option["inputs"]).items():
            _fill(prompt, key, f"{name}.{inner}", of, info, rng)
    elif is_widget(spec):
        inputs[name] = _default(name, spec)
    else:
        inputs[name] = _source(prompt, spec[0], info, rng)


def _default(name: str, spec: list[Any]) -> Any:
    """A widget's default, or a small value."""
    options = spec[1] if len(spec) > 1 else {}
    known = spec[0] if isinstance(spec[0], list) else options.get("options", [""])
    if name == "classes" or name.endswith(".classes"):
        return "0, 1" if name.startswith("goal") else "0"
    return SMALL.get(name, options.get("default", known[0]))


def _source(prompt: Prompt, kind: str, info: Info, rng: random.Random) -> list[Any]:
    """A link to a node that puts out a kind of thing; the node is added where it lacks."""
    source, slot = SOURCES[kind]
    key = f"a {source}"
    if key not in prompt:
        add_node(prompt, key, source, info, rng)
        if kind == "IMAGE":  # images that differ, and enough of them to learn from
            add_node(prompt, "a RepeatLatentBatch", "RepeatLatentBatch", info, rng)
            prompt["a RepeatLatentBatch"]["inputs"]["amount"] = ENOUGH
            add_node(prompt, "a KSampler", "KSampler", info, rng)
            prompt["a KSampler"]["inputs"]["latent_image"] = ["a RepeatLatentBatch", 0]
            prompt[key]["inputs"]["samples"] = ["a KSampler", 0]
    return [key, slot]


def specs_of(node: dict[str, Any], info: Info) -> dict[str, list[Any]]:
    """What the server says of every input that a node may have, those of all choices included."""
    if node["class_type"] not in info:
        return {}
    found, waiting = {}, list(both_kinds(info[node["class_type"]]["input"]).items())
    while waiting:
        name, spec = waiting.pop()
        found[name] = spec
        if spec[0] == CHOICE:
            for option in spec[1]["options"]:
                waiting += [(f"{name}.{i}", s) for i, s in both_kinds(option["inputs"]).items()]
        if spec[0] == GROWING:
            (each,) = both_kinds(spec[1]["template"]["input"]).values()
            found.update({f"{name}.{i}": each for i in socket_names(spec[1]["template"])})
    return found


def _inputs(prompt: Prompt, info: Info, kind: str) -> list[tuple[dict[str, Any], str, list[Any]]]:
    """Node, name and specification of all inputs of a kind that nodes may have."""
    return [
        (node, name, spec)
        for node in prompt.values()
        for name, spec in specs_of(node, info).items()
        if spec[0] == kind
    ]


def _pick(rng: random.Random, prompt: Prompt) -> tuple[dict[str, Any], str]:
    """One input of one node, the pack's nodes first."""
    own = [node for node in prompt.values() if str(node["class_type"]).startswith("LAGS")]
    nodes = [node for node in own or prompt.values() if node["inputs"]]
    node = rng.choice(nodes or list(prompt.values()))
    return node, rng.choice(sorted(node["inputs"]) or ["none"])


# What each mutation is given: a source of chance, the prompt to change, the server's object_info.
Mutation = Callable[[random.Random, Prompt, Info], None]


def legal_number(rng: random.Random, prompt: Prompt, info: Info) -> None:
    """Numbers and choices within their lists and ranges, their ends often."""
    for _ in range(3):
        node, name = _pick(rng, prompt)
        spec = specs_of(node, info).get(name)
        if spec is None or not is_widget(spec):
            continue
        options = spec[1] if len(spec) > 1 else {}
        known = spec[0] if isinstance(spec[0], list) else options.get("options")
        if spec[0] == "BOOLEAN":
            node["inputs"][name] = rng.random() < 0.5
        elif known and spec[0] != CHOICE:
            node["inputs"][name] = rng.choice(known)
        elif spec[0] in ("INT", "FLOAT"):
            low, high = options.get("min", 0), options.get("max", 100)
            value = rng.choice([low, high, rng.uniform(low, high), rng.uniform(low, min(high, 3))])
            node["inputs"][name] = round(value) if spec[0] == "INT" else value


def legal_text(rng: random.Random, prompt: Prompt, info: Info) -> None:
    texts = [one for one in _inputs(prompt, info, "STRING") if one[1] in one[0]["inputs"]]
    if texts:
        node, name, _ = rng.choice(texts)
        node["inputs"][name] = rng.choice(TEXTS + PATHS)


def legal_link(rng: random.Random, prompt: Prompt, info: Info) -> None:
    """A socket fed by another output of the right kind."""
    node, name = _pick(rng, prompt)
    spec = specs_of(node, info).get(name)
    if spec is not None and not is_widget(spec):
        fitting = [
            [key, slot]
            for key, other in prompt.items()
            for slot, kind in enumerate(info.get(other["class_type"], {"output": []})["output"])
            if kind == spec[0] and other is not node
        ]
        if fitting:
            node["inputs"][name] = rng.choice(fitting)


def wrong_value(rng: random.Random, prompt: Prompt, info: Info) -> None:
    node, name = _pick(rng, prompt)
    node["inputs"][name] = copy.deepcopy(rng.choice(rng.choice([NUMBERS, TEXTS, PATHS, OTHERS])))


def wrong_number(rng: random.Random, prompt: Prompt, info: Info) -> None:
    """A number, or the text of one, just outside of a range or far."""
    node, name = _pick(rng, prompt)
    value = rng.choice(NUMBERS)
    node["inputs"][name] = str(value) if rng.random() < 0.3 else value


def without_input(rng: random.Random, prompt: Prompt, info: Info) -> None:
    node, name = _pick(rng, prompt)
    node["inputs"].pop(name, None)


def without_node(rng: random.Random, prompt: Prompt, info: Info) -> None:
    if len(prompt) > 1:
        prompt.pop(rng.choice(sorted(prompt)))


def wrong_link(rng: random.Random, prompt: Prompt, info: Info) -> None:
    """A link to no node, to no output, to another kind of output, to itself, or in a circle."""
    node, name = _pick(rng, prompt)
    keys = sorted(prompt)
    (own,) = [key for key in keys if prompt[key] is node]
    wrong = [["nowhere", 0], [own, 0], [rng.choice(keys), rng.randint(-3, 9)], [own, "0"]]
    wrong += [[rng.choice(keys), 1.5], [7, 0], [None, None], [[], 0], [rng.choice(keys), 10**20]]
    node["inputs"][name] = rng.choice(wrong)


def other_choice(rng: random.Random, prompt: Prompt, info: Info) -> None:
    choices = _inputs(prompt, info, CHOICE)
    if choices:
        node, name, spec = rng.choice(choices)
        keys = [option["key"] for option in spec[1]["options"]]
        node["inputs"][name] = rng.choice([*keys, "no such choice", None, 0, ["a", 0], "", {}])


def more_slots(rng: random.Random, prompt: Prompt, info: Info) -> None:
    """Sockets of a list that grows: gaps, doubles, too many, names that are none."""
    lists = [
        (node, name)
        for node in prompt.values()
        for name in list(node["inputs"])
        if name.startswith(("weights.", "traces."))
    ]
    if lists:
        node, name = rng.choice(lists)
        link, (list_name, socket) = node["inputs"][name], name.split(".", 1)
        stem = socket.rstrip("0123456789")
        ends = ["1", "7", "15", "16", "99", "01", "-1", "x", "", "1.0", "١"]
        for end in rng.sample(ends, 3):
            node["inputs"][f"{list_name}.{stem}{end}"] = copy.deepcopy(link)
        if rng.random() < 0.3:
            node["inputs"][list_name] = rng.choice([None, {}, "x", link, {"weight0": "x"}])


def more_inputs(rng: random.Random, prompt: Prompt, info: Info) -> None:
    node, _ = _pick(rng, prompt)
    names = ["extra", "cls", "self", "unique_id", "prompt", "__class__"]
    names += ["reward.x", "goal", "a.b.c"]
    node["inputs"][rng.choice(names)] = rng.choice(TEXTS + OTHERS)


def other_class(rng: random.Random, prompt: Prompt, info: Info) -> None:
    node, _ = _pick(rng, prompt)
    node["class_type"] = rng.choice([*own_nodes(info), "NoSuchNode", "", None])


LEGAL: list[Mutation] = [legal_number, legal_number, legal_text, legal_link]
ILLEGAL: list[Mutation] = [
    *(wrong_value, wrong_value, wrong_number, without_input, without_node, wrong_link),
    *(other_choice, more_slots, more_inputs, other_class),
]


def mutants(info: Info, count: int, seed: int, run: int = 25) -> Iterator[tuple[Prompt, str]]:
    """So many mutated prompts and how they came about, runs of them from one good prompt.

    A run shares its first prompt, so that what it does not change comes from ComfyUI's cache.
    """
    demos, kinds, shown, turn = demo_prompts(info), own_nodes(info), 0, 0
    while shown < count:
        rng = random.Random(f"{seed} {turn}")
        if turn % 5 == 0:
            title, whole = list(demos.items())[turn // 5 % len(demos)]
            base = one_end(whole, rng)
        else:
            title = kinds[(turn - turn // 5 - 1) % len(kinds)]
            base = single_graph(title, info, rng)
        for number in range(min(run, count - shown)):
            prompt = copy.deepcopy(base)
            kinds_of = LEGAL if rng.random() < 0.15 else [*LEGAL, *ILLEGAL, *ILLEGAL]
            done = [rng.choice(kinds_of) for _ in range(rng.randint(1, 3))]
            for mutation in done:
                mutation(rng, prompt, info)
            names = ", ".join(mutation.__name__ for mutation in done)
            how = f"{title}, turn {turn}, number {number}: {names}"
            yield without_known_hang(kept_small(prompt, info), info), how
            shown += 1
        turn += 1


def one_end(prompt: Prompt, rng: random.Random) -> Prompt:
    """A node that nothing follows, and all that it needs: whole demos would take too long."""
    values = [value for node in prompt.values() for value in node["inputs"].values()]
    sources = {value[0] for value in values if isinstance(value, list)}
    end = rng.choice(sorted(prompt.keys() - sources))
    return {key: prompt[key] for key in workflow.ancestors(prompt, end)}


def without_known_hang(prompt: Prompt, info: Info) -> Prompt:
    """The same prompt without links to no output in inputs that ComfyUI does not look at.

    It validates those of a node's schema only, but follows every link: one that leads nowhere ends
    the thread that runs prompts, for any node of any pack, until ComfyUI is started again.
    """
    for node in prompt.values():
        known = both_kinds(info.get(node["class_type"], {"input": {}})["input"])
        for name, value in list(node["inputs"].items()):
            looked_at = name in known and known[name][0] not in (CHOICE, GROWING)
            is_link = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
            if is_link and not looked_at and not _is_output(value, prompt, info):
                del node["inputs"][name]
    return prompt


def _is_output(link: list[Any], prompt: Prompt, info: Info) -> bool:
    """Whether a link names an output that there is."""
    source, slot = prompt.get(link[0], {}).get("class_type"), link[1]
    outputs = info.get(source, {"output": []})["output"]
    return type(slot) is int and 0 <= slot < len(outputs)


def kept_small(prompt: Prompt, info: Info) -> Prompt:
    """The same prompt with its legal but large counts and sizes taken down."""
    for node in prompt.values():
        specs = specs_of(node, info)
        for name in node["inputs"].keys() & CAPS.keys() & specs.keys():
            most = specs[name][1].get("max", math.inf)
            try:
                asked = float(node["inputs"][name])
            except (TypeError, ValueError, OverflowError):
                continue
            if CAPS[name] < asked <= most:
                node["inputs"][name] = CAPS[name]
    return prompt
