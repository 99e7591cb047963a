"""Every family of models that ComfyUI knows: its latents, how it is noised, taken or refused."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import comfy.model_base
import comfy.supported_models
import pytest
import torch
from lags_pack.guidance import ve_view
from lags_pack.rewards import ColourReward, Weight
from lags_pack.runtime.checks import check_vae
from lags_pack.runtime.decoded_weight import DecodedLogWeight
from lags_pack.runtime.decoders import Decoding, decoder_of
from lags_pack.runtime.run import difference_step
from torch import Tensor, nn

BRIGHT = Weight.of(ColourReward("brightness"), 10.0)
REARRANGED = "are rearranged before its VAE decodes them"


class Family(NamedTuple):
    """A row: the latent format, what the network predicts, and the sentence of a refusal."""

    latent_format: str
    noise: str
    refused: str = ""


# Channels, dimensions and enlargement of the VAE that belongs to each format.
VAES = {
    **{"SD15": (4, 2, 8), "SDXL": (4, 2, 8), "SD3": (16, 2, 8), "Flux": (16, 2, 8)},
    **{"SD_X4": (4, 2, 4), "SC_Prior": (16, 2, 8), "SC_B": (4, 2, 4), "Flux2": (128, 2, 16)},
    **{"Wan21": (16, 3, 8), "HunyuanImage21": (64, 2, 32), "HunyuanImage21Refiner": (32, 3, 16)},
    **{"ChromaRadiance": (3, 2, 1), "ZImagePixelSpace": (3, 2, 1)},
    **{"HiDreamO1Pixel": (3, 2, 1), "PixelDiTPixel": (3, 2, 1)},
}
STILL = {
    **{name: Family("SD15", "eps") for name in ("SD15", "SD15_instructpix2pix", "Stable_Zero123")},
    **{name: Family("SD15", "eps") for name in ("SD20", "SD21UnclipL", "SD21UnclipH")},
    **{name: Family("SDXL", "eps") for name in ("SDXL", "SDXLRefiner", "SDXL_instructpix2pix")},
    **{name: Family("SDXL", "eps") for name in ("SSD1B", "Segmind_Vega")},
    **{name: Family("SDXL", "eps") for name in ("KOALA_700M", "KOALA_1B")},
    "LotusD": Family("SD15", "image"),
    "SD_X4Upscaler": Family("SD_X4", "v"),
    "Stable_Cascade_C": Family("SC_Prior", "eps"),
    "Stable_Cascade_B": Family("SC_B", "eps"),
    "SD3": Family("SD3", "flow"),
    "AuraFlow": Family("SDXL", "flow"),
    "PixArtAlpha": Family("SD15", "eps"),
    "PixArtSigma": Family("SDXL", "eps"),
    **{name: Family("SDXL", "v") for name in ("HunyuanDiT", "HunyuanDiT1")},
    **{name: Family("Flux", "flow") for name in ("Flux", "FluxInpaint", "FluxSchnell")},
    **{name: Family("Flux", "flow") for name in ("LongCatImage", "Chroma", "HiDream")},
    **{name: Family("Flux", "flow") for name in ("Lumina2", "ZImage", "Omnigen2", "Boogu")},
    "Kandinsky5Image": Family("Flux", "flow"),
    **{name: Family("Flux2", "flow") for name in ("Flux2", "Lens", "Ideogram4")},
    **{name: Family("Flux2", "flow") for name in ("MageFlow", "ErnieImage")},
    **{name: Family("Wan21", "flow") for name in ("QwenImage", "Krea2", "JoyImage", "Anima")},
    "CosmosT2IPredict2": Family("Wan21", "cosmos"),
    "HunyuanImage21": Family("HunyuanImage21", "flow"),
    "HunyuanImage21Refiner": Family("HunyuanImage21Refiner", "flow", REARRANGED),
    "ChromaRadiance": Family("ChromaRadiance", "flow"),
    "ZImagePixelSpace": Family("ZImagePixelSpace", "flow"),
    "HiDreamO1": Family("HiDreamO1Pixel", "flow"),
    **{name: Family("PixelDiTPixel", "flow") for name in ("PixelDiTT2I", "PiD")},
}
SOUND_AND_SHAPES = {
    *("StableAudio", "StableAudio3", "ACEStep", "ACEStep15", "MiniMaxMusic3"),
    *("Hunyuan3Dv2", "Hunyuan3Dv2_1", "Hunyuan3Dv2mini", "TripoSplat", "Trellis2"),
}
NO_SAMPLING = {"RT_DETR_v4", "SAM3", "SAM31", "DepthAnything3"}
VIDEO = {
    *("SV3D_u", "SV3D_p", "SVD_img2vid", "GenmoMochi", "LTXV", "LTXAV", "MiniMaxH3", "SeedVR2"),
    *("HunyuanVideo", "HunyuanVideoI2V", "HunyuanVideoSkyreelsI2V", "HunyuanVideo15"),
    *("HunyuanVideo15_SR_Distilled", "CosmosT2V", "CosmosI2V", "CosmosI2VPredict2"),
    *("WAN22_T2V", "WAN21_CausalAR_T2V", "WAN21_T2V", "WAN21_I2V", "WAN21_FunControl2V"),
    *("WAN21_Vace", "WAN21_Camera", "WAN22_Camera", "WAN22_S2V", "WAN21_HuMo", "WAN22_Animate"),
    *("WAN_Animate2", "WAN21_FlowRVS", "WAN21_SCAIL", "WAN21_SCAIL2", "WAN22_WanDancer"),
    *("Kandinsky5", "CogVideoX_T2V", "CogVideoX_I2V", "CogVideoX_Inpaint"),
}
PREDICTIONS = {
    **{"EPS": "eps", "STABLE_CASCADE": "eps", "V_PREDICTION": "v", "FLOW": "flow", "FLUX": "flow"},
    **{"FLOW_COSMOS": "cosmos", "IMG_TO_IMG": "image"},
}
KNOWN = {kind.__name__: kind for kind in comfy.supported_models.models}
HERE = [name for name in STILL if name in KNOWN]  # older ComfyUI knows fewer
SIZES = {"hidden_size": 2604, "in_channels": 4, "model_channels": 2048}


class Begun(Exception):
    """ComfyUI has begun to build a model; its argument is what that model predicts."""


class Enlarging(nn.Module):
    """A VAE's network: colours of each cell, as large as its decoder makes it."""

    def __init__(self, channels: int, cell: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(channels)
        self.colours = nn.Parameter(torch.randn(3, channels, generator=generator) / channels)
        self.cell = cell

    def decode(self, latents: Tensor) -> Tensor:
        small = torch.einsum("rc,bc...->br...", self.colours, latents)
        return small.repeat_interleave(self.cell, -1).repeat_interleave(self.cell, -2)


def vae_of(latent_format: str) -> Any:
    """What ComfyUI's VAE object says of itself, around a small network."""
    channels, dimensions, cell = VAES[latent_format]
    return SimpleNamespace(
        **{"first_stage_model": Enlarging(channels, cell), "latent_channels": channels},
        **{"latent_dim": dimensions, "output_channels": 3, "vae_dtype": torch.float32},
        **{"device": torch.device("cpu"), "patcher": SimpleNamespace()},
        spacial_compression_decode=lambda: cell,
        process_output=lambda image: (image + 1) / 2,
        memory_used_decode=lambda shape, dtype: float(shape[-1]),
    )


@pytest.fixture
def model_of(monkeypatch) -> Any:
    """A family's MODEL, as far as the pack asks for it before a run, and what it predicts."""

    def begun(self: Any, config: Any, model_type: Any = None, *_: Any, **__: Any) -> None:
        raise Begun(model_type)

    monkeypatch.setattr(comfy.model_base.BaseModel, "__init__", begun)

    def made(name: str) -> tuple[Any, str]:
        config = KNOWN[name](SIZES)
        with pytest.raises(Begun) as caught:
            config.get_model(defaultdict(lambda: torch.zeros(1)))
        (kind,) = caught.value.args
        sampling = comfy.model_base.model_sampling(config, kind)
        parts = {"latent_format": config.latent_format, "model_sampling": sampling}
        inner = SimpleNamespace(
            process_latent_out=config.latent_format.process_out, get_dtype=lambda: torch.float32
        )
        return SimpleNamespace(get_model_object=parts.get, model=inner), PREDICTIONS[kind.name]

    return made


@pytest.mark.parametrize("name", HERE)
def test_a_still_image_family(model_of, name):
    model, noise = model_of(name)
    latent_format, row = model.get_model_object("latent_format"), STILL[name]
    assert (type(latent_format).__name__, noise) == row[:2]
    vae = vae_of(row.latent_format)
    if row.refused:
        with pytest.raises(ValueError, match=row.refused):
            check_vae(vae, model)
        return
    assert difference_step(model).size(torch.ones(1, 4), torch.ones(1)) > 0
    sampling = model.get_model_object("model_sampling")
    sigma = torch.tensor([0.1, 0.5, 0.9])
    view = ve_view(sampling.noise_scaling, sigma)
    flow = row.noise == "flow"
    scale = getattr(sampling, "noise_scale", 1.0) if flow else 1.0
    torch.testing.assert_close(view.signal, 1 - sigma if flow else torch.ones(3))
    torch.testing.assert_close(view.noise, sigma * scale)

    log_weight = DecodedLogWeight(decoder_of(Decoding("vae", 0), vae, model), BRIGHT)
    frame = (1,) * (vae.latent_dim - 2)
    x, way = (torch.randn(2, latent_format.latent_channels, *frame, 2, 2) for _ in range(2))
    log_w, grad = log_weight.value_and_grad(x)
    assert grad.shape == x.shape and float(grad.abs().max()) > 0
    with torch.no_grad():
        slope = (log_weight(x + 0.1 * way) - log_weight(x - 0.1 * way)) / 0.2
    torch.testing.assert_close((grad * way).flatten(1).sum(1), slope, rtol=1e-2, atol=1e-3)
    assert log_w.shape == (2,)


def test_every_family_is_in_one_of_the_lists():
    lists = [set(STILL), SOUND_AND_SHAPES, NO_SAMPLING, VIDEO]
    assert set(KNOWN) <= set().union(*lists)
    assert sum(map(len, lists)) == len(set().union(*lists))


def test_the_documentation_lists_every_still_image_family():
    text = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text("utf-8")
    assert [name for name in STILL if f"`{name}`" not in text] == []


@pytest.mark.parametrize("name", [n for n in sorted(SOUND_AND_SHAPES) if n in KNOWN])
def test_sound_and_shapes_are_refused(name):
    """By their dimensions or, where these are an image's, by what their VAE decodes to."""
    latent_format = KNOWN[name](SIZES).latent_format
    vae = vae_of("SD15")
    vae.latent_dim = latent_format.latent_dimensions
    vae.latent_channels, vae.output_channels = latent_format.latent_channels, 2
    model = SimpleNamespace(get_model_object=lambda _: latent_format)
    with pytest.raises(ValueError, match=r"audio or 3-D shapes|decodes to 2 channels"):
        check_vae(vae, model)
