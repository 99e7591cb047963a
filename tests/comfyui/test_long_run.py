"""Two hundred runs in one process, each another than the last: memory stays where it was."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from comfyui_support.executing import Executor
from comfyui_support.prompts import Prompt, colour, lags, node, particles, sampled, search
from lags_pack.runtime import last_model as remembered
from lags_pack.runtime import page as live

RUNS, PERIOD = 200, 10
WARM_UP = 40  # runs after which a fresh server has its allocator's pools, measured
EARLY, LATE = slice(40, 60), slice(180, 200)
DPS = node("LAGSMethodDPS", rho=0.1, normalised=False)
LIDAR = node(
    "LAGSMethodLiDAR", count=2, lookahead_steps=2, scale=1.0, sigma_end=0.5, lookahead_seed=1
)
FREQUENCY = node("LAGSWeightFrequency", low=0.15, high=0.5, strength=2.0, auto_nats=0.0)


def prompt(run: int) -> Prompt:
    """The prompt of a run: ten ways in turn, with a seed, a strength and a node's id of its own.

    New batch sizes come with new demo models, so nothing but ComfyUI's cache holds the last one.
    """
    key, strength = f"sample {run}", 10.0 + run

    def by_other() -> Prompt:
        return sampled(lags(run, method=["other", 0]), colour(strength), 1, key)

    ways: list[Callable[[], Prompt]] = [
        lambda: sampled(lags(run), colour(strength), 1, key),
        lambda: sampled(lags(run, "fast"), colour(strength, "brightness"), 2, key),
        lambda: sampled(lags(run, "paper"), FREQUENCY, 1, key),
        lambda: sampled(lags(run), colour(1.0, nats=1.0 + run / 100), 3, key),
        lambda: sampled(particles(run, "lags"), colour(strength), 1, key),
        lambda: sampled(particles(run, "das"), colour(strength), 1, key),
        lambda: sampled(search(run), colour(strength), 2, key),
        lambda: {**by_other(), "other": DPS},
        lambda: {**by_other(), "other": LIDAR},
        lambda: {**sampled(lags(run), colour(strength), 1, key), "plot": plot(key)},
    ]
    return ways[run % PERIOD]()


def plot(key: str) -> dict[str, Any]:
    look = {"axis": "step", "theme": "dark", "scale": 0.25, "export": "json"}
    traces = {"traces.trace0": [key, 1]}
    return node("LAGSTracePlot", **traces, **look, filename_prefix="long run/trace")


def test_tensors_of_200_runs_in_one_process(monkeypatch):
    executed = Executor(monkeypatch)
    told: dict[str, int] = {}

    def send(event: str, body: dict[str, Any], client: str) -> None:
        told[event] = told.get(event, 0) + 1

    page = SimpleNamespace(client_id="a page", send_sync=send)
    monkeypatch.setattr(live, "page_server", lambda: page)
    monkeypatch.setattr(remembered, "KEPT", 24)  # full before the first look
    before, counts, sizes = alive(), [], []
    for run in range(RUNS):
        assert executed(prompt(run)), executed.sent
        if run % PERIOD == PERIOD - 1:  # always after the same way
            tensors = alive()
            counts.append(tensors[0] - before[0])
            sizes.append(tensors[1] - before[1])
    early = slice(EARLY.start // PERIOD, EARLY.stop // PERIOD)
    late = slice(LATE.start // PERIOD, LATE.stop // PERIOD)
    print(f"tensors beside those before: {counts}; bytes: {sizes}")
    assert statistics.median(counts[late]) <= 1.02 * statistics.median(counts[early])
    assert statistics.median(sizes[late]) <= 1.02 * statistics.median(sizes[early])
    assert len(remembered._remembered) == remembered.KEPT, "the oldest are forgotten"
    assert f"sample {RUNS - 1}" in remembered._remembered
    assert told[live.START] >= RUNS * 0.8 and told[live.STEP] >= 2 * RUNS * 0.8


def alive() -> tuple[int, int]:
    """How many tensors there are in the process, and their bytes."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return len(tensors), sum(storages.values())


def test_memory_of_a_server_over_200_runs(server):
    process = psutil.Process(server._process.pid)
    resident = []
    for run in range(WARM_UP + RUNS):
        server.queue(prompt(run))
        server.answer("/history", {"clear": True})  # ComfyUI itself keeps 10,000 prompts' answers
        resident.append(process.memory_info().rss)
    resident = resident[WARM_UP:]
    early, late = (statistics.median(resident[part]) for part in (EARLY, LATE))
    print(f"resident: {early / 2**20:.1f} MB at runs 40 to 60, {late / 2**20:.1f} at 180 to 200")
    assert late <= 1.02 * early
