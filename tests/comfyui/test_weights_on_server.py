"""The weight nodes on a running server: dynamic inputs, files, errors, and texts that come back."""

from __future__ import annotations

from typing import Any

import pytest
from comfyui_support.prompts import colour, lags, node, sampled
from comfyui_support.weighing import rows_of

PICKSCORE = {
    **{"reward": "PickScore", "reward.file": "auto", "reward.prompt": "a red cat"},
    **{"reward.precision": "auto", "reward.strength": 1.0, "reward.auto_nats": 3.0},
}
SHARPNESS = {"reward": "sharpness", "reward.strength": 2.0}


def prompt(reward: dict[str, Any], seed: int = 1) -> dict[str, Any]:
    """Sample the bundled model by two weights, and rank what came."""
    both = {"weights.weight0": ["load", 0], "weights.weight1": ["light", 0]}
    made = sampled(lags(seed, steps=3), node("LAGSCombineWeights", **both, exponents="1, 0.5"), 3)
    return {
        **made,
        "load": node("LAGSLoadWeight", **reward),
        "light": colour(10.0, "brightness"),
        "score": node("LAGSScoreImages", images=["decode", 0], weight=["weight", 0], top_k=2),
        "show": node("PreviewImage", images=["score", 0]),
    }


def table(entry: dict[str, Any]) -> list[dict[str, str]]:
    (text,) = entry["outputs"]["score"]["text"]
    return rows_of(text)


def test_dynamic_inputs_and_the_table(server):
    entry = server.queue(prompt(SHARPNESS))
    rows = table(entry)
    assert list(rows[0]) == ["rank", "image", "sharpness", "colour (brightness)", "log w"]
    assert sorted(row["image"] for row in rows) == ["0", "1", "2"]
    for row in rows:
        parts = 2.0 * float(row["sharpness"]) + 0.5 * 10.0 * float(row["colour (brightness)"])
        assert float(row["log w"]) == pytest.approx(parts, abs=1e-3)
    assert len(server.pictures(entry)) == 2, "top_k of three"


def test_automatic_pickscore(server, weight_files):
    rows = table(server.queue(prompt(PICKSCORE)))
    assert sum(float(row["PickScore preferred"]) for row in rows) == pytest.approx(1.0, abs=1e-3)
    log = server.log.read_text("utf-8", "replace")
    assert "LAGS: the strength of weight 'PickScore' is" in log


REWARDS = {
    **{"HPSv2.1": {}, "HPSv2": {}, "ImageReward": {}},
    **{"CLIP score": {"reward.text_file": "same file"}, "aesthetic": {"reward.clip": "auto"}},
    "symmetry": {"reward.axis": "top-bottom"},
}


def test_every_reward_with_its_own_widgets(server, weight_files):
    """What the browser sends: the chosen option's widgets only, all of them."""
    info = server.object_info("LAGSLoadWeight")["LAGSLoadWeight"]["input"]["required"]
    options = info["reward"][1]["options"]
    shown = {option["key"]: option["inputs"]["required"] for option in options}
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
        ({"reward.auto_nats": -101.0}, "value_smaller_than_min"),
        ({"reward.strength": None}, "required_input_missing"),
        ({"reward.auto_nats": None}, "required_input_missing"),
    ],
)
def test_a_wrong_choice_is_refused(server, inputs, error):
    chosen = {k: v for k, v in {**PICKSCORE, **inputs}.items() if v is not None}
    assert server.refusal(prompt(chosen)) == ("LAGSLoadWeight", [error])


def test_a_missing_file_gets_its_page(server, weight_files):
    """The list in the browser may be old: the file was there when it was made."""
    path = weight_files / "PickScore_v1" / "model.safetensors"
    away = path.with_name("model.away")
    other = {**PICKSCORE, "reward.prompt": "a blue dog"}  # not from ComfyUI's cache
    path.rename(away)
    try:
        failed = server.failure(prompt(other))
    finally:
        away.rename(path)
    assert "https://huggingface.co/yuvalkirstain/PickScore_v1" in failed["exception_message"]
    assert "PickScore_v1/model.safetensors in " in failed["exception_message"]
    assert table(server.queue(prompt(other)))
