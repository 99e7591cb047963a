"""Mutated prompts to a running server: refused, failed with a sentence, or made.

LAGS_FUZZ_PROMPTS says how many: 10000 (5 minutes) for a release, without it the first 2,500.

Prompts come from comfyui_support.mutants, which also keeps small what is accepted. They go in
portions through one connection, and what became of a portion comes back as one history.
"""

from __future__ import annotations

import copy
import http.client
import json
import math
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfyui_support import mutants, prompts
from comfyui_support.prompts import node
from comfyui_support.server import Server
from lags_pack.demo.workflow import to_prompt
from lags_pack.runtime.checks import check_chosen, check_connected, check_denoise, filled

SEED, PORTION = 7, 100
COUNT = int(os.environ.get("LAGS_FUZZ_PROMPTS", "2500"))
BODIES, PAGES = 600, 1500
HANG = 240.0  # seconds in which a portion has to end, also on a busy machine
PACK = "custom_nodes/lags/"


class Line:
    """One connection to a server, kept open."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=HANG)

    def post(self, path: str, data: Any) -> tuple[int, bytes]:
        """Status and body; data in JSON, or bytes as they are."""
        body = data if isinstance(data, bytes) else json.dumps(data)
        self.connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        return answer.status, answer.read()

    def get(self, path: str) -> Any:
        self.connection.request("GET", path)
        answer = self.connection.getresponse()
        assert answer.status == 200, path
        return json.loads(answer.read())

    def outcomes(self) -> dict[str, Any]:
        """What became of all prompts since the last time, once the queue is empty."""
        deadline = time.monotonic() + HANG
        while self.get("/prompt")["exec_info"]["queue_remaining"]:
            assert time.monotonic() < deadline, (
                f"it hangs: {json.dumps(self.get('/queue')['queue_running'])}\n"
                + self.server.log_tail()
            )
            time.sleep(0.01)
        history = self.get(f"/history?max_items={2 * PORTION}")
        self.post("/history", {"clear": True})
        return history


@pytest.fixture
def line(server) -> Iterator[Line]:
    opened = Line(server)
    yield opened
    opened.connection.close()


def portions(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    portion = []
    for item in items:
        portion.append(item)
        if len(portion) == size:
            yield portion
            portion = []
    yield portion


def fault(error: dict[str, Any]) -> str | None:
    """What is wrong with an execution_error; None for a sentence that somebody meant to say.

    It passed no code of ours, or ours has a `raise` at its end.
    """
    if not error.get("node_id") or not error.get("exception_message", "").strip():
        return f"no node or no message: {error}"
    frames = [frame.replace("\\", "/") for frame in error["traceback"]]
    if not any(PACK in frame for frame in frames) or is_meant(frames):
        return None
    return f"{error['exception_type']}: {error['exception_message']}\n{''.join(frames[-3:])}"


def is_meant(frames: list[str]) -> bool:
    """Whether a traceback ends at a `raise` of ours."""
    place, _, code = (frames or [""])[-1].replace("\\", "/").partition("\n")
    return PACK in place and code.strip().startswith("raise")


def refusal_fault(status: int, body: bytes) -> str | None:
    """What is wrong with a refusal; None for an error in JSON in which no code of ours broke."""
    if status != 400:
        return f"status {status}: {body[:300]!r}"
    refused = json.loads(body)
    nodes = refused.get("node_errors") or {}
    for error in (error for told in nodes.values() for error in told["errors"]):
        if is_meant(error.get("extra_info", {}).get("traceback", [])):
            del error["extra_info"]["traceback"]
    if PACK in json.dumps(refused).replace("\\\\", "/"):
        return f"a traceback of ours: {body[:2000]!r}"
    return None if refused.get("error") else f"no error in {refused}"


def entry_fault(entry: dict[str, Any] | None) -> str | None:
    """What is wrong with a prompt that was accepted; None for success and for a clear error."""
    if entry is None:
        return "it is not in the history"
    if entry["status"]["status_str"] == "success":
        return None
    messages = dict(entry["status"]["messages"])
    if "execution_error" not in messages:
        return f"no error is told: {list(messages)}"
    return fault(messages["execution_error"])


COLOUR = node(
    "LAGSWeightColor",
    **{"attribute": "hue", "hue": 240.0, "colour": "#000000", "strength": 30.0, "auto_nats": 0.0},
)
GOOD = prompts.sampled(prompts.lags(1, steps=4, sampler_name="euler"), COLOUR, batch=2)


def good_pictures(server: Server) -> np.ndarray:
    return np.stack([np.asarray(image) for image in server.pictures(server.queue(GOOD))])


def escaped(base: Path) -> list[Path]:
    """Files of the fuzz's names where ComfyUI should not have written."""
    outside = [folder.glob(f"{mutants.ESCAPE}*") for folder in (base, base.parent, Path("/tmp"))]  # noqa: S108
    inside = [path for path in base.rglob(f"{mutants.ESCAPE}*") if "output" not in path.parts]
    return [*inside, *(path for found in outside for path in found)]


