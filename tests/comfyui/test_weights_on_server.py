"""The weight nodes on a running server: dynamic inputs, files, errors, and texts that come back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_support.server import PromptError, Server
from comfyui_support.weighing import rows_of

PICKSCORE = {
    "reward": "PickScore",
    "reward.file": "auto",
    "reward.prompt": "a red cat",
    "reward.precision": "auto",
    "reward.strength": 1.0,
    "reward.auto_nats": 3.0,
}
SHARPNESS = {"reward": "sharpness", "reward.strength": 2.0}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def prompt(reward: dict[str, Any], seed: int = 1) -> dict[str, Any]:
    """Sample the bundled model by two weights, and rank what came."""
    sampler = {"seed": seed, "steps": 3, "cfg": 1.0, "denoise": 1.0}
    sampler |= {"sampler_name": "euler_ancestral", "scheduler": "karras"}
    sampler |= {"strength": 1.0, "mode": "balanced", "c": 10.0}
    colour = {"attribute": "brightness", "hue": 0.0, "colour": "#000000"}
    return {
        "demo": node("LAGSDemoModel", subject="any", colour="any", batch_size=3),
        "load": node("LAGSLoadWeight", **reward),
        "light": node("LAGSWeightColor", **colour, strength=10.0, auto_nats=0.0),
        "both": node(
            "LAGSCombineWeights",
            **{"weights.weight0": ["load", 0], "weights.weight1": ["light", 0]},
            exponents="1, 0.5",
        ),
        "sample": node(
            "LAGSKSampler",
            model=["demo", 0],
            positive=["demo", 1],
            negative=["demo", 2],
            vae=["demo", 3],
            latent_image=["demo", 4],
            weight=["both", 0],
            **sampler,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["demo", 3]),
        "score": node("LAGSScoreImages", images=["decode", 0], weight=["both", 0], top_k=2),
        "save": node("SaveImage", images=["score", 0], filename_prefix="weights"),
    }


def table(entry: dict[str, Any]) -> list[dict[str, str]]:
    (text,) = entry["outputs"]["score"]["text"]
    return rows_of(text)


def test_dynamic_inputs_and_the_table(server: Server) -> None:
    entry = server.queue(prompt(SHARPNESS))
    rows = table(entry)
    assert list(rows[0]) == ["rank", "image", "sharpness", "colour (brightness)", "log w"]
    assert sorted(row["image"] for row in rows) == ["0", "1", "2"]
    for row in rows:
        parts = 2.0 * float(row["sharpness"]) + 0.5 * 10.0 * float(row["colour (brightness)"])
        assert float(row["log w"]) == pytest.approx(parts, abs=1e-3)
    assert len(server.pictures(entry)) == 2, "top_k of three"


def test_automatic_pickscore(server: Server, weight_files: Path) -> None:
    rows = table(server.queue(prompt(PICKSCORE)))
    assert sum(float(row["PickScore preferred"]) for row in rows) == pytest.approx(1.0, abs=1e-3)
    log = server.log.read_text("utf-8", "replace")
    assert "LAGS: the strength of weight 'PickScore' is" in log


REWARDS = {
    "HPSv2.1": {},
    "HPSv2": {},
    "ImageReward": {},
    "CLIP score": {"reward.text_file": "same file"},
    "aesthetic": {"reward.clip": "auto"},
    "symmetry": {"reward.axis": "top-bottom"},
}


def test_every_reward_with_its_own_widgets(server: Server, weight_files: Path) -> None:
    """What the browser sends: the chosen option's widgets only, all of them."""
    options = server.object_info("LAGSLoadWeight")["LAGSLoadWeight"]["input"]["required"]
    shown = {
        option["key"]: option["inputs"]["required"] for option in options["reward"][1]["options"]
    }
    for name, extra in REWARDS.items():
        inputs = {**PICKSCORE, "reward": name, "reward.auto_nats": 0.0, **extra}
        inputs = {k: v for k, v in inputs.items() if k == "reward" or k[7:] in shown[name]}
        assert {"reward", *(f"reward.{widget}" for widget in shown[name])} == inputs.keys()
        image = node("EmptyImage", width=40, height=32, batch_size=1, color=0)
        judge = node("LAGSScoreImages", images=["image", 0], weight=["load", 0], top_k=0)
        load = node("LAGSLoadWeight", **inputs)
        entry = server.queue({"image": image, "load": load, "score": judge})
        assert len(table(entry)) == 1, name


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ({"reward.file": "no such file.safetensors"}, "value_not_in_list"),
        ({"reward.file": "../../../etc/passwd"}, "value_not_in_list"),
        ({"reward.precision": "float8"}, "value_not_in_list"),
        ({"reward.auto_nats": -1.0}, "value_smaller_than_min"),
        ({"reward.strength": None}, "required_input_missing"),
    ],
)
def test_a_wrong_choice_is_refused(server: Server, inputs: dict[str, Any], error: str) -> None:
    chosen = {k: v for k, v in {**PICKSCORE, **inputs}.items() if v is not None}
    with pytest.raises(PromptError) as caught:
        server.queue(prompt(chosen))
    (refused,) = caught.value.entry["node_errors"].values()
    assert refused["class_type"] == "LAGSLoadWeight"
    assert [fault["type"] for fault in refused["errors"]] == [error]


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def payload(weight_files: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A file that comes while the server runs: its name, and what it makes when it is run."""
    folder, mark = weight_files / "payload", tmp_path / "mark"
    folder.mkdir()
    torch.save({"state_dict": Payload(mark)}, folder / "model.pt")
    yield "payload/model.pt", mark
    shutil.rmtree(folder)


def test_a_payload_is_not_run_and_the_server_lives(
    server: Server, weight_files: Path, payload: tuple[str, Path]
) -> None:
    name, mark = payload
    with pytest.raises(PromptError) as caught:
        server.queue(prompt({**PICKSCORE, "reward.file": name}))
    failed = dict(caught.value.entry["status"]["messages"])["execution_error"]
    assert failed["node_type"] == "LAGSLoadWeight"
    assert "could run code" in failed["exception_message"]
    assert not mark.exists()
    torch.load(weight_files / name, weights_only=False)  # noqa: S614
    assert mark.exists(), "it would have worked on a loader that unpickles"
    assert table(server.queue(prompt(PICKSCORE, seed=2)))


def test_a_missing_file_gets_its_page(server: Server, weight_files: Path) -> None:
    """The list in the browser may be old: the file was there when it was made."""
    path = weight_files / "PickScore_v1" / "model.safetensors"
    away = path.with_name("model.away")
    other = {**PICKSCORE, "reward.prompt": "a blue dog"}  # not from ComfyUI's cache
    path.rename(away)
    try:
        with pytest.raises(PromptError) as caught:
            server.queue(prompt(other))
    finally:
        away.rename(path)
    failed = dict(caught.value.entry["status"]["messages"])["execution_error"]
    assert "https://huggingface.co/yuvalkirstain/PickScore_v1" in failed["exception_message"]
    assert "PickScore_v1/model.safetensors in " in failed["exception_message"]
    assert table(server.queue(prompt(other)))
