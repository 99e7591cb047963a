"""The bundled workflows fit a real server, run on it, and can be stopped or get clear errors."""

from __future__ import annotations

import copy
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lags_pack.demo.check_workflows import file_faults, main, workflow_faults
from lags_pack.demo.comfy import run_workflow, to_tensor
from lags_pack.demo.make_workflows import MADE
from lags_pack.demo.workflow import branches, to_prompt, widget_values
from lags_pack.rewards import ColourReward, SymmetryReward
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
FILES = sorted(FOLDER.glob("*.json"))
EACH = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
MACHINE = re.compile(r"^/|^~|^[A-Za-z]:[\\/]|^\\\\|/(home|root|tmp|Users|mnt)/|localhost|127\.0\.0")


def load(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def node_of(workflow: dict[str, Any], kind: str) -> dict[str, Any]:
    (node,) = [node for node in workflow["nodes"] if node["type"] == kind]
    return node


def texts(value: Any) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts(item)


@pytest.fixture(scope="module")
def folders(server) -> list[str]:
    return server._json("/models")


@pytest.fixture(scope="module")
def faults(info, folders) -> Callable[[dict[str, Any]], list[str]]:
    return lambda workflow: workflow_faults(workflow, info, folders)


@pytest.fixture(scope="module")
def coloured(info) -> dict[str, Any]:
    return to_prompt(load("colour_demo"), info)


@pytest.fixture(scope="module")
def guided(coloured) -> dict[str, Any]:
    """The branch of the colour graph with guidance."""
    return branches(coloured)["guided"]


@pytest.fixture(scope="module")
def combined(info) -> dict[str, Any]:
    return to_prompt(load("combine_demo"), info)


def changed(prompt: dict[str, Any], kind: str, **inputs: Any) -> dict[str, Any]:
    """A prompt with other inputs in all nodes of a kind."""
    prompt = copy.deepcopy(prompt)
    nodes = [node for node in prompt.values() if node["class_type"] == kind]
    assert nodes, f"no {kind} in {prompt}"
    for node in nodes:
        assert inputs.keys() <= node["inputs"].keys()
        node["inputs"] |= inputs
    return prompt


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.array(image) for image in images])


def wait_for(reached: Callable[[], bool], what: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not reached():
        assert time.monotonic() < deadline, f"{what}: not within {timeout:.0f} s"
        time.sleep(0.05)


def test_there_are_the_promised_workflows():
    promised = {f"{base}_{name}" for base in ("sd15", "sdxl") for name in ("colour", *MADE)}
    promised |= {"quickstart_demo", "colour_demo", "combine_demo", "particles_demo", "methods_demo"}
    promised |= {"fairness_demo", "frequency_demo", "mmsold_demo", "paper_demo", "sd15_away"}
    promised |= {"sweep_demo", "second_pass_demo", "sd15_second_pass", "quickstart_app"}
    assert {file.stem for file in FILES} == promised


@EACH
def test_workflow_fits_the_server(file, info, folders):
    assert file_faults(file, info, folders) == []


def test_the_command_checks_all(server, capsys):
    assert main([server.url]) == 0
    assert capsys.readouterr().out == f"{len(FILES)} workflows, 0 faults\n"
    for address in ("127.0.0.1", "http://127.0.0.1:9"):  # not one, and nobody's
        assert main([address]) == 2
        assert f"No ComfyUI answers at '{address}'" in capsys.readouterr().out


@EACH
def test_workflow_has_a_small_picture_and_says_nothing_of_the_machine(file):
    picture = file.with_suffix(".jpg")
    assert picture.stat().st_size < 100_000
    with Image.open(picture) as image:
        assert image.format == "JPEG" and image.width >= 400
    found = [text for text in texts(json.loads(file.read_text("utf-8"))) if MACHINE.search(text)]
    assert found == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda node: node.update(type="NoSuchNode"), "no node NoSuchNode"),
        (lambda node: node["inputs"][0].update(name="no_such_input"), "no input no_such_input"),
        (lambda node: node["inputs"][0].update(link=None), "model is not connected"),
        (lambda node: put(node, 4, "no_such_sampler"), "sampler_name = 'no_such_sampler'"),
        (lambda node: put(node, 2, 0), "steps = 0 outside"),
        (lambda node: node["widgets_values"].pop(1), "save the workflow again"),
    ],
)
def test_the_check_finds_faults(spoil, said, faults):
    workflow = load("colour_demo")
    spoil(node_of(workflow, "LAGSKSampler"))
    check_said(faults(workflow), said)


