"""The scene model: what is drawn and said, the networks, and how training resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lags_pack.demo.scenes.captions import ONE, TWO, caption, random_captions
from lags_pack.demo.scenes.compose import SIZE, Labels, draw, random_labels
from lags_pack.demo.scenes.diffusion import sigma_to_timestep, training_sigmas, v_denoised
from lags_pack.demo.scenes.fast_norm import group_norm_silu
from lags_pack.demo.scenes.small_decoder import small_decoder
from lags_pack.demo.scenes.subjects import (
    COLOUR_WORDS,
    WORDS,
    held_out_colour,
    held_out_pair,
)
from lags_pack.demo.scenes.text import TOKENS, SceneTextEncoder, split_words, tokenize
from lags_pack.demo.scenes.training import preference
from lags_pack.demo.scenes.training.clip_files import byte_pairs, load_tokenizer, words
from lags_pack.demo.scenes.training.latents import fingerprint, normalise
from lags_pack.demo.scenes.training.muon import orthogonal
from lags_pack.demo.scenes.training.preference import (
    blur,
    scenes_for,
    subjects_shown,
    with_one_missing,
)
from lags_pack.demo.scenes.training.small_decoder import latent_to_rgb
from lags_pack.demo.scenes.training.trainer import Plan, Trainer, learning_rate, save_half
from lags_pack.demo.scenes.unet import SceneUNet
from lags_pack.demo.scenes.vae import SceneVAE
from torch import Tensor, nn
from torch.nn import functional as F


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def sprites() -> Tensor:
    """Discs in place of emoji: premultiplied RGB and alpha."""
    axis = torch.linspace(-1, 1, 32)
    disc = ((axis[:, None] ** 2 + axis**2) < 0.8).float()
    colour = torch.rand(len(WORDS), 3, 1, 1, generator=generator())
    return torch.cat([colour * disc, disc.expand(len(WORDS), 1, 32, 32)], dim=1)


# ---- scenes and captions ----------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [False, True])
def test_training_never_draws_a_held_out_combination(held_out: bool) -> None:
    labels = random_labels(500, generator(), held_out)
    for first, second, colour in torch.stack(list(labels), 1).tolist():
        found = held_out_colour(first, colour)
        if second >= 0:
            assert first != second
            found |= held_out_colour(second, colour) or held_out_pair(first, second)
        assert found == held_out


def test_held_out_pairs_do_not_hang_on_the_order() -> None:
    numbers = range(len(WORDS))
    assert all(held_out_pair(s, t) == held_out_pair(t, s) for s in numbers for t in numbers)
    share = sum(held_out_pair(s, t) for s in numbers for t in numbers) / len(WORDS) ** 2
    assert 0.05 < share < 0.4


def test_every_subject_and_colour_is_drawn() -> None:
    labels = random_labels(3000, generator())
    assert labels.first.unique().numel() == len(WORDS)
    assert labels.colour.unique().numel() == len(COLOUR_WORDS)


def test_scenes_follow_from_the_seed(sprites: Tensor) -> None:
    labels = random_labels(4, generator())
    one, same, other = (draw(labels, sprites, generator(seed)) for seed in (1, 1, 2))
    assert one.shape == (4, 3, SIZE, SIZE) and 0 <= one.min() and one.max() <= 1
    assert torch.equal(one, same) and not torch.allclose(one, other)


def test_a_subject_lies_over_its_background(sprites: Tensor) -> None:
    labels = random_labels(16, generator())
    empty = torch.zeros_like(sprites)
    changed = draw(labels, sprites, generator(3)) != draw(labels, empty, generator(3))
    share = changed.any(1).float().mean((1, 2))
    assert (share > 0.03).all() and (share < 0.8).all()


def test_captions_are_in_the_vocabulary_and_fit() -> None:
    for wording in range(len(ONE)):
        for scene in [(0, -1, 0), (18, 29, 6), (29, 18, 9)]:
            text = caption(*scene, wording)
            numbers, unknown = split_words(text)
            assert not unknown and len(numbers) <= TOKENS - 2, text
    assert len(ONE) == len(TWO)
    assert caption(WORDS.index("apple"), -1, 0, 2) == "a picture of an apple on red"


def test_random_captions_name_what_is_there() -> None:
    labels = random_labels(64, generator())
    for text, first in zip(random_captions(labels, generator()), labels.first, strict=True):
        assert WORDS[first] in text


def test_unknown_words_are_named() -> None:
    assert split_words("kittens and donuts") == split_words("cat and doughnut")
    numbers, unknown = split_words("Two Cats, a zebra on GRAY (zebra) and Götterbote!")
    assert unknown == ["two", "zebra", "götterbote"]
    assert numbers == split_words("cat a on grey and")[0]


def test_tokens_have_one_length() -> None:
    tokens = tokenize(["", "cat " * 50])
    assert tokens.shape == (2, TOKENS)
    encoder = SceneTextEncoder()
    assert encoder(tokens).shape[:2] == (2, TOKENS)


def test_padding_changes_no_word() -> None:
    encoder = SceneTextEncoder().eval()
    tokens = tokenize(["a cat on red"])
    assert torch.allclose(encoder(tokens)[:, :6], encoder(tokens[:, :6]), atol=1e-5)


# ---- networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [True, False])
def test_fast_norm_is_group_norm(act: bool) -> None:
    norm = nn.GroupNorm(4, 8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (3 * torch.randn(2, 8, 5, 6, generator=generator()) + 1).requires_grad_()
    ours, theirs = group_norm_silu(norm, x, act), F.silu(norm(x)) if act else norm(x)
    assert torch.allclose(ours, theirs, atol=1e-5)
    upstream = torch.randn(x.shape, generator=generator(1))
    wanted = [x, norm.weight, norm.bias]
    pairs = zip(*(torch.autograd.grad(y, wanted, upstream) for y in (ours, theirs)), strict=True)
    assert all(torch.allclose(a, b, atol=2e-4) for a, b in pairs)


def test_sizes() -> None:
    for network, most in ((SceneVAE(), 1.8e6), (SceneUNet(), 2.6e6), (SceneTextEncoder(), 0.3e6)):
        assert sum(value.numel() for value in network.parameters()) < most
    assert sum(value.numel() for value in small_decoder().parameters()) < 0.2e6


def test_normalised_latents_decode_to_the_same_images() -> None:
    torch.manual_seed(0)
    vae = SceneVAE().eval().requires_grad_(False)
    images = torch.rand(4, 3, 32, 32)
    before = vae.decode(vae.encode(images))
    normalise(vae, images)
    z = vae.encode(images)
    assert torch.allclose(z.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(z.std((0, 2, 3)), torch.ones(4), atol=1e-4)
    assert torch.allclose(vae.decode(z), before, atol=1e-3)


def test_latents_belong_to_an_encoder_not_to_a_decoder(tmp_path: Path) -> None:
    vae, path = SceneVAE(), tmp_path / "vae.safetensors"
    marks = []
    for part in (vae.decoder.mid, vae.decoder.conv_out, vae.encoder.conv_in):
        with torch.no_grad():
            next(part.parameters()).mul_(2)
        save_half(vae.state_dict(), path)
        marks.append(fingerprint(path))
    assert marks[0] == marks[1] != marks[2]


def test_v_prediction_gives_back_what_is_there() -> None:
    """A network that knows v, by its definition, denoises exactly at every noise level."""
    x0, noise = torch.randn(2, 3, 4, 4, 4, generator=generator()).unbind(0)
    sigma = torch.tensor([0.05, 1.0, 14.0])
    wide = sigma.view(-1, 1, 1, 1)
    cos, sin = 1 / (1 + wide**2).sqrt(), wide / (1 + wide**2).sqrt()

    class Perfect(nn.Module):
        def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
            assert torch.allclose(x, cos * x0 + sin * noise, atol=1e-5)
            return cos * noise - sin * x0

    found = v_denoised(Perfect(), x0 + wide * noise, sigma, sigma, sigma)
    assert torch.allclose(found, x0, atol=1e-4)


def test_timesteps_of_the_training_sigmas() -> None:
    sigmas = training_sigmas()
    assert sigmas[0] == pytest.approx(0.0292, abs=1e-3)
    assert sigmas[-1] == pytest.approx(14.61, abs=0.01)
    assert torch.equal(sigma_to_timestep(sigmas * 1.001, sigmas), torch.arange(1000))


def test_latent_to_rgb_finds_a_linear_map() -> None:
    latents = torch.randn(8, 4, 4, 4, generator=generator())
    factors, bias = torch.randn(4, 3, generator=generator(1)), torch.tensor([0.1, 0.2, 0.3])
    colours = torch.einsum("bchw,cr->brhw", latents, factors) + bias.view(3, 1, 1)
    images = F.interpolate((colours + 1) / 2, scale_factor=8, mode="nearest")
    found = latent_to_rgb(latents, images)
    assert torch.allclose(found[0], factors, atol=1e-4) and torch.allclose(
        found[1], bias, atol=1e-4
    )


# ---- scorers ----------------------------------------------------------------------------------


def test_every_word_is_one_token_of_the_scorer(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tmp_path)
    assert all(len(tokenizer(word)["input_ids"]) == 3 for word in words())
    assert len(byte_pairs(["aba", "ab"])) == 3


def test_share_of_the_subjects_shown() -> None:
    asked = random_labels(1, generator())._replace(
        first=torch.tensor([3]), second=torch.tensor([5])
    )
    for shown, share in (((5, 3), 1.0), ((5, 7), 0.5), ((1, -1), 0.0)):
        scene = asked._replace(first=torch.tensor([shown[0]]), second=torch.tensor([shown[1]]))
        assert subjects_shown(asked, scene).item() == share


LUCK = {0.05: (3, 3), 0.2: (3, -1), 0.3: (5, 5), 0.45: (5, -1), 0.6: (8, 5), 0.9: (8, 5)}


def test_half_of_the_wrong_scenes_of_two_subjects_have_one_of_them() -> None:
    luck = torch.tensor(list(LUCK))
    asked, wrong = (
        Labels(*(torch.full_like(luck, number, dtype=torch.long) for number in numbers))
        for numbers in ((3, 5, 1), (8, 5, 2))
    )
    shown = with_one_missing(wrong, asked, luck)
    assert list(zip(shown.first.tolist(), shown.second.tolist(), strict=True)) == [*LUCK.values()]
    assert shown.colour.tolist() == [1, 1, 1, 1, 2, 2]
    assert subjects_shown(asked, shown).tolist() == [0.5] * 6
    alone = asked._replace(second=torch.full_like(asked.second, -1))
    assert all(map(torch.equal, with_one_missing(wrong, alone, luck), wrong))


def test_wrong_cut_and_blurred_scenes_are_worth_less(sprites) -> None:
    labels = random_labels(256, generator())
    scenes = scenes_for(labels, sprites, generator(1))
    assert scenes.images.shape == (256, 3, 64, 64)
    lost = 8 - scenes.utility  # 8 is a scene that has everything
    assert (lost == 0).any() and (lost >= 0).all()
    assert {1.5, 2.0, 3.0} <= set(lost.tolist()), "one thing alone"
    edges = scenes.images.diff(dim=-1).abs().mean((1, 2, 3))
    right, blurred = (edges[lost == part].median() for part in (0, 1.5))
    assert blurred < right


def test_blur_keeps_the_mean_of_a_flat_image() -> None:
    flat = torch.full((1, 3, 32, 32), 0.3)
    assert torch.allclose(blur(flat), flat)
    dot = torch.zeros(1, 1, 31, 31)
    dot[..., 15, 15] = 1
    assert torch.allclose(blur(dot).sum(), torch.tensor(1.0), atol=1e-5)
    assert (blur(dot)[0, 0] > 0).sum() == 19**2, "three boxes of 7"


def test_calibrating_brings_a_clip_models_margins_to_the_rules(monkeypatch) -> None:
    clip, better = nn.Module(), torch.randn(500, generator=generator())
    clip.logit_scale = nn.Parameter(torch.tensor(30.0).log())
    monkeypatch.setattr(
        preference, "compared", lambda clip, *_: (clip.logit_scale.exp() / 4 * better, better)
    )
    preference.calibrate(clip, sprites, None, generator())
    assert clip.logit_scale.exp().item() == pytest.approx(4.0)
    monkeypatch.setattr(preference, "compared", lambda *_: (-better, better))
    with pytest.raises(ValueError, match="goes against the rule"):
        preference.calibrate(clip, sprites, None, generator())


# ---- training ---------------------------------------------------------------------------------

PLAN = Plan(steps=12, rate=1e-2, warm_up=3, edges=("2.",))


def fitting(trainer: Trainer, until: int) -> Tensor:
    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x = torch.randn(8, 3, generator=generator)
        return ((trainer.module(x) - x.sum(1, keepdim=True)) ** 2).mean(), {"step": float(step)}

    trainer.run(loss, until)
    return torch.cat([value.flatten() for value in trainer.averaged.parameters()])


def test_resumed_training_is_the_same_training(tmp_path: Path) -> None:
    def fresh(name: str) -> Trainer:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        return Trainer(net, PLAN, tmp_path / name, seed=5)

    whole = fitting(fresh("whole"), 12)
    fitting(fresh("parts"), 7)
    resumed = fresh("parts")
    assert resumed.step == 7
    assert torch.equal(fitting(resumed, 12), whole)
    assert not list(tmp_path.rglob("*.part"))


def test_orthogonal_keeps_the_directions() -> None:
    matrix = torch.randn(6, 9, generator=generator())
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    for one in (matrix, matrix.T):
        found = orthogonal(one)
        singular = torch.linalg.svdvals(found)
        assert singular.min() > 0.5 and singular.max() < 1.4
        wanted = left @ right if one is matrix else (left @ right).T
        alike = F.cosine_similarity(found.flatten(), wanted.flatten(), dim=0)
        assert alike > 0.95


def test_learning_rate_rises_stays_and_falls() -> None:
    plan = Plan(steps=100, rate=1.0, warm_up=10)
    rates = [learning_rate(plan, step) for step in (0, 9, 50, 80, 90, 100)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.5, 0.0])


def test_a_gradient_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    trainer = Trainer(nn.Linear(3, 1), PLAN, tmp_path)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return trainer.module(torch.full((1, 3), torch.inf)).sum(), {}

    with pytest.raises(FloatingPointError, match="not finite at step 0"):
        trainer.run(loss)
