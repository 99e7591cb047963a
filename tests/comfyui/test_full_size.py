"""The bench at full size, on the tiny checkpoint: every method and decoder gets its row."""

from __future__ import annotations

import json
from pathlib import Path

import folder_paths
import pytest
import torch
from lags_pack.benchmarks import _comfyui
from lags_pack.benchmarks import _full_size as full
from lags_pack.benchmarks import full as bench
from lags_pack.runtime.decoders import APPROXIMATE, Decoding, decoder_of


@pytest.fixture
def loaded(sd15, tmp_path, monkeypatch) -> full.Loaded:
    """With a random TAESD in the place of a user's."""
    suffixes = folder_paths.folder_names_and_paths[APPROXIMATE][1]
    entry = ([str(tmp_path)], suffixes)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, APPROXIMATE, entry)
    full.make_taesd("SD1.5", tmp_path)
    return full.Loaded("SD1.5", sd15.model, sd15.vae)


@pytest.fixture
def encoder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(_comfyui.ENCODERS, "tiny", (1, 32, 2, 14, 16))
    return full.make_encoder("tiny", tmp_path)


def test_every_run_has_seconds_memory_and_what_was_counted(loaded, monkeypatch):
    monkeypatch.setitem(full.OTHERS, "LiDAR, 4 images", full.LiDAR(count=1, steps=1))
    weights = {"colour": full.load_weight(None)}
    how = weights, ["taesd"], ["balanced", "DPS", "FreeDoM", "LiDAR, 4 images", full.DAS]
    with torch.inference_mode():
        plain, *rows = full.runs(loaded, 64, 2, *how)
    assert plain["method"] == "plain" and plain["seconds"] > 0 and plain["GB"] > 0.1
    assert [row["method"] for row in rows] == how[2]
    for row in rows:
        assert row["seconds"] > 0 and row["GB"] > 0.1
        assert row["seconds / plain"] == row["seconds"] / plain["seconds"]
    balanced, dps, freedom, lidar, das = (row["counted / plain"] for row in rows)
    assert min(balanced, dps, freedom) > 1 and lidar >= 1 and das is None


def test_parts_have_both_ways(loaded, encoder):
    decoders = {"taesd": decoder_of(Decoding("taesd"), loaded.vae, loaded.model)}
    with torch.inference_mode():
        gradient, value = full.parts("SD1.5", decoders, 64, 32)
        of_encoder = list(full.encoder_parts({"tiny": full.load_weight(encoder)}))
    assert (gradient["what"], value["what"]) == ("gradient", "value")
    assert gradient["TFLOP"] == pytest.approx(2 * value["TFLOP"]) and value["TFLOP"] > 0
    assert gradient["GB asked for"] > value["GB asked for"] > 0
    assert gradient["decoded at"] == 32 and gradient["seconds"] > 0
    assert [row["layers kept"] for row in of_encoder] == [True, True, False, False]
    assert all(row["TFLOP"] > 0 and row["GB of weights"] > 0 for row in of_encoder)


def test_the_command_writes_one_file_with_all_tables(loaded, tmp_path, monkeypatch):
    """All that a machine with a GPU is asked for, at a size that a CPU can take."""
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.setattr(bench, "import_comfyui", lambda *_, **__: None)
    monkeypatch.setattr(bench, "ENCODERS", {"tiny": (1, 32, 2, 14, 16)})
    monkeypatch.setitem(_comfyui.ENCODERS, "tiny", (1, 32, 2, 14, 16))
    monkeypatch.setattr(bench, "make_checkpoint", lambda *_: tmp_path / "checkpoint")
    monkeypatch.setattr(bench, "load_checkpoint", lambda *_: loaded)
    monkeypatch.setitem(full.OTHERS, "LiDAR, 4 images", full.LiDAR(count=1, steps=1))
    (tmp_path / "checkpoint").touch()
    asked = ["--families", "SD1.5", "--sides", "64", "--steps", "2", "--weights", "colour"]
    methods = ["--methods", *full.METHODS, "--decoders", "taesd", "vae"]
    bench.main([*asked, *methods, "--json", str(tmp_path / "all.json")])
    found = json.loads((tmp_path / "all.json").read_text())
    assert [row["what"] for row in found["encoders"]] == ["gradient", "value"] * 2
    assert [row["part"] for row in found["decoders"]] == ["vae"] * 2 + ["taesd"] * 2
    assert {row["method"] for row in found["runs"]} == {"plain", *full.METHODS}
    assert len(found["runs"]) == 1 + 2 * len(full.METHODS)
    for row in (*found["encoders"], *found["decoders"], *found["runs"]):
        assert row["seconds"] > 0
    assert not (tmp_path / "checkpoint").exists()


def test_random_weights_keep_what_passes_at_unit_scale():
    shapes = {"a.weight": torch.empty(64, 64, device="meta"), "a.bias": torch.empty(64)}
    made = full.random_weights(shapes | {"norm.weight": torch.empty(64)})
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0)) @ made["a.weight"].float()
    assert float(x.std()) == pytest.approx(1, rel=0.2)
    assert float(made["a.bias"].abs().max()) == 0 and float(made["norm.weight"].min()) == 1
