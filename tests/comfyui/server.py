"""The demo's ComfyUI server, on the CPU, on a machine whose torchvision may be incomplete too."""

from __future__ import annotations

from pathlib import Path

from lags_pack.demo import comfy_server
from lags_pack.demo.comfy_server import PromptError

__all__ = ["PromptError", "Server"]


class Server(comfy_server.Server):
    """One ComfyUI process for the tests."""

    def __init__(self, root: Path, base: Path, pack: Path, python: str) -> None:
        super().__init__(root, base, pack, python, flags=["--cpu"])

    def script(self) -> list[str]:
        return [str(Path(__file__).with_name("launch.py")), str(self.root / "main.py")]
