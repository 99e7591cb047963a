"""What the weight looks through: the same gradient for less memory, and errors that help."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import comfy.latent_formats as formats
import comfy.model_management as mm
import folder_paths
import latent_preview
import numpy as np
import pytest
import torch
from comfy.taesd.taesd import TAESD
from comfyui_support import tiny
from comfyui_support.executing import run_node
from comfyui_support.guided import Case, counted, options, spied, vae_like
from comfyui_support.weighing import case_of, demo_case
from lags_pack.nodes.samplers.search import LAGSSearchSampler
from lags_pack.rewards import ColourReward, FrequencyReward, Reward, Weight
from lags_pack.rewards.checkpoint import CheckpointError
from lags_pack.rewards.encoders import are_layers_kept
from lags_pack.rewards.masked import masked
from lags_pack.runtime import decoded_weight, decoders
from lags_pack.runtime import run as patch
from lags_pack.runtime.decoded_weight import DecodedLogWeight
from lags_pack.runtime.decoders import Decoding, LatentRGBDecoder, TAESDDecoder, VAEDecoder
from lags_pack.runtime.model_files import ModelFileError
from lags_pack.runtime.models import load
from safetensors.torch import save_file
from torch import Tensor

HUE = Weight.of(ColourReward("hue"), 20.0)
SD15 = formats.SD15
Decoded = list[tuple[str, int]]  # by what, and at which height


def latents(batch: int = 2, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(batch, 4, size, size, generator=torch.Generator().manual_seed(seed))


def taesd_weights(seed: int = 5) -> dict[str, Tensor]:
    """A decoder as its author publishes it."""
    prefix = "taesd_decoder."
    weights = tiny._taesd(seed, 1.0)
    return {k[len(prefix) :]: v.clone() for k, v in weights.items() if k.startswith(prefix)}


@pytest.fixture
def approximate(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty models/vae_approx, for this test alone."""
    suffixes = folder_paths.folder_names_and_paths[decoders.APPROXIMATE][1]
    entry = ([str(tmp_path)], suffixes)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, decoders.APPROXIMATE, entry)
    monkeypatch.setattr(decoders, "_said", set())
    folder_paths.filename_list_cache.pop(decoders.APPROXIMATE, None)
    yield tmp_path
    folder_paths.filename_list_cache.pop(decoders.APPROXIMATE, None)


@pytest.fixture
def taesd_there(approximate) -> Path:
    """The same with TAESD for SD1.5 in it."""
    save_file(taesd_weights(), approximate / "taesd_decoder.safetensors")
    return approximate


def choose(name: str, vae: Any, latent_format: Any = None) -> Any:
    latent_format = latent_format or SD15()
    return decoders.choose(name, vae, latent_format, latent_format.process_out)


def loaded(name: str, vae: Any) -> Any:
    """A decoder on the device."""
    made = choose(name, vae)
    load(made.modules, made.patchers)
    return made


# ---- as memory allows -------------------------------------------------------------------------


