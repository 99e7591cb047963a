"""What a run costs, counted before it by the networks' shapes, is what the run then computes."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from comfyui_support.executing import run_node
from comfyui_support.guided import Case, on, options, state_of
from comfyui_support.tiny import make_kl_vae, make_qwen
from comfyui_support.weighing import case_of, demo_case
from lags_pack.guidance import DPS, MPGD, FreeDoM, LiDAR
from lags_pack.nodes.tools.schedule import LAGSScheduleVisualizer
from lags_pack.rewards import ColourReward, FunctionReward, Weight
from lags_pack.rewards.encoders import layers_bytes
from lags_pack.rewards.masked import masked
from lags_pack.runtime import lookahead
from lags_pack.runtime.decoded_weight import DecodedLogWeight
from lags_pack.runtime.decoders import Decoding, VAEDecoder, decoder_of
from lags_pack.runtime.page_plan import schedule
from lags_pack.runtime.price import Count, Price, price_of
from lags_pack.runtime.sampling import SamplerInputs, sample_guided
from lags_pack.tests import reward_table
from torch import Tensor

HUE = Weight.of(ColourReward("hue", 0.0), 5.0)
METHODS = (DPS(), FreeDoM(), LiDAR(count=3, steps=2), MPGD())
RUN = {"sampler_name": "euler", "scheduler": "karras", "steps": 4, "cfg": 2.0}
LOOK = {"axis": "step", "theme": "light", "scale": 0.25, "compare": "", "nats": 3.0}


class Computed(Count):
    """Of real runs, in inference mode too: what is made of other operations counts as those."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        with self:
            parts = function.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        return super().__torch_dispatch__(function, types, args, kwargs)


def computed(run: Any) -> float:
    with Computed() as count:
        run()
    return count.flop


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Weight:
    folder = tmp_path_factory.mktemp("clip")
    weight = Weight.of(reward_table.clip_score(folder, torch.float32)("a red cat"), 20.0)
    layers_bytes(weight.modules, True)  # by a forward of shapes alone, once: no run computes it
    return weight


@pytest.fixture(scope="module")
def cases(sd15, sdxl, clip) -> dict[str, Case]:
    """With the class of the real VAE, and a network in the weight."""
    vae = make_kl_vae()
    made = {name: case_of(one, 1, 10, **RUN) for name, one in (("sd15", sd15), ("sdxl", sdxl))}
    return {name: replace(case, vae=vae) for name, case in made.items()}


@pytest.fixture
def case(request, cases) -> Case:
    return cases[getattr(request, "param", "sd15")]


def looked(case: Case, weight: Weight, name: str = "vae", side: int = 64) -> DecodedLogWeight:
    return DecodedLogWeight(decoder_of(Decoding(name), case.vae, case.model), weight, side)


def latents(case: Case) -> Tensor:
    shape = case.settings["latent_image"]["samples"].shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@on("sd15", "sdxl")
def test_a_gradient_and_a_value_are_counted_as_they_compute(case, clip):
    x, log_weight = latents(case), looked(case, clip)
    before = state_of(case.vae.first_stage_model)
    price = price_of(case.model, log_weight, x.shape)
    assert state_of(case.vae.first_stage_model) == before
    assert price.weight.forward > 0 and price.looks == "the VAE at 64x64"
    look = price.decoder + price.weight
    assert computed(lambda: log_weight.value_and_grad(x)) == pytest.approx(look.both, rel=1e-6)
    with torch.inference_mode():
        assert computed(lambda: log_weight(x)) == pytest.approx(look.forward, rel=1e-6)


def test_a_masked_weight_is_counted_by_the_part_that_it_sees(case, clip):
    mask = torch.zeros(96, 96)
    mask[:32, :32] = 1
    x, log_weight = latents(case), looked(case, masked(clip, mask), side=0)
    price = price_of(case.model, log_weight, x.shape)
    assert price.weight.forward > 0
    found = computed(lambda: log_weight.value_and_grad(x))
    assert found == pytest.approx((price.decoder + price.weight).both, rel=1e-6)


@pytest.mark.parametrize(
    ("mode", "cfg"), [("balanced", 2.0), ("balanced", 1.0), ("fast", 2.0), ("paper", 1.0)]
)
def test_a_run_costs_what_was_promised(case, clip, mode, cfg, monkeypatch):
    # The decoder's trial by a small image, once a run, is much beside images as small as these.
    monkeypatch.setattr(VAEDecoder, "check", lambda self: None)
    asked = {**case.settings, "mode": mode, "c": 10.0, "strength": 1.0, "cfg": cfg, "method": None}
    inputs = {**asked, "model": case.model, "vae": case.vae, "weight": clip, "options": None}
    with torch.inference_mode():
        sample_guided(SamplerInputs(**inputs), f"{mode} {cfg}")  # all is counted once
        guided = computed(lambda: sample_guided(SamplerInputs(**inputs), None))
    plain = computed(lambda: case.ksampler(cfg=cfg))
    told = schedule({**asked, "node": f"{mode} {cfg}"})
    assert told["is_priced"]
    assert told["relative_cost"] == pytest.approx(guided / plain, rel=1e-3)