def put(node: dict[str, Any], place: int, value: Any) -> None:
    node["widgets_values"][place] = value


def check_said(found: list[str], said: str) -> None:
    assert any(said in fault for fault in found), found


@pytest.mark.parametrize(
    ("kind", "key", "value", "said"),
    [
        ("LAGSLoadWeight", "widgets_values", ["symmetry", "diagonal", 50, 0], "axis = 'diagonal'"),
        (
            "LAGSLoadWeight",
            "widgets_values",
            ["symmetry", "left-right", 50, -200],
            "= -200 outside",
        ),
        ("LAGSLoadWeight", "widgets_values", ["taste"], "reward = 'taste'"),
        ("LAGSLoadWeight", "widgets_values", ["sharpness", "left-right", 50, 0], "4 values"),
        ("LAGSCombineWeights", "link", None, "weights.weight0 is not connected"),
        ("LAGSCombineWeights", "name", "weights.weight16", "no input weights.weight16"),
    ],
)
def test_the_check_looks_into_choices_and_growing_lists(kind, key, value, said, faults):
    workflow = load("combine_demo")
    node = node_of(workflow, kind)
    (node if key in node else node["inputs"][0])[key] = value
    check_said(faults(workflow), said)


def test_conversion_leaves_muted_nodes_out(info, coloured):
    workflow = load("colour_demo")
    weight = node_of(workflow, "LAGSWeightColor")
    weight["mode"] = 2
    prompt = to_prompt(workflow, info)
    assert coloured.keys() - prompt.keys() == {str(weight["id"])}
    (sampler,) = [node for node in prompt.values() if node["class_type"] == "LAGSKSampler"]
    assert "weight" not in sampler["inputs"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("name", "other.safetensors", "PickScore_v1.safetensors has no download"),
        ("name", "other.safetensors", "other.safetensors is offered and not chosen"),
        ("name", "PickScore_v1.pt", "is no safetensors file"),
        ("url", "https://huggingface.co/a/b/resolve/main/model.pt", "is no safetensors file"),
        ("url", "https://example.com/resolve/model.safetensors", "not from a file of"),
        ("url", "https://huggingface.co/a/b/model.safetensors", "not from a file of"),
        ("directory", "rewards", "the unknown folder 'rewards'"),
    ],
)
def test_the_check_looks_at_downloads(key, value, said, faults):
    workflow = load("sd15_pickscore")
    node = node_of(workflow, "LAGSLoadWeight")
    node["properties"]["models"][0][key] = value
    check_said(faults(workflow), said)
    del node["properties"]["models"][0][key]
    assert faults(workflow)


def test_the_check_misses_downloads_and_pictures(faults, info, folders, tmp_path):
    workflow = load("sd15_pickscore")
    for node in workflow["nodes"]:
        node.get("properties", {}).pop("models", None)
    found = faults(workflow)
    for name in ("v1-5-pruned-emaonly-fp16.safetensors", "PickScore_v1.safetensors"):
        check_said(found, f"{name} has no download")
    alone = tmp_path / "alone.json"
    alone.write_text(json.dumps(load("colour_demo")), encoding="utf-8")
    assert file_faults(alone, info, folders) == ["alone.json: there is no alone.jpg"]


