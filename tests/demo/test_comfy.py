"""The demo inside ComfyUI, where there is none that works; with a real one: tests/comfyui."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from lags_pack.demo import comfy


@pytest.fixture
def comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that COMFYUI_PATH names, for a main.py that the test writes."""
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return tmp_path


def test_a_server_that_ends_is_said_once_with_its_log(
    comfyui: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (comfyui / "main.py").write_text("print('no such device')\nraise SystemExit(3)\n")
    assert comfy.main(["--out", str(comfyui / "out")]) == 1
    said = capsys.readouterr().err
    assert "ended with code 3" in said
    assert said.count("no such device") == 1
    assert not (comfyui / "out").exists()


def test_shortened_changes_steps_only() -> None:
    prompt = {"1": {"inputs": {"steps": 30, "cfg": 2.0}}, "2": {"inputs": {"text": "a"}}}
    short = comfy.shortened(prompt)
    assert short == {"1": {"inputs": {"steps": 1, "cfg": 2.0}}, "2": {"inputs": {"text": "a"}}}
    assert prompt["1"]["inputs"]["steps"] == 30