@on("sd15", "sdxl")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_another_method_costs_what_the_console_said(case, clip, method, monkeypatch, caplog):
    """Backward passes through the model, time travel and quick images too."""
    monkeypatch.setattr(VAEDecoder, "check", lambda self: None)
    caplog.set_level(logging.INFO)
    asked = {"weight": clip, "method": method, "sampler_name": "euler_ancestral"}
    with torch.inference_mode():
        case.lags(**asked)  # all is counted once
        lookahead.cached.clear()
        guided = computed(lambda: case.lags(**asked))
    said = [r.getMessage() for r in caplog.records if "x plain sampling" in r.getMessage()][-1]
    told = float(said.split(" x plain")[0].split()[-1])
    # A backward pass is taken for two forwards: attention takes more, and layers outside of blocks,
    # which are much of a network as small as these, are not computed again.
    assert told == pytest.approx(guided / computed(case.ksampler), rel=0.15)


def test_the_console_the_visualizer_and_the_panel_say_the_same(case, clip, caplog):
    caplog.set_level(logging.INFO)
    case.lags(weight=clip)
    (line,) = [r.getMessage() for r in caplog.records if "x plain sampling" in r.getMessage()]
    given = {**RUN, **LOOK, "model": case.model, "denoise": 1.0, "mode": "balanced", "c": 10.0}
    sockets = {"vae": case.vae, "latent_image": case.settings["latent_image"]}
    _, _, text = run_node(LAGSScheduleVisualizer, **given, **sockets, weight=clip)
    said = text.splitlines()[1]
    assert "the model, " in said and line == f"LAGS: {said}."
    _, _, alone = run_node(LAGSScheduleVisualizer, **given)
    assert "plain sampling, plus " in alone


def test_at_cfg_1_a_second_evaluation_is_a_whole_one(case):
    given = {**RUN, **LOOK, "model": case.model, "denoise": 1.0, "mode": "balanced", "c": 10.0}
    texts = [run_node(LAGSScheduleVisualizer, **{**given, "cfg": cfg})[2] for cfg in (8.0, 1.0)]
    two, one = (float(text.split(" x plain")[0].split()[-1]) for text in texts)
    assert one > two + 0.3


def test_the_options_decoder_is_the_one_that_is_counted(case, clip):
    given = {**RUN, **LOOK, "model": case.model, "denoise": 1.0, "mode": "balanced", "c": 10.0}
    sockets = {"vae": case.vae, "latent_image": case.settings["latent_image"], "weight": clip}
    chosen = options(decoder="latent-rgb")
    _, _, text = run_node(LAGSScheduleVisualizer, **given, **sockets, options=chosen)
    assert "through latent-rgb at 10x10" in text


@pytest.mark.parametrize(
    ("made", "shape"),
    [(make_qwen, (1, 16, 1, 32, 32)), (lambda: demo_case(1), (1, 3, 32, 32))],
    ids=["qwen", "demo"],
)
def test_other_families(made, shape):
    found = made()
    decoder = decoder_of(Decoding("vae"), found.vae, found.model)
    price = price_of(found.model, DecodedLogWeight(decoder, HUE), shape)
    assert isinstance(price, Price) and price.branch > 0 and price.weight.forward == 0


def test_what_cannot_be_counted_is_said_and_not_run(case, caplog):
    caplog.set_level(logging.INFO)
    calls = []

    def warmth(images: Tensor) -> Tensor:
        calls.append(images)
        return images.mean(dim=(1, 2, 3))

    weight = Weight.of(FunctionReward(warmth), 1.0)
    assert price_of(case.model, looked(case, weight), latents(case).shape) is None
    assert calls == [] and "'warmth' is a function of another pack" in caplog.text


@pytest.mark.parametrize("lacking", ["vae", "model"])
def test_a_weight_needs_model_and_vae(case, lacking):
    levels = torch.tensor([10.0, 1.0, 0.0])
    sockets = {"model": case.model, "vae": case.vae, "sigmas": levels, "weight": HUE}
    sockets[lacking] = None
    with pytest.raises(ValueError, match=f"A weight is connected, and {lacking} not"):
        run_node(
            LAGSScheduleVisualizer,
            **{**RUN, **LOOK, "denoise": 1.0, "mode": "fast", "c": 10.0},
            **{name: one for name, one in sockets.items() if one is not None},
        )
