"""The demo's ComfyUI server, on the CPU, on a machine whose torchvision may be incomplete too."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lags_pack.demo import comfy_server
from lags_pack.demo.comfy_server import PromptError

__all__ = ["PromptError", "Server"]
PACK = Path(__file__).resolve().parents[2]


class Server(comfy_server.Server):
    """One ComfyUI process for the tests."""

    def __init__(self, root: Path, base: Path, pack: Path = PACK) -> None:
        python = os.environ.get("COMFYUI_PYTHON") or sys.executable
        super().__init__(root, base, pack, python, flags=["--cpu"])

    def script(self) -> list[str]:
        return [str(Path(__file__).with_name("launch.py")), str(self.root / "main.py")]

    @contextmanager
    def running(self) -> Iterator[Server]:
        """The server from its start to its stop."""
        try:
            self.start()
            yield self
        finally:
            self.stop()

    def failure(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """The execution_error of a prompt that fails."""
        with pytest.raises(PromptError) as caught:
            self.queue(prompt)
        error: dict[str, Any] = dict(caught.value.entry["status"]["messages"])["execution_error"]
        return error

    def refusal(self, prompt: dict[str, Any]) -> tuple[str, list[str]]:
        """Of a prompt with one node that is refused: its class, and the kinds of its errors."""
        with pytest.raises(PromptError) as caught:
            self.queue(prompt)
        (refused,) = caught.value.entry["node_errors"].values()
        return refused["class_type"], [fault["type"] for fault in refused["errors"]]
