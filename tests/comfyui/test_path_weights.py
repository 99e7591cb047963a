"""Path weights inside ComfyUI: of the steps that its samplers take, and what is said of them."""

from __future__ import annotations

import logging

import pytest
import torch
from lags_pack.guidance import PathWeights
from lags_pack.rewards import ColourReward, Weight
from lags_pack.runtime.page import summary
from lags_pack.tests.comfyui import guided
from lags_pack.tests.comfyui.guided import Case
from lags_pack.tests.comfyui.weighing import case_of

BRIGHT = ColourReward("brightness")


@pytest.fixture(scope="module")
def case(sd15) -> Case:
    return case_of(sd15, batch=4, size=16, steps=6)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "ddpm"])
def test_what_is_left_of_a_step_is_unit_noise(case, sampler, monkeypatch):
    """x' minus the mean that the step is said to have had, over its standard deviation."""
    noises, step = [], PathWeights.step

    def watched(self, x, plain, guided, sigma, keep):
        if self.mean is not None:
            noises.append((x - self.mean) / self.std)
        return step(self, x, plain, guided, sigma, keep)

    monkeypatch.setattr(PathWeights, "step", watched)
    used = guided.options(skip_below=0.0)
    _, trace = case.lags(
        sampler_name=sampler, scheduler="karras", weight=Weight.of(BRIGHT, 20.0), options=used
    )
    assert len(noises) == 5 and all(float(r.shift_rms.max()) > 0 for r in trace.records[1:])
    for noise in noises:
        assert float(noise.square().mean()) == pytest.approx(1, abs=0.1)
    for i, noise in enumerate(noises):
        for other in noises[:i]:
            assert abs(float((noise * other).mean())) < 0.08, "fresh in each step"
    for record in trace.records:
        assert record.log_weights.shape == (4,) and 0.25 <= float(record.ess) <= 1


def test_what_counts_is_told_where_it_is_known(case):
    masked = {**case.settings["latent_image"], "noise_mask": torch.ones(1, 16, 16)}
    for changes in ({"sampler_name": "euler"}, {"latent_image": masked}):
        _, trace = case.lags(weight=Weight.of(BRIGHT, 20.0), **changes)
        assert all(record.log_weights is None and record.ess is None for record in trace.records)
        assert trace.no_sample is None


def test_a_run_says_that_it_is_no_sample(case, caplog):
    with caplog.at_level(logging.INFO):
        _, mild = case.lags(sampler_name="euler_ancestral", weight=Weight.of(BRIGHT, 0.01))
        assert mild.no_sample is None and "no sample" not in caplog.text
        _, strong = case.lags(
            sampler_name="euler_ancestral", weight=Weight.of(BRIGHT, 3000.0), mode="paper"
        )
    assert "are not a sample of w p" in caplog.text
    assert summary(strong)["no_sample"]["text"] == str(strong.no_sample)
    assert summary(mild)["no_sample"] is None
