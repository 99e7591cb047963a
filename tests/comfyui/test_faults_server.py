"""Faults as ComfyUI's executor and server see them: what is told, what is kept, what comes next."""

from __future__ import annotations

import builtins
import errno
import json
import os
from typing import Any

import comfy.model_management as mm
import pytest
import torch
from comfyui_support.executing import Executor
from comfyui_support.prompts import Prompt, colour, lags, node, sampled
from comfyui_support.server import Server
from lags_pack.guidance import Trace
from lags_pack.runtime import decoders, trace_files

LOOK = {"axis": "step", "theme": "dark", "scale": 0.25}
ENOSPC = os.strerror(errno.ENOSPC)


@pytest.fixture
def executed(monkeypatch) -> Executor:
    """ComfyUI's executor, with an empty cache."""
    return Executor(monkeypatch)


def shown(server: Server, entry: dict[str, Any]) -> list[bytes]:
    return [image.tobytes() for image in server.pictures(entry)]


def good(seed: int) -> Prompt:
    """A prompt whose node is never the one in the cache."""
    return sampled(lags(seed, steps=3), colour(), batch=2)


def bad(seed: int) -> Prompt:
    """A prompt that fails in its first guided step: the weight leaves float32."""
    prompt = sampled(lags(seed, steps=3), colour(1e4), batch=2)
    prompt["power"] = node(
        "LAGSCombineWeights", **{"weights.weight0": ["weight", 0]}, exponents="1e38"
    )
    prompt["sample"]["inputs"]["weight"] = ["power", 0]
    return prompt


def test_prompts_back_to_back_and_a_failing_one_between(server):
    ids = [server.submit(prompt) for prompt in (good(71), good(72), bad(73), good(74))]
    first, second, failed, last = [server.wait(one) for one in ids]
    alone = {71: first, 72: second, 74: last}
    assert failed["status"]["status_str"] == "error"
    error = dict(failed["status"]["messages"])["execution_error"]
    assert error["node_type"] == "LAGSKSampler"
    assert error["exception_type"].endswith("WeightError")
    for word in ("not finite", "sigma = ", "in step 1 of 3", "Lower its strength"):
        assert word in error["exception_message"]
    pictures = {}
    for seed, entry in alone.items():
        assert entry["status"]["status_str"] == "success"
        pictures[seed] = shown(server, entry)
        assert len(pictures[seed]) == 2
    assert pictures[71] != pictures[72] != pictures[74]
    for seed in (74, 71):  # again, in another order, each by itself
        changed = good(seed)
        changed["again"] = node("EmptyImage", width=8, height=8, batch_size=1, color=seed)
        changed["sample"]["inputs"]["denoise"] = 0.9  # out of ComfyUI's cache
        server.queue(changed)
        assert shown(server, server.queue(good(seed))) == pictures[seed]


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize("place", ["decoder", "model"])
def test_out_of_memory_is_comfyuis_own_kind(executed, monkeypatch, place):
    """ComfyUI then unloads everything, and the next prompt loads it again."""
    assert executed(good(91))
    (expected,) = executed.outputs("sample")[0]

    def fail(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("injected")

    with monkeypatch.context() as faulty:
        if place == "decoder":
            faulty.setattr(decoders.VAEDecoder, "images", fail)
        else:
            (model,) = executed.outputs("demo")[0]
            faulty.setattr(model.model.diffusion_model, "forward", fail)
        assert not executed(good(92))
    assert executed.error["node_type"] == "LAGSKSampler"
    assert executed.error["exception_type"] == "torch.OutOfMemoryError"
    for word in ("needs about", "GB are free", "smaller"):
        assert word in executed.error["exception_message"]
    assert mm.current_loaded_models == []
    assert executed(good(91))
    (again,) = executed.outputs("sample")[0]
    assert torch.equal(again["samples"], expected["samples"])


class Full:
    """A disk with room for so many characters in each file, and none beside."""

    def __init__(self, room: int) -> None:
        self.room = room

    def open(self, path: str, *args: Any, **named: Any) -> Any:
        """As the built-in one, of a file that soon is full."""
        if self.room < 0:
            raise OSError(errno.ENOSPC, ENOSPC, path)
        file = builtins.open(path, *args, **named)
        write = file.write

        def limited(text: str) -> int:
            write(text[: self.room])
            file.flush()
            raise OSError(errno.ENOSPC, ENOSPC)

        file.write = limited
        return file


@pytest.mark.parametrize("export", ["csv", "json"])
@pytest.mark.parametrize("room", [-1, 0, 100])
def test_a_full_disk_leaves_no_part_of_a_file_and_no_run_lost(
    executed, monkeypatch, comfy_base, export, room
):
    folder = comfy_base / "output" / f"full {export} {room}"
    plot = {**LOOK, "export": export, "filename_prefix": f"{folder.name}/trace"}
    prompt = sampled(lags(101, steps=3), colour())
    prompt["plot"] = node("LAGSTracePlot", **{"traces.trace0": ["sample", 1]}, **plot)
    with monkeypatch.context() as disk:
        disk.setattr(trace_files, "open", Full(room).open, raising=False)
        assert not executed(prompt)
    assert executed.error["node_type"] == "LAGSTracePlot"
    message = executed.error["exception_message"]
    for word in (ENOSPC, f"trace_00001_.{export}", "Make room", "export to none", "is kept"):
        assert word in message
    assert list(folder.iterdir()) == []
    assert executed(prompt), "once there is room"
    assert "sample" in executed.sent["execution_cached"]["nodes"], "nothing was sampled anew"
    (written,) = folder.iterdir()
    assert written.name == f"trace_00001_.{export}"
    if export == "json":
        assert len(json.loads(written.read_text())[0]["records"]) == 3


def test_a_folder_that_cannot_be_made_is_told_apart_from_one_outside(comfy_base):
    (comfy_base / "output").mkdir(exist_ok=True)
    (comfy_base / "output" / "taken").write_text("a file where a folder is wanted")
    with pytest.raises(OSError, match="could not be written to taken/deep/trace"):
        trace_files.write([Trace()], "csv", "taken/deep/trace")