def test_mutated_prompts(server, line, info, weight_files, comfy_base):
    link = weight_files / "link.safetensors"
    link.symlink_to("/etc/hostname")  # a name that leads out of the folder
    before, outcomes, faults, counted = good_pictures(server), Counter(), [], 0
    line.outcomes()
    try:
        for portion in portions(mutants.mutants(info, COUNT, SEED), PORTION):
            asked = []
            for prompt, how in portion:
                counted += 1
                status, body = line.post("/prompt", {"prompt": prompt})
                if status == 200:
                    asked.append((json.loads(body)["prompt_id"], prompt, how))
                    continue
                outcomes["refused"] += 1
                faults += [(refusal_fault(status, body), how, prompt)]
            history = line.outcomes()
            for prompt_id, prompt, how in asked:
                entry = history.get(prompt_id)
                outcomes[entry["status"]["status_str"] if entry else "lost"] += 1
                faults += [(entry_fault(entry), how, prompt)]
    finally:
        link.unlink()
    found = [f"{what}\n{how}\n{json.dumps(prompt)}" for what, how, prompt in faults if what]
    assert not found, f"{len(found)} of {counted}, seed {SEED}:\n" + "\n\n".join(found[:5])
    assert counted == COUNT and outcomes["success"] > COUNT // 10, outcomes
    assert outcomes["refused"] > COUNT // 5 and outcomes["error"] > COUNT // 100, outcomes
    assert not escaped(comfy_base)
    assert np.array_equal(good_pictures(server), before)


# ---- what the page asks --------------------------------------------------------------------

KSAMPLER = {
    **{"node": "1", "sampler_name": "euler", "scheduler": "karras", "steps": 3, "denoise": 1.0},
    **{"mode": "balanced", "c": 10.0, "cfg": 8.0, "nats": 3.0, "add_noise": "enable"},
    **{"start_at_step": 0, "end_at_step": 10000},
    "options": {
        **{"schedule": "chord", "sigma_gate": 0.56, "skip_below": -1.0, "shift_limit": 0.0},
        **{"relative_step": 0.0, "epsilon": 0.0, "second_forward": "full", "reuse_gradient": 1},
    },
}
PARTICLES = {
    **{"node": "2", "sampler_name": "ddpm", "scheduler": "karras", "steps": 3, "denoise": 1.0},
    **{"particles": 4, "method": "lags", "tempering": "from method", "evaluate_every": 0},
}
WITH_METHODS = [
    {**KSAMPLER, "method": {"type": kind, **widgets}} for kind, widgets in prompts.METHODS.items()
]
VALUES = [*mutants.NUMBERS, *mutants.TEXTS, *mutants.PATHS, *mutants.OTHERS]


