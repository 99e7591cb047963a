"""SigLIP's files: every layout of transformers, what beside them does not fit, large ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lags_pack.rewards import encoders
from lags_pack.rewards.checkpoint import CheckpointError, below
from lags_pack.rewards.encoders import Recomputed
from lags_pack.rewards.reference import reference_encoder
from lags_pack.rewards.siglip import siglip_encoder
from lags_pack.tests import reward_files
from lags_pack.tests.reward_table import pictures
from safetensors.torch import load_file

FLOAT = torch.float32


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return reward_files.siglip(tmp_path)


def seen(path: Path) -> torch.Tensor:
    with torch.no_grad():
        return reference_encoder(path, FLOAT)(pictures(2, 40, 24))


def change(path: Path, **entries: Any) -> None:
    settings = json.loads(path.read_text("utf-8")) | entries
    reward_files.write_json(path, settings)


@pytest.mark.parametrize("prefix", ["vision_model.", ""], ids=["transformers 4", "transformers 5"])
def test_an_image_side_by_itself_serves(prefix: str, whole: Path) -> None:
    """As both releases save a SiglipVisionModel, with its own config.json."""
    expected, side = seen(whole), below(load_file(whole), "vision_model.")
    reward_files.save(whole, {prefix + key: value for key, value in side.items()})
    assert torch.equal(seen(whole), expected)
    vision = json.loads(whole.with_name("config.json").read_text("utf-8"))["vision_config"]
    reward_files.write_json(whole.with_name("config.json"), vision)
    assert vision["model_type"] == "siglip_vision_model"
    assert torch.equal(seen(whole), expected)


def test_without_a_processor_s_file_the_network_s_own_size_is_taken(
    whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = seen(whole)
    whole.with_name("preprocessor_config.json").unlink()
    assert torch.equal(seen(whole), expected)
    assert "there is no preprocessor_config.json beside" in caplog.text


def test_a_size_that_was_never_published_asks_for_its_config(whole: Path) -> None:
    whole.with_name("config.json").unlink()
    said = "SigLIP of width 32 for images of 32 pixels.*put its config.json into the same folder"
    with pytest.raises(CheckpointError, match=said):
        siglip_encoder(whole, FLOAT)


@pytest.mark.parametrize(
    ("make", "size", "said"),
    [
        (reward_files.siglip, {"size": {"height": 48, "width": 48}}, "of 32 pixels; it fails .*48"),
        (reward_files.dinov2, {"crop_size": {"height": 4, "width": 4}}, "32 pixels; it fails .*4"),
    ],
)
def test_a_processor_of_another_size_is_refused_at_loading(
    make: Any, size: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """Not in the first step of a run."""
    path = make(tmp_path)
    change(path.with_name("preprocessor_config.json"), **size)
    with pytest.raises(CheckpointError, match=f"{path} holds a .*{said}.*preprocessor_config.json"):
        reference_encoder(path, FLOAT)


def test_strays_are_listed(whole: Path) -> None:
    reward_files.save(whole, load_file(whole) | {"layers.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match="surplus: layers.weight"):
        siglip_encoder(whole, FLOAT)


def test_a_large_one_recomputes(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """so400m has more than 400 million parameters; the same features and gradient."""

    def gradient() -> tuple[torch.Tensor, int]:
        encoder, leaf = siglip_encoder(whole, FLOAT), pictures(1).requires_grad_()
        (grad,) = torch.autograd.grad(encoder(leaf).square().sum(), leaf)
        assert encoder.recomputes == encoders.is_large(encoder.net)  # what is reserved goes by it
        return grad, sum(isinstance(part, Recomputed) for part in encoder.modules())

    plain, none = gradient()
    monkeypatch.setattr(encoders, "LARGE", 0)
    again, blocks = gradient()
    assert (none, blocks) == (0, 2) and torch.equal(plain, again) and (plain != 0).any()
