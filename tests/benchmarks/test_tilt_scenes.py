"""The tilt table on the text-to-image model, on networks of random weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from lags_pack.benchmarks import _tilt_scenes
from lags_pack.benchmarks._judge import Judge, Real
from lags_pack.benchmarks._scenes import Scenes
from lags_pack.benchmarks._tilt_scenes import (
    DECODERS,
    PROMPT,
    WEIGHTS,
    decoders,
    guided_latents,
    plain_latents,
    rows,
)
from lags_pack.benchmarks.tilt import main
from lags_pack.guidance import preset
from lags_pack.rewards import ColourReward, Weight
from lags_pack.tests.scene_files import random_judge, random_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Scenes:
    return random_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def judge() -> tuple[Judge, Real]:
    return random_judge()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, judge: tuple[Judge, Real]) -> None:
    monkeypatch.setattr(_tilt_scenes, "STEPS", 3)
    monkeypatch.setattr(_tilt_scenes, "load_judge", lambda: judge[0])


def test_decoders_make_images_of_their_sizes(scenes: Scenes) -> None:
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    sides = {name: look(latents).shape for name, look in decoders(scenes).items()}
    assert list(sides) == list(DECODERS)
    assert [shape[1:] for shape in sides.values()] == [
        (3, 128, 128),
        (3, 128, 128),
        (3, 16, 16),
        (3, 64, 64),
    ]


def test_plain_and_guided_start_from_the_same_noise(scenes: Scenes) -> None:
    """A weight of strength 0 guides nothing, and draws what plain sampling draws."""
    task = scenes.task(PROMPT, Weight.of(ColourReward("hue", hue=240.0), 0.0), 1.0, 3)
    plain, (guided, (trace,)) = plain_latents(task, 3), guided_latents(task, 3, preset("paper"))
    assert torch.allclose(plain, guided, atol=1e-4)
    assert trace.log_weights is not None and not trace.log_weights.any(), "each counts the same"


def test_rows(scenes: Scenes, tmp_path: Path) -> None:
    arguments = (scenes, 8, 2, [0.5], ["colour", "PickScore"], ["balanced"], ["small", "vae"])
    found = rows(*arguments, [3.0], tmp_path)
    assert [(row["weight"], row["decoder"]) for row in found] == [
        ("colour", "small"),
        ("colour", "vae"),
        ("PickScore", "small"),
        ("PickScore", "vae"),
    ]
    numbers = [value for row in found for value in row.values() if isinstance(value, float)]
    assert all(map(math.isfinite, numbers))
    assert all(50 <= row["ESS %"] <= 100 for row in found), "of two images"
    assert [path.name for path in tmp_path.iterdir()] == ["scenes_8_cfg_3.safetensors"]


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--model", "scenes", "--weights", "band"])
    said = capsys.readouterr().err
    assert all(name in said for name in WEIGHTS)
