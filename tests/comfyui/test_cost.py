"""The counted numbers at full size: those that are known come out, those to reach are reached."""

from __future__ import annotations

from typing import Any

import pytest
from lags_pack.benchmarks import _comfyui, cost
from lags_pack.benchmarks.cost import Work


@pytest.fixture(scope="module")
def works() -> dict[tuple[str, int], Work]:
    """Every decoder for SDXL at the sizes that the tests name."""
    keys = [("vae", 0), ("vae, recomputed", 0), ("taesd", 0), ("taesd", 448), ("latent-rgb", 0)]
    return {key: _comfyui.decoder(key[0], "SDXL", 1024, key[1]) for key in keys}


@pytest.fixture(scope="module")
def unet() -> Work:
    return _comfyui.unet("SDXL", 1024)


def test_unets(unet: Work) -> None:
    assert unet.forward == pytest.approx(6.76, rel=0.002)
    assert _comfyui.unet("SD1.5", 512).forward == pytest.approx(0.803, rel=0.002)


def test_decoders_of_sdxl(works: dict[tuple[str, int], Work]) -> None:
    vae, taesd = works["vae", 0], works["taesd", 0]
    assert (vae.forward, vae.backward) == pytest.approx((10.47, 11.02), rel=0.002)
    assert vae.every_saved == pytest.approx(14, rel=0.02)
    assert (taesd.forward, taesd.backward) == pytest.approx((0.565, 0.565), rel=0.002)
    assert taesd.every_saved == pytest.approx(1.9, rel=0.02)


@pytest.mark.parametrize(("name", "expected"), [("vae", 2.52), ("taesd", 0.141)])
def test_decoders_of_sd15(name: str, expected: float) -> None:
    work = _comfyui.decoder(name, "SD1.5", 512, 0)
    assert (work.forward, work.backward) == pytest.approx((expected, expected), rel=0.02)


def test_memory_to_reach(works: dict[tuple[str, int], Work]) -> None:
    assert works["taesd", 0].saved <= 2
    recomputed, plain = works["vae, recomputed", 0], works["vae", 0]
    assert recomputed.saved <= min(4, plain.saved / 4)
    assert recomputed.forward == plain.forward
    assert recomputed.backward == pytest.approx(plain.forward + plain.backward, rel=0.01)
    assert works["latent-rgb", 0].peak < 0.001


def test_arithmetic_to_reach(works: dict[tuple[str, int], Work], unet: Work) -> None:
    calls, nothing = cost.runs(30), Work(0, 0, 0, 0, 0)
    plain = cost.tflop(calls["plain"], unet, nothing)
    assert plain == pytest.approx(30 * 2 * 6.76, rel=0.002)
    paper = cost.tflop(calls["paper"], unet, works["vae", 0])
    assert paper / plain == pytest.approx(3.6, rel=0.01)
    for size in (0, 448):
        fast = cost.tflop(calls["fast"], unet, works["taesd", size])
        assert fast / plain <= 1.10


def test_what_is_reserved_covers_what_is_alive(works: dict[tuple[str, int], Work]) -> None:
    """The decoders' own figures, with room for what kernels take, but not too much of it."""
    from lags_pack.nodes.decoders import TAESD_KEPT, VAE_KEPT, VAE_RECOMPUTED

    pixels = 1024**2
    comfyui = 2178 * pixels * 2 / 1e9  # its estimate for decoding one picture in half precision
    reserved = {
        ("vae", 0): VAE_KEPT * comfyui,
        ("vae, recomputed", 0): VAE_RECOMPUTED * comfyui,
        ("taesd", 0): TAESD_KEPT * pixels * 2 / 1e9,
    }
    for key, bytes_ in reserved.items():
        assert 1.2 * works[key].peak < bytes_ < 2 * works[key].peak, key


def test_the_whole_table(
    monkeypatch: pytest.MonkeyPatch, comfy_root: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(comfy_root))
    monkeypatch.setattr(_comfyui, "import_comfyui", lambda *_: None)  # it is there
    cost.main(["--families", "SD1.5", "--steps", "4"])
    printed = capsys.readouterr().out
    for word in ("UNet, one row", "vae, recomputed", "latent-rgb", "gradient through the UNet"):
        assert word in printed
