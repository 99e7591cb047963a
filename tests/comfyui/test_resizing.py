"""Samplers that enlarge the latents during a run: nothing of guidance keeps the first size."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import pytest
import torch
from comfy_extras.nodes_advanced_samplers import sample_lcm_upscale
from comfyui_support.executing import run_node
from comfyui_support.guided import REWARD, Case, options
from comfyui_support.weighing import case_of, mask_weight
from lags_pack.nodes.methods.lidar import LAGSMethodLiDAR
from lags_pack.rewards import Weight
from torch import Tensor

RED = Weight.of(REWARD, 60.0)
LIDAR = {"count": 2, "lookahead_steps": 2, "scale": 1.0, "sigma_end": 0.1, "lookahead_seed": 0}
SIGMAS = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])


@pytest.fixture(scope="module")
def case(sd15) -> Case:
    return case_of(sd15, 1, 8, strength=60.0)


def enlarged(case: Case, **changes: Any) -> Tensor:
    """A run that ends at twice the size."""
    sampler = comfy.samplers.KSAMPLER(
        sample_lcm_upscale, {"total_upscale": 2.0, "upscale_method": "bicubic"}
    )
    own = {name: case.settings[name] for name in ("positive", "negative", "latent_image", "cfg")}
    inputs = {"add_noise": True, "noise_seed": 3, "sampler": sampler, "sigmas": SIGMAS, **own}
    model = case.guided(**changes) if changes else case.model
    return run_node(custom.SamplerCustom, model=model, **inputs)[0]["samples"]


@pytest.mark.parametrize("mode", ["balanced", "fast", "paper"])
def test_a_gradient_is_taken_anew_at_another_size(case, mode):
    plain = enlarged(case)
    guided = enlarged(case, mode=mode, options=options(reuse_gradient=4, skip_below=0.0))
    assert guided.shape == plain.shape == (1, 4, 16, 16)
    assert case.gain(guided, plain) > 0


def test_the_mask_of_a_weight_follows_the_size(case):
    left = torch.zeros(1, 64, 64)
    left[..., :32] = 1
    guided = enlarged(case, weight=mask_weight(RED, left), mode="fast")
    assert guided.shape == (1, 4, 16, 16) and torch.isfinite(guided).all()
    assert not torch.equal(guided, enlarged(case))


def test_lidar_says_that_its_images_have_the_first_size(case):
    (method,) = run_node(LAGSMethodLiDAR, **LIDAR)
    with pytest.raises(ValueError, match=r"from \(4, 8, 8\) to \(4, .*keeps the size"):
        enlarged(case, method=method)