def scores_of(server, prompt: dict[str, Any], *rewards: Any) -> dict[str, torch.Tensor]:
    """Mean score of each reward [rewards] over the 16 images of each branch of a workflow."""
    scores = {}
    for name, branch in branches(prompt).items():
        images = server.pictures(server.queue(branch, timeout=300))
        assert [image.size for image in images] == [(128, 128)] * 16
        pictures = torch.stack([to_tensor(image) for image in images])
        scores[name] = torch.stack([reward(pictures).mean() for reward in rewards])
    return scores


def test_colour_over_http(server, coloured):
    scores = scores_of(server, coloured, ColourReward("hue", 240.0))
    assert (scores["guided"] > scores["plain"] + 0.01).all(), scores


def test_combined_weights_over_http(server, combined):
    """Both rewards rise: neither is bought with the other."""
    rewards = SymmetryReward("left-right"), ColourReward("hue", 240.0)
    scores = scores_of(server, combined, *rewards)
    assert (scores["guided"] > scores["plain"] + 0.02).all(), scores


def test_combined_weights_show_their_scores(server, combined):
    """Best first, and log w is the sum of strength times score that the nodes' widgets say."""
    entry = server.queue(changed(combined, "LAGSDemoModel", batch_size=3), timeout=300)
    shown = [key for key, node in combined.items() if node["class_type"] == "PreviewAny"]
    assert len(shown) == 2
    for key in shown:
        head, *lines = entry["outputs"][key]["text"][0].splitlines()
        assert "symmetry (left-right)" in head and "colour (hue)" in head
        symmetry, colour, log_w = np.array([line.split()[2:] for line in lines], float).T
        assert len(log_w) == 3 and (np.diff(log_w) <= 0).all()
        assert np.allclose(log_w, 50 * symmetry + 60 * colour, atol=0.01)


def test_a_whole_graph_runs_as_one_prompt(server, coloured):
    entry = server.queue(changed(coloured, "LAGSDemoModel", batch_size=2), timeout=300)
    assert len(server.pictures(entry)) == 4


def test_quickstart_shows_a_higher_score_under_every_image(server, info):
    """Guided by the CLIP score: each seed's image scores higher than its plain one, on average."""
    prompt = to_prompt(load("quickstart_demo"), info)
    entry = server.queue(prompt, timeout=300)
    shown = {}
    for key, node in prompt.items():
        if node["class_type"] == "LAGSScoreImages":
            judged = entry["outputs"][key]["lags_scores"]
            shown[node["inputs"]["images"][0]] = np.mean([one["score"] for one in judged])
            assert len(judged) == 4
    decoders = [key for key, node in prompt.items() if node["class_type"] == "VAEDecode"]
    plain, guided = sorted(shown, key=int)
    assert [plain, guided] == sorted(decoders, key=int)
    assert shown[guided] > shown[plain] + 0.01


def test_the_app_shows_widgets_that_are_there(info):
    """What app mode names: widgets that no wire sets, and a node that saves images."""
    workflow = load("quickstart_app")
    nodes = {node["id"]: node for node in workflow["nodes"]}
    shown = workflow["extra"]["linearData"]
    assert workflow["extra"]["linearMode"] is True
    for number, name in shown["inputs"]:
        sockets = {one["name"]: one for one in nodes[number]["inputs"] if "widget" in one}
        assert sockets[name]["link"] is None and name in widget_values(nodes[number], info)
    assert [nodes[number]["type"] for number in shown["outputs"]] == ["SaveImage"]


