"""A batch split over two ComfyUI processes gives the images of one run; see docs/many_gpus.md.

The split is made with ComfyUI's own LatentFromBatch, which notes each image's number in its
batch; noise hangs on the seed and that number. A model rounds a batch of two otherwise than one of
four (another kernel, another order of sums), so images are compared by their 8-bit levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from comfyui_support.prompts import METHODS, PARTICLES, node
from comfyui_support.server import Server

BATCH, HALF = 4, 2
LEVELS = 1  # of 255; between images that are the same


@pytest.fixture(scope="module")
def other(comfy_root, tmp_path_factory) -> Iterator[Server]:
    """A second server with folders of its own, as on another machine."""
    with Server(comfy_root, tmp_path_factory.mktemp("other")).running() as running:
        yield running


def prompt(sampler: dict[str, Any], first: int, length: int, auto_nats: float) -> dict[str, Any]:
    """A part of a batch of four of the bundled model, sampled towards blue."""
    colour = {"attribute": "hue", "hue": 240.0, "colour": "#000000", "strength": 30.0}
    sampled = {
        **{"model": ["demo", 0], "positive": ["demo", 1], "negative": ["demo", 2]},
        **{"latent_image": ["part", 0], "scheduler": "karras"},
        **{"seed": 5, "steps": 6, "cfg": 1.0, "denoise": 1.0},
    }
    guided = {"vae": ["demo", 3], "weight": ["colour", 0]}
    extra = {} if sampler["class_type"] == "KSampler" else guided
    return {
        "demo": node("LAGSDemoModel", subject="any", colour="any", batch_size=BATCH),
        "part": node("LatentFromBatch", samples=["demo", 4], batch_index=first, length=length),
        "colour": node("LAGSWeightColor", **colour, auto_nats=auto_nats),
        **{kind: node(kind, **widgets) for kind, widgets in METHODS.items()},
        "sample": node(sampler["class_type"], **sampled, **extra, **sampler["inputs"]),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["demo", 3]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="many"),
    }


def lags(sampler_name: str, mode: str = "balanced", **inputs: Any) -> dict[str, Any]:
    chosen = {"sampler_name": sampler_name, "mode": mode, "strength": 1.0, "c": 10.0}
    return node("LAGSKSampler", **chosen, **inputs)


def particles(
    method: str, sampler_name: str, output: str, count: int = 1, group: int = 4
) -> dict[str, Any]:
    chosen = {"sampler_name": sampler_name, "method": method, "output": output, "count": count}
    widgets = {**PARTICLES, **chosen, "particles": group, "strength": 1.0}
    return node("LAGSParticleSampler", **widgets)


def search(sampler_name: str, radius: float) -> dict[str, Any]:
    widgets = {"rounds": 2, "neighbours": 2, "radius": radius}
    return node("LAGSSearchSampler", sampler_name=sampler_name, **widgets)


EQUAL = {
    "KSampler, euler": node("KSampler", sampler_name="euler"),
    "LAGS, euler": lags("euler"),
    "LAGS fast, dpmpp_2m": lags("dpmpp_2m", "fast"),
    "LAGS paper, heun": lags("heun", "paper"),
    "DPS, euler": lags("euler", method=["LAGSMethodDPS", 0]),
    "LiDAR, euler": lags("euler", method=["LAGSMethodLiDAR", 0]),
    "particles lags, euler_ancestral": particles("lags", "euler_ancestral", "best"),
    "particles smc, ddpm": particles("smc", "ddpm", "draw", 2),
    "particles urge, euler_ancestral": particles("urge", "euler_ancestral", "diverse", 2),
    "one particle, euler_ancestral": particles("smc", "euler_ancestral", "best", group=1),
    "search, euler": search("euler", 0.0),
    "search around, dpmpp_2m": search("dpmpp_2m", 0.3),
}
# Samplers that draw noise on the way draw it for the whole batch at once, in ComfyUI's own code.
UNEQUAL = {
    "KSampler, euler_ancestral": node("KSampler", sampler_name="euler_ancestral"),
    "LAGS, euler_ancestral": lags("euler_ancestral"),
    "LAGS, dpmpp_2m_sde": lags("dpmpp_2m_sde"),
    "FreeDoM, euler_ancestral": lags("euler_ancestral", method=["LAGSMethodFreeDoM", 0]),
    "search, euler_ancestral": search("euler_ancestral", 0.0),
}


def run(
    servers: list[Server], sampler: dict[str, Any], parts: list[tuple[int, int]], nats: float = 0.0
) -> np.ndarray:
    """Images [B, H, W, 3] of parts (first, length) of a batch, each on its server, in order."""
    asked = [
        (server, server.submit(prompt(sampler, first, length, nats)))
        for server, (first, length) in zip(servers, parts, strict=True)
    ]
    pictures = []
    for server, prompt_id in asked:
        entry = server.wait(prompt_id)
        assert entry["status"]["status_str"] == "success", entry["status"]
        pictures += [np.asarray(image, int) for image in server.pictures(entry)]
    return np.stack(pictures)


def whole_and_split(
    server: Server, other: Server, sampler: dict[str, Any], nats: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    whole = run([server], sampler, [(0, BATCH)], nats)
    split = run([server, other], sampler, [(0, HALF), (HALF, HALF)], nats)
    assert whole.shape == split.shape
    return whole, split


@pytest.mark.parametrize("name", EQUAL)
def test_a_batch_on_two_servers_is_the_batch_on_one(name, server, other):
    whole, split = whole_and_split(server, other, EQUAL[name])
    apart = np.abs(whole - split)
    assert apart.max() <= LEVELS, f"{apart.max()} levels, {(apart > LEVELS).mean():.2%} of pixels"
    assert np.abs(whole[0] - whole[-1]).max() > 50, "the images of the batch differ"


@pytest.mark.parametrize("name", UNEQUAL)
def test_noise_drawn_for_the_whole_batch_is_another_in_a_part(name, server, other):
    """What docs/many_gpus.md warns of: true of ComfyUI's KSampler as well."""
    whole, split = whole_and_split(server, other, UNEQUAL[name])
    assert np.abs(whole - split)[HALF:].max() > 50


def test_an_automatic_strength_is_the_same_on_every_server(server, other):
    """It is measured on quick images that neither the seed nor the batch changes."""
    whole, split = whole_and_split(server, other, lags("euler"), nats=3.0)
    assert np.abs(whole - split).max() <= LEVELS
