"""Bad input is refused in words: the value, what was expected, the remedy; ComfyUI stays usable."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfyui_support.executing import run_node
from comfyui_support.guided import Case, options, rms, vae_like
from comfyui_support.weighing import case_of, demo_case
from lags_pack.guidance import Trace, WeightError
from lags_pack.nodes.weights.simple import LAGSWeightColor, LAGSWeightFrequency
from lags_pack.rewards import ColourReward, FrequencyReward, JpegSizeReward, Reward, Weight
from lags_pack.rewards.masked import masked
from lags_pack.runtime.checks import check_vae
from lags_pack.runtime.page import summary, warn
from torch import Tensor


@pytest.fixture(scope="module")
def case(sd15) -> Case:
    """Good inputs for KSampler (LAGS), to spoil one at a time."""
    return case_of(sd15, 1, 8, strength=5.0, steps=2, sampler_name="euler")


@pytest.fixture
def refused(case) -> Callable[..., str]:
    """The message with which the sampler refuses an input, after which a good run still works."""

    def run(error: type[Exception] = ValueError, **bad: Any) -> str:
        with pytest.raises(error) as caught:
            case.lags(**bad)
        assert torch.isfinite(case.lags()[0]).all()
        return str(caught.value)

    return run


def test_vae_of_another_family(refused):
    message = refused(vae=demo_case(1).vae)
    assert "decodes 3 latent channels" in message and "makes 4" in message
    assert "belongs to the model" in message


def test_vae_of_another_scale(refused, case):
    enlarged = vae_like(case.vae, upscale_ratio=16, spacial_compression_decode=lambda: 16)
    if hasattr(case.model.get_model_object("latent_format"), "spacial_downscale_ratio"):
        assert "16x" in refused(vae=enlarged)
    else:  # This ComfyUI's latents do not say their scale: nothing to compare, nothing refused.
        assert check_vae(enlarged, case.model) is None


def test_no_vae_and_a_video_vae(refused, case):
    assert "Load VAE" in refused(vae=None)
    assert "video" in refused(vae=vae_like(case.vae, latent_dim=3))


@pytest.mark.parametrize(
    ("latent", "word"),
    [
        ({"samples": torch.zeros(1, 4, 3, 8, 8)}, "(1, 4, 3, 8, 8)"),
        ({"samples": torch.zeros(0, 4, 8, 8)}, "empty"),
        ({"samples": NestedTensor([torch.zeros(1, 4, 8, 8)] * 2)}, "nested"),
    ],
)
def test_latents(refused, latent, word):
    assert word in refused(latent_image={"samples": torch.zeros(1, 4, 8, 8), **latent})


LEFT, RIGHT = (
    torch.tensor(row).repeat_interleave(32).repeat(32, 1) for row in ([1.0, 0], [0, 1.0])
)


@pytest.mark.parametrize(
    ("mask", "where"),
    [
        (LEFT[:, ::2], "LLL"),  # of the latents' shape
        (LEFT, "LLL"),
        (LEFT[None, :16], "LLL"),
        (torch.stack([LEFT, RIGHT]), "LRL"),
        (torch.stack([LEFT, RIGHT, RIGHT, LEFT])[:, None], "LRR"),
    ],
)
@pytest.mark.parametrize("sampler", ["lags", "particles"])
def test_masks_of_any_count_and_shape_are_ksamplers(case, mask, where, sampler):
    """One after the other and again from the first, stretched: whatever KSampler makes of them."""
    given = {"samples": torch.ones(3, 4, 8, 8), "noise_mask": mask}
    ways = {"latent_image": given, "sampler_name": "euler_ancestral"}
    for done in (getattr(case, sampler)(**ways), case.ksampler(**ways)):
        samples = done[0] if isinstance(done, tuple) else done
        moved = (samples - 1).abs().amax(dim=1) > 1e-4
        halves = zip(moved[..., :4], moved[..., 4:], strict=True)
        assert "".join(where_painted(*half) for half in halves) == where


def where_painted(left: Tensor, right: Tensor) -> str:
    """L or R where all of that half of an image was painted, and nothing of the other."""
    assert bool(left.all()) != bool(right.all()) and bool(left.any()) != bool(right.any())
    return "L" if bool(left.all()) else "R"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_strength_that_is_no_number(refused, value):
    assert str(value) in refused(strength=value)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("mode", ["balanced", "fast", "paper"])
def test_confidence(refused, value, mode):
    message = refused(c=value, mode=mode)
    assert str(value) in message and "above 0" in message


def test_mode(refused):
    message = refused(mode="turbo")
    assert "turbo" in message and "balanced" in message


class _Broken(Reward):
    name, scale = "broken", "none"

    def __init__(self, result: Callable[[Tensor], Tensor]) -> None:
        self.result = result

    def __call__(self, images: Tensor) -> Tensor:
        return self.result(images)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (lambda i: i.mean(dim=(1, 2, 3)) * math.nan, ("broken", "not finite", "sigma")),
        (lambda i: i.mean(dim=(1, 2, 3)).log() * 0 + math.inf, ("broken", "not finite")),
        (lambda i: i.mean(), ("broken", "()", "one log-weight per sample")),
        (lambda i: i.mean(dim=(2, 3)), ("broken", "(1, 3)")),
        (lambda i: torch.ones(i.shape[0]), ("broken", "no gradient", "particle")),
    ],
)
def test_weight_that_breaks_its_contract(refused, result, words):
    message = refused(WeightError, weight=Weight.of(_Broken(result), 1.0))
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"relative_step": math.nan}, "nan"),
        ({"shift_limit": -1.0}, "-1.0"),
        ({"skip_below": 1.0}, "1.0"),
        ({"schedule": "linear"}, "linear"),
        ({"schedule": "hard gate", "sigma_gate": -2.0}, "-2.0"),
    ],
)
def test_options(refused, changes, word):
    assert word in refused(options=options(**changes))


@pytest.mark.parametrize("schedule", ["auto", "uncertainty", "hard gate", "constant"])
@pytest.mark.parametrize("mode", ["balanced", "fast", "paper"])
def test_every_schedule_runs_in_every_mode(case, schedule, mode):
    dials = {"sigma_gate": 2.0, "skip_below": 0.0, "shift_limit": 0.3, "relative_step": 0.02}
    chosen = options(schedule=schedule, **dials)
    latent, trace = case.lags(options=chosen, mode=mode, steps=3)
    assert torch.isfinite(latent).all()
    second = 0 if mode == "fast" and schedule != "auto" else 1
    assert sum(record.model_calls for record in trace.records) == 3 * (1 + second)
    assert (trace.start is not None) == (mode == "balanced")
    for record in trace.records:
        assert (record.shift_rms <= 0.3 * record.denoised_rms * 1.001).all()


COLOUR = {"attribute": "hue", "hue": 0.0, "colour": "#000000", "strength": 1.0}


@pytest.mark.parametrize(
    ("node", "inputs", "said"),
    [
        (LAGSWeightColor, {**COLOUR, "attribute": "mean colour", "colour": "#zzz"}, "#zzz"),
        (LAGSWeightColor, {**COLOUR, "strength": math.nan}, "nan"),
        (LAGSWeightFrequency, {"low": 0.5, "high": 0.2, "strength": 1.0}, "0.5 to 0.2"),
    ],
)
def test_weight_nodes(node, inputs, said):
    with pytest.raises(ValueError, match=said):
        run_node(node, **inputs)


class Hungry(ColourReward):
    """Has room for `room` images at a time."""

    room = 1
    failed: ClassVar[list[Any]] = []

    def __call__(self, images: Tensor) -> Tensor:
        alive = [ref for ref in self.failed if ref() is not None]
        assert not alive, "the failed attempt still holds its memory"
        if images.shape[0] > self.room:
            self.failed.append(weakref.ref(images))
            raise torch.cuda.OutOfMemoryError("no room")
        return super().__call__(images)


def test_out_of_memory_is_retried_smaller_once_then_told(case, caplog, refused):
    two = {"latent_image": {"samples": torch.zeros(2, 4, 8, 8)}}
    weight = Weight.of(Hungry("hue"), 5.0)
    expected, done, plain = (
        case.lags(**two, **changes)[0] for changes in ({}, {"weight": weight}, {"strength": 0.0})
    )
    same = "the same image up to finite-difference noise"
    assert rms(done - expected) < 0.05 * rms(expected - plain), same
    assert "trying one at a time" in caplog.text
    weight.terms[0].reward.room = 0
    message = refused(torch.cuda.OutOfMemoryError, **two, weight=weight)
    assert "GB" in message and "smaller" in message


def test_the_greatest_seed_is_said_where_comfyuis_noise_cannot_take_it(refused, case):
    greatest = 2**64 - 1
    said = refused(seed=greatest, sampler_name="euler_ancestral")
    assert str(greatest) in said and "choose a smaller seed" in said
    assert torch.isfinite(case.lags(seed=greatest)[0]).all(), "Euler draws no noise and takes it"


@pytest.mark.parametrize(
    ("weight", "strength", "words"),
    [
        (Weight.of(ColourReward("hue"), 30.0), 3.0, ()),
        (Weight.of(ColourReward("hue"), 30.0), -4.0, ("colour (hue)", "is -120,", "5 to 100")),
        (Weight.of(ColourReward("hue"), 20.0, 3.0), 3.0, ()),
        (Weight.of(ColourReward("hue"), 20.0, 3.0), 4.0, ("automatic", "12 nats", "10 is strong")),
    ],
)
@pytest.mark.parametrize("sampler", ["lags", "particles"])
def test_a_strength_above_its_working_range_is_said(case, weight, strength, words, sampler, caplog):
    ways = {"strength": strength, "sampler_name": "euler_ancestral"}
    done = getattr(case, sampler)(weight=weight, **ways)
    notes = [said for said in caplog.messages if "trength of weight" in said and "burns" in said]
    assert len(notes) == bool(words)
    if sampler == "lags":
        assert [note["text"] for note in summary(done[1])["notes"]] == notes
    assert all(word in notes[0] for word in (*words, "Lower one") if words)


@pytest.mark.parametrize(
    ("height", "width", "said"), [(64, 64, False), (61, 64, False), (32, 64, True), (8, 1, True)]
)
@pytest.mark.parametrize("sampler", ["lags", "particles"])
def test_a_mask_that_is_drawn_out_of_shape_is_said(case, height, width, said, sampler, caplog):
    weight = masked(Weight.of(ColourReward("hue"), 30.0), torch.ones(height, width))
    getattr(case, sampler)(weight=weight, sampler_name="euler_ancestral")
    assert (f"is {width} x {height} and the latents are 8 x 8" in caplog.text) == said


def test_warnings_of_one_run_are_not_the_next_ones():
    trace = Trace()
    warn(trace, "too strong")
    trace.clear()
    assert summary(trace)["notes"] == []


def test_ranges_are_those_of_the_tooltips():
    for node, reward in ((LAGSWeightColor, ColourReward), (LAGSWeightFrequency, FrequencyReward)):
        (widget,) = (one for one in node.GET_SCHEMA().inputs if one.id == "strength")
        low, high = reward.working_range
        assert f"Working range {low:g} to {high:g}" in widget.tooltip


def test_a_weight_without_a_gradient_names_who_needs_none(refused):
    said = refused(weight=Weight.of(JpegSizeReward(), 0.1))
    assert "JPEG size" in said and "Particle KSampler (method smc or fk)" in said
