"""Bad input is refused in words: the value, what was expected, the remedy; ComfyUI stays usable."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from lags_pack.guidance import WeightError
from lags_pack.nodes.samplers.ksampler import LAGSKSampler
from lags_pack.nodes.tools.demo import LAGSDemoModel
from lags_pack.nodes.tools.options import LAGSOptions
from lags_pack.nodes.weights.simple import LAGSWeightColor, LAGSWeightFrequency
from lags_pack.rewards import ColourReward, Reward, Weight
from torch import Tensor


@pytest.fixture(scope="module")
def inputs(run_node: Callable[..., Any], sd15: Any) -> dict[str, Any]:
    """A good set of inputs for KSampler (LAGS), to spoil one at a time."""
    return {
        "model": sd15.model,
        "seed": 1,
        "steps": 2,
        "cfg": 2.0,
        "sampler_name": "euler",
        "scheduler": "karras",
        "positive": sd15.positive,
        "negative": sd15.negative,
        "latent_image": sd15.latent(1),
        "denoise": 1.0,
        "vae": sd15.vae,
        "weight": Weight.of(ColourReward("hue"), 5.0),
        "strength": 1.0,
        "mode": "balanced",
        "c": 10.0,
    }


@pytest.fixture
def refused(run_node: Callable[..., Any], inputs: dict[str, Any]) -> Callable[..., str]:
    """The message with which the sampler refuses an input, after which a good run still works."""

    def run(error: type[Exception] = ValueError, **bad: Any) -> str:
        with pytest.raises(error) as caught:
            run_node(LAGSKSampler, **{**inputs, **bad})
        latent, _ = run_node(LAGSKSampler, **inputs)
        assert torch.isfinite(latent["samples"]).all()
        return str(caught.value)

    return run


def test_vae_of_another_family(refused: Callable[..., str], run_node: Callable[..., Any]) -> None:
    demo_vae = run_node(LAGSDemoModel, subject="any", colour="any", batch_size=1)[3]
    message = refused(vae=demo_vae)
    assert "decodes 3 latent channels" in message and "makes 4" in message
    assert "belongs to the model" in message


def test_no_vae(refused: Callable[..., str]) -> None:
    assert "Load VAE" in refused(vae=None)


def test_vae_of_another_scale(refused: Callable[..., str], sd15: Any) -> None:
    class Enlarged:
        def __getattr__(self, name: str) -> Any:
            return 16 if name == "upscale_ratio" else getattr(sd15.vae, name)

        def spacial_compression_decode(self) -> int:
            return 16

    latent = sd15.model.get_model_object("latent_format")
    if not hasattr(latent, "spacial_downscale_ratio"):
        # This ComfyUI's latents do not say their scale: nothing to compare, nothing refused.
        from lags_pack.runtime.checks import check_vae

        assert check_vae(Enlarged(), sd15.model) is None
        return
    assert "16x" in refused(vae=Enlarged())


def test_video_vae(refused: Callable[..., str], sd15: Any) -> None:
    class Video:
        latent_dim = 3

        def __getattr__(self, name: str) -> Any:
            return getattr(sd15.vae, name)

    assert "video" in refused(vae=Video())


@pytest.mark.parametrize(
    ("shape", "word"), [((1, 4, 3, 8, 8), "(1, 4, 3, 8, 8)"), ((0, 4, 8, 8), "empty")]
)
def test_latents(refused: Callable[..., str], shape: tuple[int, ...], word: str) -> None:
    assert word in refused(latent_image={"samples": torch.zeros(shape)})


def test_nested_latents(refused: Callable[..., str]) -> None:
    import comfy.nested_tensor

    nested = comfy.nested_tensor.NestedTensor([torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)])
    assert "nested" in refused(latent_image={"samples": nested})


@pytest.mark.parametrize(
    ("mask", "word"),
    [
        (torch.ones(1, 64, 32), "32x64"),
        (torch.ones(1, 1, 8, 16), "16x8"),
        (torch.ones(3, 64, 64), "3 masks for 1"),
    ],
)
def test_mask_of_another_size(refused: Callable[..., str], mask: Tensor, word: str) -> None:
    samples = torch.zeros(1, 4, 8, 8)
    assert word in refused(latent_image={"samples": samples, "noise_mask": mask})


@pytest.mark.parametrize("mask", [torch.ones(1, 64, 64), torch.ones(64, 64), torch.ones(1, 8, 8)])
def test_masks_that_fit_are_taken(
    run_node: Callable[..., Any], inputs: dict[str, Any], mask: Tensor
) -> None:
    latent = {"samples": torch.zeros(1, 4, 8, 8), "noise_mask": mask}
    done, _ = run_node(LAGSKSampler, **{**inputs, "latent_image": latent})
    assert torch.isfinite(done["samples"]).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_strength_that_is_no_number(refused: Callable[..., str], value: float) -> None:
    assert str(value) in refused(strength=value)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("mode", ["balanced", "fast", "paper"])
def test_confidence(refused: Callable[..., str], value: float, mode: str) -> None:
    message = refused(c=value, mode=mode)
    assert str(value) in message and "above 0" in message


def test_mode(refused: Callable[..., str]) -> None:
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
def test_weight_that_breaks_its_contract(
    refused: Callable[..., str], result: Callable[[Tensor], Tensor], words: tuple[str, ...]
) -> None:
    message = refused(WeightError, weight=Weight.of(_Broken(result), 1.0))
    assert all(word in message for word in words)


def test_options(run_node: Callable[..., Any], refused: Callable[..., str]) -> None:
    good = {
        "schedule": "from mode",
        "sigma_gate": 0.56,
        "skip_below": -1.0,
        "shift_limit": 0.0,
        "relative_step": 0.0,
        "epsilon": 0.0,
    }
    for name, value in (("relative_step", math.nan), ("shift_limit", -1.0), ("skip_below", 1.0)):
        (options,) = run_node(LAGSOptions, **{**good, name: value})
        assert str(value) in refused(options=options)
    (options,) = run_node(LAGSOptions, **{**good, "schedule": "linear"})
    assert "linear" in refused(options=options)
    bad_gate = {**good, "schedule": "hard gate", "sigma_gate": -2.0}
    (options,) = run_node(LAGSOptions, **bad_gate)
    assert "-2.0" in refused(options=options)


@pytest.mark.parametrize("schedule", ["auto", "uncertainty", "hard gate", "constant"])
@pytest.mark.parametrize("mode", ["balanced", "fast", "paper"])
def test_every_schedule_runs_in_every_mode(
    run_node: Callable[..., Any], inputs: dict[str, Any], schedule: str, mode: str
) -> None:
    (options,) = run_node(
        LAGSOptions,
        schedule=schedule,
        sigma_gate=2.0,
        skip_below=0.0,
        shift_limit=0.3,
        relative_step=0.02,
        epsilon=0.0,
    )
    latent, trace = run_node(
        LAGSKSampler, **{**inputs, "options": options, "mode": mode, "steps": 3}
    )
    assert torch.isfinite(latent["samples"]).all()
    second = 0 if mode == "fast" and schedule != "auto" else 1
    assert sum(record.model_calls for record in trace.records) == 3 * (1 + second)
    assert (trace.start is not None) == (mode == "balanced")
    for record in trace.records:
        assert (record.shift_rms <= 0.3 * record.denoised_rms * 1.001).all()


def test_weight_nodes(run_node: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="#zzz"):
        run_node(LAGSWeightColor, attribute="mean colour", hue=0.0, colour="#zzz", strength=1.0)
    with pytest.raises(ValueError, match="0.5 to 0.2"):
        run_node(LAGSWeightFrequency, low=0.5, high=0.2, strength=1.0)
    with pytest.raises(ValueError, match="nan"):
        run_node(LAGSWeightColor, attribute="hue", hue=0.0, colour="#000000", strength=math.nan)


def test_out_of_memory_is_retried_smaller_once_then_told(
    run_node: Callable[..., Any], inputs: dict[str, Any], caplog: Any, refused: Callable[..., str]
) -> None:
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

    two = {"samples": torch.zeros(2, 4, 8, 8)}
    expected, _ = run_node(LAGSKSampler, **{**inputs, "latent_image": two})
    weight = Weight.of(Hungry("hue"), 5.0)
    done, _ = run_node(LAGSKSampler, **{**inputs, "latent_image": two, "weight": weight})
    plain, _ = run_node(LAGSKSampler, **{**inputs, "latent_image": two, "strength": 0.0})
    error = (done["samples"] - expected["samples"]).square().mean().sqrt()
    change = (expected["samples"] - plain["samples"]).square().mean().sqrt()
    assert error < 0.05 * change, "the same image up to finite-difference noise"
    assert "trying one at a time" in caplog.text
    weight.terms[0].reward.room = 0
    message = refused(torch.cuda.OutOfMemoryError, latent_image=two, weight=weight)
    assert "GB" in message and "smaller" in message
