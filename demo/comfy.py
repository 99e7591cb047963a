"""The demo inside ComfyUI: the quickstart workflow, run by its own server and executor.

``COMFYUI_PATH=... python3 dev.py demo`` starts this in ComfyUI's Python. Everything that the server
writes lies in a temporary folder, so the user's own ComfyUI is not touched.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..rewards import ClipScore, Reward
from .comfy_server import Server
from .pictures import Row, save_rows
from .scenes.scorers import load_scorer
from .workflow import branches, to_prompt

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ROOT / "workflows" / "quickstart_demo.json"


def main(arguments: list[str]) -> int:
    """Run the workflow, print the table, and say where the images are."""
    options = argparse.ArgumentParser(prog="dev.py demo", description=__doc__)
    options.add_argument("--out", type=Path, default=ROOT / "output" / "comfyui")
    options.add_argument("--timeout", type=float, default=600.0, help="seconds for each branch")
    choice = options.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended too
    root = Path(os.environ["COMFYUI_PATH"])
    flags = [] if has_accelerator() else ["--cpu"]
    with tempfile.TemporaryDirectory(prefix="lags-demo-", ignore_cleanup_errors=True) as folder:
        server = Server(root, Path(folder), ROOT, sys.executable, flags)
        try:
            print("Starting ComfyUI ...", flush=True)
            server.start()
            run_workflow(server, choice.out, choice.timeout)
        except (RuntimeError, ValueError) as error:
            tail = server.log_tail()
            said = str(error) if tail in str(error) else f"{error}\n--- ComfyUI's log:\n{tail}"
            print(f"The workflow did not run. {said}", file=sys.stderr)
            return 1
        finally:
            server.stop()
    return 0


def has_accelerator() -> bool:
    """Whether ComfyUI finds a GPU; without one it starts only with --cpu."""
    xpu = getattr(torch, "xpu", None)
    found = torch.cuda.is_available() or torch.backends.mps.is_available()
    return found or (xpu is not None and xpu.is_available())


def run_workflow(server: Server, out: Path, timeout: float) -> None:
    """Run each branch of the workflow and report on its images."""
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    parts = branches(to_prompt(workflow, server.object_info()))
    reward = reward_of(parts["guided"])
    server.queue(shortened(parts["guided"]), timeout)  # loads the model, outside of the times
    print(f"{'branch':10} {'mean score':>10} {'seconds':>8}")
    rows = []
    for name, prompt in parts.items():
        entry = server.queue(prompt, timeout)
        images = server.pictures(entry)
        pictures = torch.stack([to_tensor(image) for image in images])
        print(f"{name:10} {float(reward(pictures).mean()):10.4f} {seconds(entry):8.2f}", flush=True)
        save(images, name, out)
        rows.append(Row(name, pictures))
    save_rows(rows, out / "side_by_side.png")
    print(f"Same seeds, one row per branch: {out / 'side_by_side.png'}")
    print(f"All images: {out}")


def reward_of(prompt: dict[str, Any]) -> Reward:
    """The CLIP score that the workflow's weight asks for."""
    (weight,) = [node for node in prompt.values() if node["class_type"] == "LAGSLoadWeight"]
    return load_scorer(ClipScore, weight["inputs"]["reward.prompt"])


def shortened(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt with one step in its samplers."""
    return {
        key: {**node, "inputs": {**node["inputs"], "steps": 1}}
        if "steps" in node["inputs"]
        else node
        for key, node in prompt.items()
    }


def seconds(entry: dict[str, Any]) -> float:
    """How long the executor worked on a prompt, by its own messages."""
    times = {kind: message["timestamp"] for kind, message in entry["status"]["messages"]}
    return (times["execution_success"] - times["execution_start"]) / 1000


def to_tensor(image: Any) -> Tensor:
    """A PIL image as [3, H, W] in 0..1."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255


def save(images: list[Any], name: str, out: Path) -> None:
    """Write the images of a branch, in place of an earlier run's."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob(f"{name}_*.png"):
        old.unlink()
    for number, image in enumerate(images, 1):
        image.save(out / f"{name}_{number:02d}.png")