def test_the_second_pass_goes_on_from_the_best(server, info):
    """Larger, most like the image of the highest score, and by that score no worse."""
    prompt = to_prompt(load("second_pass_demo"), info)
    judge = next(key for key, node in prompt.items() if node["class_type"] == "LAGSScoreImages")
    decoders = [key for key, node in prompt.items() if node["class_type"] == "VAEDecode"]
    last = prompt[judge]["inputs"] | {"images": [max(decoders, key=int), 0]}
    del last["latents"]
    prompt["last"] = {"class_type": "LAGSScoreImages", "inputs": last}
    entry = server.queue(prompt, timeout=300)
    saved = {
        node["inputs"]["filename_prefix"].split("/")[-1]: entry["outputs"][key]["images"]
        for key, node in prompt.items()
        if node["class_type"] == "SaveImage"
    }
    (second,) = (server.view(**image) for image in saved["second"])
    first = [server.view(**image) for image in saved["first"]]
    assert second.size == (160, 160) and [image.size for image in first] == [(128, 128)] * 4
    small = np.array(second.resize((128, 128)), float)
    distances = [np.abs(np.array(image, float) - small).mean() for image in first]
    (best, *_), (after,) = (entry["outputs"][key]["lags_scores"] for key in (judge, "last"))
    assert best["index"] == int(np.argmin(distances))
    assert after["score"] > best["score"] - 0.02


def test_demo_reports_a_higher_score_and_writes_the_pictures(server, tmp_path, capsys):
    run_workflow(server, tmp_path, timeout=300)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    scores = {line[0]: float(line[1]) for line in lines if line[0] in ("plain", "guided")}
    assert scores["guided"] > scores["plain"] + 0.01
    assert len(list(tmp_path.glob("plain_*.png"))) == len(list(tmp_path.glob("guided_*.png"))) == 4
    assert (tmp_path / "side_by_side.png").is_file()


def test_interrupt_over_http(server, guided):
    short = changed(guided, "LAGSKSampler", steps=6)
    before = pixels(server.pictures(server.queue(short)))
    long = server.submit(changed(guided, "LAGSKSampler", steps=9000))
    wait_for(lambda: "/9000 [" in server.log.read_text("utf-8", "replace"), "first step", 60)
    server.interrupt()
    status = server.wait(long, timeout=20)["status"]
    kinds = {kind: message for kind, message in status["messages"]}
    assert status["completed"] is False
    assert kinds["execution_interrupted"]["node_type"] == "LAGSKSampler"
    # A colour that 'hue' does not use: the same images, but not from ComfyUI's cache.
    again = server.queue(changed(short, "LAGSWeightColor", colour="#000000"))
    cached = [m["nodes"] for kind, m in again["status"]["messages"] if kind == "execution_cached"]
    sampler = next(key for key, node in short.items() if node["class_type"] == "LAGSKSampler")
    assert all(sampler not in nodes for nodes in cached), "nothing was sampled again"
    assert np.array_equal(pixels(server.pictures(again)), before)


@pytest.mark.parametrize(
    ("kind", "inputs", "error"),
    [
        ("LAGSKSampler", {"strength": 5000.0}, "value_bigger_than_max"),
        ("LAGSKSampler", {"c": 0.0}, "value_smaller_than_min"),
        ("LAGSKSampler", {"mode": "slow"}, "value_not_in_list"),
        ("LAGSWeightColor", {"attribute": "taste"}, "value_not_in_list"),
    ],
)
def test_value_out_of_range_is_refused(kind, inputs, error, server, guided):
    assert server.refusal(changed(guided, kind, **inputs)) == (kind, [error])


@pytest.mark.parametrize(
    ("kind", "inputs", "words"),
    [
        ("LAGSWeightColor", {"attribute": "mean colour", "colour": "#zzz"}, ["'#zzz'", "#rrggbb"]),
        ("LAGSKSampler", {"strength": math.nan}, ["nan", "strength"]),
    ],
)
def test_bad_value_gets_a_sentence_and_the_server_lives(kind, inputs, words, server, guided):
    failed = server.failure(changed(guided, kind, **inputs))
    assert failed["node_type"] == kind
    assert all(word in failed["exception_message"] for word in words), failed["exception_message"]
    assert server.queue(changed(guided, "LAGSKSampler", steps=2))