@pytest.fixture
def attempts(monkeypatch) -> list[tuple[int, bool]]:
    """Every attempt at a gradient: images at once, and whether memory is spared."""

    def note(_: Any, latents: Tensor, rows: int, sparing: bool) -> tuple[int, bool]:
        return rows, sparing

    return spied(monkeypatch, DecodedLogWeight, "_try_in_parts", note)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(4.01, (4, False)), (3.99, (3, True)), (2.01, (2, True)), (0.1, (1, True))],
)
def test_memory_is_spared_only_where_it_is_short(kl_vae, monkeypatch, attempts, share, expected):
    """The share is free memory over what one image takes."""
    weight = DecodedLogWeight(choose("vae", kl_vae), HUE)
    x = latents(4)
    free = share * weight.bytes_per_image(x.shape)
    monkeypatch.setattr(mm, "get_free_memory", lambda *_, **__: free)
    with torch.inference_mode():
        log_w, grad = weight.value_and_grad(x)
    assert attempts == [expected]
    assert log_w.shape == (4,) and grad.shape == x.shape
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize(("room", "kept"), [(1.01, [True]), (0.99, [False])])
def test_large_networks_keep_their_layers_where_there_is_room(kl_vae, monkeypatch, room, kept):
    class Noting(Reward):
        name, scale, modules = "noting", "none", (torch.nn.Identity(),)

        def __call__(self, images: Tensor) -> Tensor:
            found.append(are_layers_kept())
            return images.mean(dim=(1, 2, 3))

    found: list[bool] = []
    weight, x = DecodedLogWeight(choose("vae", kl_vae), Weight.of(Noting(), 1.0)), latents(2)
    layers = 1e9
    monkeypatch.setattr(decoded_weight, "layers_bytes", lambda modules, kept: kept * layers)
    free = 2 * room * weight.bytes_per_image(x.shape, sparing=False)
    monkeypatch.setattr(mm, "get_free_memory", lambda *_, **__: free)
    weight.value_and_grad(x)
    assert found == kept
    assert not are_layers_kept()
    alone = weight.decoder.bytes_per_image(*x.shape[-2:], True)
    assert weight.bytes_per_image(x.shape, sparing=False) == decoded_weight.HELD * alone + layers
    assert weight.bytes_per_image(x.shape) == alone


def test_out_of_memory_is_tried_once_more_and_then_said(kl_vae, monkeypatch, attempts):
    decoder = choose("vae", kl_vae)
    weight = DecodedLogWeight(decoder, HUE)

    def too_much(*_: Any) -> Tensor:
        raise torch.cuda.OutOfMemoryError("no")

    monkeypatch.setattr(decoder, "images", too_much)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"the VAE alone needs about .*taesd"):
        weight.value_and_grad(latents(2))
    assert attempts == [(2, False), (1, True)]


# ---- a VAE with alpha -------------------------------------------------------------------------


