"""A VAE that leaves the range of half precision: it is named, and the weight is not blamed."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from comfyui_support.executing import run_node
from comfyui_support.faults import RIVALS
from comfyui_support.guided import REWARD, Case
from comfyui_support.weighing import case_of
from lags_pack.guidance import MMSOLD
from lags_pack.nodes.samplers.search import LAGSSearchSampler
from lags_pack.rewards import Weight
from lags_pack.runtime.decoders import DecoderError, VAEDecoder
from lags_pack.runtime.lookahead import cached
from lags_pack.runtime.mmsold import new_images
from lags_pack.runtime.options import Options
from torch import Tensor

REMEDIES = ("--bf16-vae", "--fp32-vae", "fp16-fix", "taesd")


@pytest.fixture(scope="module")
def case(sd15, kl_vae) -> Case:
    """A VAE of the real class whose inner numbers pass 65504 and whose image does not."""
    vae = copy.copy(kl_vae)
    with torch.inference_mode():
        vae.first_stage_model = copy.deepcopy(kl_vae.first_stage_model)
        vae.first_stage_model.decoder.conv_in.weight.mul_(1e5)
        vae.patcher = kl_vae.patcher.__class__(
            vae.first_stage_model, kl_vae.patcher.load_device, kl_vae.patcher.offload_device
        )
    return replace(case_of(sd15, batch=1, steps=4, strength=20.0), vae=vae)


def in_precision(case: Case, dtype: torch.dtype) -> None:
    with torch.inference_mode():
        case.vae.first_stage_model.to(dtype)
    case.vae.vae_dtype = dtype


def search(case: Case) -> Any:
    given = {"model": case.model, "vae": case.vae, "weight": Weight.of(REWARD, 1.0)}
    widgets = {"rounds": 1, "neighbours": 1, "radius": 0.0}
    return run_node(LAGSSearchSampler, **given, **widgets, **case.settings)


WAYS: dict[str, Callable[[Case], Any]] = {
    **{
        mode: lambda case, mode=mode: case.lags(mode=mode) for mode in ("balanced", "fast", "paper")
    },
    **{name: lambda case, make=make: case.lags(method=make()) for name, make in RIVALS.items()},
    "automatic": lambda case: case.lags(weight=Weight.of(REWARD, 1.0, 3.0)),
    "particles lags": lambda case: case.particles(),
    "particles fk": lambda case: case.particles(method="fk"),
    "particles das": lambda case: case.particles(method="das"),
    "search": search,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_vae_that_overflows_is_named_with_its_remedies(case, way):
    cached.clear()
    in_precision(case, torch.float16)
    try:
        with pytest.raises(DecoderError) as caught:
            WAYS[way](case)
    finally:
        in_precision(case, torch.float32)
    message = str(caught.value)
    assert "AutoencoderKL, in float16, made an image that is not finite" in message
    assert all(remedy in message for remedy in REMEDIES)
    assert REWARD.name not in message and "Weight '" not in message
    assert way in ("search", "LiDAR", "automatic") or re.search(r"It was in step \d of 4", message)
    WAYS[way](case)  # in float32 nothing overflows


class _Overflowing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * float("inf")


def test_a_backward_pass_that_overflows_is_the_vaes_too(case, monkeypatch):
    own = VAEDecoder.images
    monkeypatch.setattr(VAEDecoder, "images", lambda s, z: _Overflowing.apply(own(s, z)))
    with pytest.raises(DecoderError, match="in float32, made a gradient that is not finite"):
        case.lags(mode="paper")


def test_a_weight_that_overflows_is_still_the_weights_fault(case):
    class Steep(type(REWARD)):
        def __call__(self, images: Tensor) -> Tensor:
            return super().__call__(images) * float("inf")

    with pytest.raises(ValueError, match="Weight '.*' has a (value|gradient) that is not finite"):
        case.lags(weight=Weight.of(Steep("hue", 0.0), 1.0), mode="paper")


def test_what_is_spoilt_in_full_precision_is_no_overflow(case, sd15):
    taesd = copy.copy(sd15.vae)
    with torch.inference_mode():
        taesd.first_stage_model = copy.deepcopy(sd15.vae.first_stage_model)
        taesd.first_stage_model.taesd_decoder[1].weight.mul_(float("nan"))
    with pytest.raises(DecoderError) as caught:
        replace(case, vae=taesd).lags(mode="paper", options=Options())
    message = str(caught.value)
    assert "TAESD, in float32" in message and "damaged" in message
    assert "--fp32-vae" not in message


def test_mm_sold_on_latents_judges_no_image_that_is_not_finite(case):
    latents = {"samples": torch.randn(9, 4, 4, 4, generator=torch.Generator().manual_seed(0))}
    given = {"latents": latents, "vae": case.vae, "weight": Weight.of(REWARD, 1.0)}
    widgets = {"count": 2, "rank": 0, "seed": 0, "strength": 1.0}
    in_precision(case, torch.float16)
    try:
        with torch.inference_mode(), pytest.raises(DecoderError, match="AutoencoderKL, in float16"):
            new_images(MMSOLD(), **widgets, **given)
    finally:
        in_precision(case, torch.float32)