def spoiled(good: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A body with up to three of its values changed or left out, those of its nodes too."""
    body = copy.deepcopy(good)
    for _ in range(rng.randint(1, 3)):
        inner = body.get(rng.choice(["options", "method"]))
        place = inner if isinstance(inner, dict) and rng.random() < 0.4 else body
        name = rng.choice(sorted(place) or ["none"])
        if rng.random() < 0.2:
            place.pop(name, None)
        else:
            place[name] = rng.choice(VALUES)
    return body


def test_the_schedule_is_asked_in_every_wrong_way(server, line):
    rng, outcomes = random.Random(SEED), Counter()
    raw = [b"", b"{", b"\xff\xfe", b"[" * 5000, b"null", b"[]", b'"x"', b"3", b"{}", b"NaN"]
    good = [KSAMPLER, PARTICLES, *WITH_METHODS]
    bodies = [spoiled(rng.choice(good), rng) for _ in range(BODIES)]
    for body in [*raw, *bodies, *good]:
        status, answer = line.post("/lags/schedule", body)
        outcomes[status] += 1
        assert status in (200, 400), (status, body, server.log_tail(30))
        told = json.loads(answer)
        assert ("error" in told) == (status == 400), (body, told)
        assert status == 200 or len(told["error"]["text"].split()) >= 3, (body, told)
    assert outcomes[200] > BODIES // 10 and outcomes[400] > BODIES // 3, outcomes
    assert line.post("/lags/schedule", KSAMPLER)[0] == 200


# ---- workflows as the page saves them --------------------------------------------------------


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    found: list[tuple[Any, Any]] = []
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            found += places(value[key])
    return found


def test_a_spoiled_workflow_is_converted_or_refused_in_words(info):
    files = sorted(mutants.WORKFLOWS.glob("*_demo.json"))
    saved = [json.loads(file.read_text("utf-8")) for file in files]
    rng, outcomes = random.Random(SEED), Counter()
    for number in range(PAGES):
        workflow = copy.deepcopy(saved[number % len(saved)])
        for _ in range(rng.randint(1, 2)):
            read = places({"nodes": workflow.get("nodes"), "links": workflow.get("links")})
            place, key = rng.choice(read or [(workflow, "nodes")])
            if rng.random() < 0.3 and place is not workflow:
                place.pop(key)
            else:
                place[key] = copy.deepcopy(rng.choice(VALUES))
        try:
            json.dumps(to_prompt(workflow, info))
            outcomes["converted"] += 1
        except ValueError as error:
            outcomes["refused"] += 1
            assert re.match(r"\w+ .* .*[.:?]", str(error), re.DOTALL), error
    assert min(outcomes["converted"], outcomes["refused"]) > PAGES // 5, outcomes
    for whole in (None, [], "x", {}, {"nodes": []}, {"nodes": {}, "links": []}):
        with pytest.raises(ValueError, match="expected|no list"):
            to_prompt(whole, info)


# ---- what the prompts have found -------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 3, "x", True, [], {}, [1, ["x"]], {"samples": [0.5]}])
def test_what_is_written_into_a_socket_is_refused(value):
    with pytest.raises(ValueError, match="Input weight is .*; expected .*connect weight"):
        check_connected(weight=value)


def test_what_nodes_put_out_is_connected():
    latent, conditioning = {"samples": torch.zeros(1)}, [[torch.zeros(1), {"pooled_output": None}]]
    check_connected(latent_image=latent, positive=conditioning, vae=object())
    check_connected(**filled(options=None, method=None))


@pytest.mark.parametrize("chosen", [None, "content", [], {}, {"like": None}, {"goal": "class"}])
def test_what_is_no_choice_is_refused(chosen):
    with pytest.raises(ValueError, match="Input like is .*; expected a choice"):
        check_chosen("like", chosen)
    check_chosen("like", {"like": "content", "file": "auto"})


@pytest.mark.parametrize("denoise", [math.nan, -0.1, 1.1, 1e-300])
def test_a_part_of_endlessly_many_levels_is_refused(denoise):
    with pytest.raises(ValueError, match="denoise is"):
        check_denoise(denoise, 20)
    for fine in (0.0, 0.01, 1.0):
        check_denoise(fine, 10000)