def test_the_first_three_channels_are_the_image(kl_vae):
    with torch.inference_mode():
        alpha = tiny.make_kl_vae(colours=4)
        assert alpha.decode(latents(1)).shape[-1] == 4
    plain, with_alpha = (DecodedLogWeight(loaded("vae", vae), HUE) for vae in (kl_vae, alpha))
    for ours, theirs in zip(
        with_alpha.value_and_grad(latents()), plain.value_and_grad(latents()), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("colours", [1, 2, 5])
def test_another_number_of_channels_is_refused_before_the_run(sd15, colours):
    """The VAE's object says 3 all the same: that is what its encoder takes."""
    with torch.inference_mode():
        vae = tiny.make_kl_vae(colours=colours)
    case = case_of(sd15, 1)
    model, calls = counted(case.model)
    searched = partial(run_node, LAGSSearchSampler, rounds=1, neighbours=1, radius=0.0)
    inputs = {"vae": vae, "model": model}
    for run in (
        case.lags,
        case.advanced,
        case.particles,
        partial(searched, weight=HUE, **case.settings),
    ):
        with pytest.raises(ValueError, match=f"decodes to {colours} channels; expected.* 3"):
            run(**inputs)
    assert not calls
    with pytest.raises(ValueError, match="decodes to 2 channels"):
        case.lags(vae=vae_like(case.vae, output_channels=2))  # as a VAE for sound says


# ---- TAESD ------------------------------------------------------------------------------------


def test_taesd_shows_what_comfyuis_own_shows(kl_vae, taesd_there):
    made = loaded("taesd", kl_vae)
    assert isinstance(made, TAESDDecoder) and made.cell == 8
    own = TAESD(None, str(taesd_there / "taesd_decoder.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(made.images(latents()), (own.decode(latents()) + 1) / 2)


def test_taesd_has_a_gradient_in_the_executors_mode(kl_vae, taesd_there, executor_mode):
    made = loaded("taesd", kl_vae)
    log_w, grad = DecodedLogWeight(made, HUE).value_and_grad(latents(1))
    with torch.inference_mode(False), torch.enable_grad():
        leaf = latents(1).requires_grad_()
        expected = HUE(made.images(leaf))
        (pulled,) = torch.autograd.grad(expected.sum(), leaf)
    torch.testing.assert_close(log_w, expected.detach())
    torch.testing.assert_close(grad, pulled, rtol=1e-4, atol=1e-5)


def test_safetensors_come_first_and_tensors_in_a_pth_are_read(kl_vae, approximate):
    torch.save(taesd_weights(6), approximate / "taesd_decoder.pth")
    first = choose("taesd", kl_vae).net
    save_file(taesd_weights(7), approximate / "taesd_decoder.safetensors")
    folder_paths.filename_list_cache.pop(decoders.APPROXIMATE, None)
    second = choose("taesd", kl_vae).net
    for net, seed in ((first, 6), (second, 7)):
        torch.testing.assert_close(net.state_dict()["1.weight"], taesd_weights(seed)["1.weight"])


def test_a_pickle_is_refused(kl_vae, approximate):
    torch.save({"1.weight": Case}, approximate / "taesd_decoder.pth")
    with pytest.raises(CheckpointError, match="more than tensors"):
        choose("taesd", kl_vae)


def test_a_missing_file_says_where_it_comes_from(kl_vae, approximate):
    with pytest.raises(ModelFileError) as caught:
        choose("taesd", kl_vae)
    for word in (str(approximate), "taesd_decoder.safetensors", "https://github.com/"):
        assert word in str(caught.value)


class Wide(SD15):
    """Latents for which no TAESD of 4 channels is."""

    latent_channels = 16


PLAIN = formats.LatentFormat


@pytest.mark.parametrize(
    ("name", "latent_format", "said"),
    [
        ("taesd", Wide, "4 latent channels and the model makes 16"),
        ("taesd", PLAIN, "none is trained.*LatentFormat"),
        ("latent-rgb", PLAIN, "LatentFormat.*choose"),
    ],
)
def test_latents_that_a_decoder_cannot_take_are_refused(
    kl_vae, taesd_there, name, latent_format, said
):
    with pytest.raises(ModelFileError if latent_format is Wide else ValueError, match=said):
        choose(name, kl_vae, latent_format())


# ---- latent-rgb -------------------------------------------------------------------------------


@pytest.mark.parametrize("latent_format", [SD15(), formats.SDXL()])
def test_latent_rgb_is_comfyuis_preview(kl_vae, latent_format):
    preview = latent_preview.Latent2RGBPreviewer(
        latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
    )
    x = 0.3 * latents(1)
    picture = torch.from_numpy(np.array(preview.decode_latent_to_preview(x))).flatten(0, 1)
    made = choose("latent-rgb", kl_vae, latent_format).images(x)
    ours = made.clamp(0, 1).mul(255).to(torch.uint8)[0].flatten(1).T
    assert made.shape == (1, 3, 8, 8)
    assert int((ours.int() - picture.int()).abs().max()) <= 1  # rounding


# ---- which one --------------------------------------------------------------------------------


def test_auto_takes_taesd_where_its_file_is(kl_vae, taesd_there):
    assert isinstance(choose("auto", kl_vae), TAESDDecoder)


@pytest.mark.parametrize("latent_format", [formats.SD15, formats.Flux2])
def test_latent_rgb_knows_how_many_pixels_a_cell_has(latent_format):
    """Flux 2 packs four of them into a cell: half of the size was said, and twice was decoded."""
    decoder = LatentRGBDecoder(latent_format())
    latents = torch.zeros(1, latent_format.latent_channels, 6, 4)
    height, width = decoder.images(latents).shape[-2:]
    assert (height, width) == (6 * decoder.cell, 4 * decoder.cell)


SPACES = [
    *(formats.SD15, formats.SDXL, formats.SD3, formats.Flux),
    *(formats.SDXL_Playground_2_5, formats.Wan21, formats.HunyuanVideo, formats.Flux2),
]


@pytest.mark.parametrize("latent_format", SPACES)
def test_taesd_shows_latents_of_the_space_it_was_trained_in_alone(
    kl_vae, approximate, latent_format
):
    """Formats whose latents have another mean or scale may share its file's name, for previews."""
    name = latent_format().taesd_decoder_name
    shapes = TAESD(latent_channels=latent_format.latent_channels).taesd_decoder.state_dict()
    save_file(tiny._random_weights(shapes, 5), approximate / f"{name}.safetensors")
    ours = name is not None and latent_format not in (
        *(formats.SDXL_Playground_2_5, formats.Wan21, formats.HunyuanVideo),
    )
    chosen = choose("auto", kl_vae, latent_format())
    assert isinstance(chosen, TAESDDecoder if ours else VAEDecoder)
    if not ours:
        with pytest.raises(ValueError, match=f"none is trained.*{latent_format.__name__}"):
            choose("taesd", kl_vae, latent_format())


class Rescaled(SD15):
    """Another pack's format with a scale of its own."""

    def __init__(self) -> None:
        super().__init__(scale_factor=0.2)


def test_a_format_of_another_pack_counts_by_its_own_scale(kl_vae, taesd_there):
    assert isinstance(choose("auto", kl_vae, Rescaled()), VAEDecoder)


def test_auto_says_once_that_it_takes_the_vae(kl_vae, approximate, caplog):
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert isinstance(choose("auto", kl_vae), VAEDecoder)
    (said,) = [r.getMessage() for r in caplog.records if "taesd_decoder" in r.getMessage()]
    assert str(approximate) in said


def test_auto_keeps_a_vae_that_is_small_already(sd15, taesd_there):
    assert isinstance(choose("auto", sd15.vae), VAEDecoder)
    case = demo_case()
    latent_format = case.model.get_model_object("latent_format")
    assert isinstance(choose("auto", case.vae, latent_format), VAEDecoder)


@pytest.mark.parametrize(("name", "value"), [("decoder", "best"), ("side", -2)])
def test_choices_are_checked(name, value):
    with pytest.raises(ValueError, match=repr(value)):
        Decoding(**{name: value})


def test_the_paper_looks_through_the_vae_at_full_size_unless_told(kl_vae):
    assert Decoding().faithful() == Decoding("vae", 0)
    assert Decoding("taesd", 512).faithful() == Decoding("taesd", 512)


# ---- sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "cell", "side", "expected"),
    [
        *(((128, 128), 8, 448, (56, 56)), ((128, 192), 8, 448, (56, 84))),
        *(((96, 128), 8, 450, (57, 76)), ((128, 128), 8, 0, (128, 128))),
        *(((128, 128), 8, 1024, (128, 128)), ((128, 128), 8, 4096, (128, 128))),
        *(((128, 128), 1, 100, (100, 100)), ((4, 400), 8, 1, (1, 100))),
    ],
)
def test_sizes(size, cell, side, expected):
    assert decoders.shrunk_size(*size, cell, side) == expected


def test_the_weights_need_is_the_default_size():
    both = Weight((*HUE.terms, *Weight.of(FrequencyReward(0.1, 0.3), 1.0).terms))
    assert Decoding().side_for(HUE) == 256
    assert Decoding().side_for(both) == 0
    assert Decoding(side=0).side_for(HUE) == 0
    assert Decoding(side=100).side_for(both) == 100


@pytest.mark.parametrize("name", ["vae", "latent-rgb"])
def test_the_gradient_passes_through_the_smaller_picture(kl_vae, name):
    """Against a difference of log w along the gradient."""
    decoder = loaded(name, kl_vae)
    weight = DecodedLogWeight(decoder, HUE, side=4 * decoder.cell)
    x = latents(2)
    assert weight.decoded_size(x.shape) == (4 * decoder.cell,) * 2
    log_w, grad = weight.value_and_grad(x)
    with torch.inference_mode():
        torch.testing.assert_close(weight(x), log_w)
        along = grad / grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        h = 0.05
        slope = (weight(x + h * along) - weight(x - h * along)) / (2 * h)
    torch.testing.assert_close(slope, grad.flatten(1).norm(dim=1), rtol=0.02, atol=1e-4)


def test_a_masked_weight_stays_right_when_decoded_small(kl_vae):
    """The same score within a tenth, and nothing asked of cells far from the mask."""
    mask = torch.zeros(256, 256)
    mask[64:192, 128:256] = 1
    weight = masked(HUE, mask)
    smooth = torch.nn.functional.interpolate(latents(1, 4), (128, 128), mode="bicubic")
    decoder = loaded("latent-rgb", kl_vae)
    found = [DecodedLogWeight(decoder, weight, side).value_and_grad(smooth) for side in (0, 64)]
    (full, _), (small, grad) = found
    torch.testing.assert_close(small, full, rtol=0.1, atol=0)
    inside, outside = grad[..., 32:96, 64:], grad[..., :56]
    assert float(inside.abs().max()) > 0
    assert float(outside.abs().max()) == 0


# ---- in a run ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [("taesd", 56), ("latent-rgb", 16)])
def test_a_masked_weight_decodes_its_own_part(kl_vae, taesd_there, monkeypatch, name, size):
    """As exactly as the whole image would, in less of it."""
    decoder = loaded(name, kl_vae)
    side, cell = decoder.cell * size, decoder.cell
    mask = torch.zeros(side, side)
    mask[side // 3 : side // 3 + 3 * cell, side - 2 * cell :] = 1
    shown = spied(monkeypatch, type(decoder), "images", lambda _, x: tuple(x.shape[-2:]))
    weight = DecodedLogWeight(decoder, masked(HUE, mask))
    z = latents(2, size)
    part, its_bytes = weight.value_and_grad(z), weight.bytes_per_image(z.shape)
    assert torch.equal(weight(z), part[0])
    decoder.receptive_field = None
    whole, all_bytes = weight.value_and_grad(z), weight.bytes_per_image(z.shape)
    assert float(whole[1].abs().max()) > 0
    for one, other in zip(part, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))
    (first, *_, last) = shown
    assert last == (size, size) and first[0] * first[1] < 0.65 * size * size
    assert its_bytes == pytest.approx(all_bytes * first[0] * first[1] / size**2)


def test_the_receptive_field_of_taesd(kl_vae, taesd_there):
    """Not one cell further than is decoded around a part."""
    decoder, size, around = loaded("taesd", kl_vae), 43, decoders.TAESD_RECEPTIVE_FIELD
    leaf = latents(1, size).requires_grad_()
    middle = 8 * (size // 2)
    decoder.images(leaf)[..., middle : middle + 8, middle : middle + 8].sum().backward()
    touched = leaf.grad.abs().sum(dim=(0, 1)).sum(dim=0).nonzero()
    assert size // 2 - around <= int(touched.min()) and int(touched.max()) <= size // 2 + around
    assert int(touched.max()) - int(touched.min()) >= 2 * around - 4, "and hardly less"


def test_the_vae_decodes_all_of_it_for_a_part(kl_vae):
    mask = torch.zeros(64, 64)
    mask[:8, :8] = 1
    weight = DecodedLogWeight(VAEDecoder(kl_vae, SD15().process_out), masked(HUE, mask))
    assert weight._part(8, 8) == (0, 8, 0, 8)


@pytest.fixture
def case(sd15, kl_vae) -> Case:
    """The tiny SD1.5 with a VAE of the real kind."""
    return replace(case_of(sd15, batch=2, size=8), vae=kl_vae)


@pytest.mark.parametrize("decoder", ["vae", "taesd", "latent-rgb"])
@pytest.mark.parametrize("mode", ["balanced", "paper"])
def test_a_run_moves_what_its_decoder_shows(case, taesd_there, decoder, mode):
    made = loaded(decoder, case.vae)
    plain = case.ksampler()
    chosen = options(decoder=decoder)
    guided, trace = case.lags(weight=HUE, mode=mode, options=chosen)
    with torch.inference_mode():
        to_model = SD15().process_in
        gain = [HUE(made.images(made.own_latents(to_model(x.float())))) for x in (plain, guided)]
    if mode == "paper":
        assert (gain[1] > gain[0]).all()
    else:  # a random network is no posterior mean: seen at each step, not at the end
        assert all((r.actual_gain > 0).all() for r in trace.records if r.active)
    assert trace.weight_calls > 0


@pytest.fixture
def seen(monkeypatch) -> Decoded:
    """Every decode of a run."""
    noted: Decoded = []
    for kind in (VAEDecoder, TAESDDecoder, LatentRGBDecoder):
        own = kind.images

        def note(self: Any, x: Tensor, own: Any = own) -> Tensor:
            images = own(self, x)
            if not images.is_meta:  # the cost is counted on shapes alone
                noted.append((self.name, images.shape[-2]))
            return images

        monkeypatch.setattr(kind, "images", note)
    return noted


@pytest.mark.parametrize("mode", ["balanced", "fast", "paper"])
def test_nothing_is_decoded_twice(case, taesd_there, seen, mode):
    """One decode for each evaluation of the weight, the first noise's among them."""
    _, trace = case.lags(weight=HUE, mode=mode)
    assert len(seen) == trace.weight_calls + trace.value_calls > 0
    assert {name for name, _ in seen} == {"the VAE" if mode == "paper" else "TAESD"}


def test_an_automatic_strength_uses_the_same_decoder(case, taesd_there, seen):
    weight = Weight.of(ColourReward("hue"), 1.0, spread=2.0)
    _, trace = case.lags(weight=weight)
    assert {name for name, _ in seen} == {"TAESD"}
    assert len(seen) == trace.weight_calls + trace.value_calls, "nor is anything decoded twice"


def test_the_size_is_passed_on(case, seen):
    case.lags(weight=HUE, options=options(decoder="vae", decode_size=32))
    assert {height for _, height in seen} == {32}


def test_the_vae_stays_where_it_is_when_taesd_is_used(case, taesd_there, monkeypatch):
    calls = spied(monkeypatch, mm, "load_models_gpu", lambda models, *_, **__: list(models))
    case.lags(weight=HUE)
    asked = [model for models in calls for model in models]
    assert not [model for model in asked if model is case.vae.patcher]
    assert [model for model in asked if getattr(model, "model", None) is not None]


def test_memory_is_said_before_the_run_and_asked_for(case, monkeypatch, caplog):
    asked = spied(monkeypatch, patch, "load", lambda modules, beside, memory: memory)
    with caplog.at_level(logging.INFO):
        case.lags(weight=HUE, mode="paper")
    (line,) = [r.getMessage() for r in caplog.records if "the weight sees" in r.getMessage()]
    decoder = choose("vae", case.vae)
    needed, value = (decoder.bytes_per_image(8, 8, gradient) for gradient in (True, False))
    assert "the VAE at 64x64" in line
    assert f"{needed / 2**30:.2f} GB an" in line and f"value {value / 2**30:.2f} GB" in line
    assert value < needed and max(asked) >= needed


def test_a_missing_taesd_is_said_before_sampling(case, approximate):
    with pytest.raises(ModelFileError, match="taesd_decoder"):
        case.lags(weight=HUE, options=options(decoder="taesd"))
