"""Guidance in half precision: what is captured stays what it is in float32."""

from __future__ import annotations

import pytest
import torch
from lags_pack.demo.model import DemoUNet, load_network
from lags_pack.demo.pictures import draw_pictures
from lags_pack.guidance import DifferenceStep, preset
from lags_pack.rewards import ColourReward, FrequencyReward, Reward, Weight
from torch import Tensor

COUNT, STEPS = 8, 12


class Rounded(DemoUNet):
    """The network computing in another dtype, as ComfyUI runs one: inputs cast, outputs back."""

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **_: object) -> Tensor:
        dtype = self.dtype
        return super().forward(x.to(dtype), timesteps, context.to(dtype)).float()


def network(dtype: torch.dtype) -> Rounded:
    rounded = Rounded()
    rounded.load_state_dict(load_network().state_dict())
    rounded = rounded.eval().requires_grad_(False).to(dtype)
    rounded.noise_frequencies = rounded.noise_frequencies.float()
    return rounded


def captured(dtype: torch.dtype, mode: str, weight: Weight, step: DifferenceStep) -> float:
    """The rise of the mean score over the same noise without guidance."""
    net, score, same = network(dtype), weight.terms[0].reward, {"seed": 3, "steps": STEPS}
    plain, _ = draw_pictures(net, COUNT, **same)
    method = preset(mode, difference=step)
    guided, _ = draw_pictures(net, COUNT, **same, method=method, weight=weight)
    return float((score(guided) - score(plain)).mean())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("mode", "reward", "strength"),
    [
        ("balanced", ColourReward("hue", 240.0), 20.0),
        ("balanced", FrequencyReward(0.15, 0.5), 2.0),
        ("paper", ColourReward("brightness"), 400.0),
    ],
)
def test_half_precision_captures_what_float32_does(
    dtype: torch.dtype, mode: str, reward: Reward, strength: float
) -> None:
    """With the default step for the dtype: 0.98 to 1.01 when measured."""
    weight = Weight.of(reward, strength)
    exact = captured(torch.float32, mode, weight, DifferenceStep())
    half = captured(dtype, mode, weight, DifferenceStep(dtype=dtype))
    print(f"{mode} {reward.name} {dtype}: {half / exact:.3f}")
    assert exact > 0
    assert half / exact == pytest.approx(1, abs=0.05)
