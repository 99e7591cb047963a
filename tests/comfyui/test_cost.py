"""The counted numbers at full size: those that are known come out, those to reach are reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

Rows = list[dict[str, Any]]
PACK = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tables(comfy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Rows, Rows]:
    """The networks and the methods, from the command itself.

    In a process of its own: ComfyUI chooses its attention once, and only one that torch can count
    on the meta device will do.
    """
    file = tmp_path_factory.mktemp("cost") / "rows.json"
    launch, dev = PACK / "tests" / "comfyui" / "launch.py", PACK / "dev.py"
    command = [sys.executable, launch, dev, "_module", "benchmarks.cost", "--json", file]
    environment = {**os.environ, "COMFYUI_PATH": str(comfy_root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(
        json.loads(path.read_text()) for path in (file.with_suffix(".networks.json"), file)
    )


def network(tables: tuple[Rows, Rows], model: str, name: str, side: int) -> dict[str, Any]:
    (row,) = [r for r in tables[0] if (r["model"], r["network"], r["side"]) == (model, name, side)]
    return row


@pytest.mark.parametrize(
    ("model", "name", "side", "forward", "backward"),
    [
        ("SDXL", "UNet, one row", 1024, 6.76, 7.46),
        ("SDXL", "vae", 1024, 10.47, 11.02),
        ("SDXL", "taesd", 1024, 0.565, 0.565),
        ("SD1.5", "UNet, one row", 512, 0.803, 0.923),
        ("SD1.5", "vae", 512, 2.51, 2.55),
        ("SD1.5", "taesd", 512, 0.141, 0.141),
    ],
)
def test_known_arithmetic(
    tables: tuple[Rows, Rows], model: str, name: str, side: int, forward: float, backward: float
) -> None:
    row = network(tables, model, name, side)
    found = (row["TFLOP forward"], row["TFLOP backward"])
    assert found == pytest.approx((forward, backward), rel=0.005)


@pytest.mark.parametrize(("name", "gigabytes"), [("vae", 14.0), ("taesd", 1.9)])
def test_known_memory(tables: tuple[Rows, Rows], name: str, gigabytes: float) -> None:
    """The known figures count memory that two saved tensors share twice."""
    row = network(tables, "SDXL", name, 1024)
    assert row["GB saved, shared memory counted again"] == pytest.approx(gigabytes, rel=0.02)
    assert row["GB saved"] < row["GB at one time"] < 1.3 * row["GB saved"]


def test_memory_to_reach(tables: tuple[Rows, Rows]) -> None:
    plain, recomputed, taesd, rgb = (
        network(tables, "SDXL", name, side)
        for name, side in (
            ("vae", 1024),
            ("vae, recomputed", 1024),
            ("taesd", 1024),
            ("latent-rgb", 128),
        )
    )
    assert taesd["GB saved"] <= 2
    assert recomputed["GB saved"] <= min(4, plain["GB saved"] / 4)
    assert rgb["GB at one time"] < 0.001


def test_recomputing_costs_one_more_forward(tables: tuple[Rows, Rows]) -> None:
    plain, recomputed = (network(tables, "SDXL", name, 1024) for name in ("vae", "vae, recomputed"))
    assert recomputed["TFLOP forward"] == plain["TFLOP forward"]
    expected = plain["TFLOP forward"] + plain["TFLOP backward"]
    assert recomputed["TFLOP backward"] == pytest.approx(expected, rel=0.01)


def method(tables: tuple[Rows, Rows], name: str, decoder: str | None, at: int | None) -> float:
    (row,) = [
        r
        for r in tables[1]
        if (r["model"], r["method"], r["decoder"], r["decoded at"]) == ("SDXL", name, decoder, at)
    ]
    return float(row["TFLOP / plain"])


def test_arithmetic_to_reach(tables: tuple[Rows, Rows]) -> None:
    assert method(tables, "plain", None, None) == 1
    assert method(tables, "paper", "vae", 1024) == pytest.approx(3.6, rel=0.01)
    for at in (1024, 448):
        assert method(tables, "fast", "taesd", at) <= 1.10


def test_what_is_reserved_covers_what_is_alive(tables: tuple[Rows, Rows]) -> None:
    """The decoders' own figures, with room for what kernels take, but not too much of it."""
    from lags_pack.runtime.decoders import TAESD_KEPT, VAE_KEPT, VAE_RECOMPUTED

    comfyui = 2178 * 1024**2 * 2 / 1e9  # its estimate for decoding one image in half precision
    reserved = {
        "vae": VAE_KEPT * comfyui,
        "vae, recomputed": VAE_RECOMPUTED * comfyui,
        "taesd": TAESD_KEPT * 1024**2 * 2 / 1e9,
    }
    for name, gigabytes in reserved.items():
        peak = network(tables, "SDXL", name, 1024)["GB at one time"]
        assert 1.2 * peak < gigabytes < 2 * peak, name
