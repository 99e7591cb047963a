"""The weight nodes, run as the executor runs them: each gives the score that it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_support.weighing import (
    PROMPT,
    VIT,
    classify,
    combine,
    load_weight,
    mask_weight,
    noise,
    reference,
    scores,
)
from lags_pack import rewards
from lags_pack.nodes.weights.load_weight import LAGSLoadWeight
from lags_pack.rewards import Reward, Weight, aesthetic, clip, hps, image_reward
from lags_pack.rewards.classifier import classifier
from lags_pack.runtime.model_rewards import MAKERS, UNIT
from lags_pack.runtime.prompts import plain_prompt
from lags_pack.tests.reward_files import LABELS
from torch import Tensor

FLOAT = torch.float32
PICKSCORE = "PickScore_v1/model.safetensors"
CLIP = "clip-vit-large-patch14/model.safetensors"
VISION = "clip_vision/clip_vision.safetensors"
HEAD = "sac+logos+ava1-l14-linearMSE.pth"


def cosine(kind: Any, path: Path, encoder: Any = clip.image_encoder) -> Reward:
    text = clip.text_encoder(path, FLOAT)(PROMPT)
    return kind(encoder(path, FLOAT), text)


def blip(path: Path) -> Reward:
    model = image_reward.image_reward_model(path, FLOAT)
    return rewards.ImageReward(model, path.parent / "vocab.txt", PROMPT)


DIRECT: dict[str, Callable[[Path], Reward]] = {
    "PickScore": lambda at: cosine(rewards.PickScore, at / PICKSCORE),
    "HPSv2.1": lambda at: cosine(rewards.HPSv21, at / "HPS_v2.1_compressed.pt", hps.hps_encoder),
    "HPSv2": lambda at: cosine(rewards.HPSv2, at / "HPS_v2_compressed.pt", hps.hps_encoder),
    "ImageReward": lambda at: blip(at / "ImageReward" / "ImageReward.pt"),
    "CLIP score": lambda at: cosine(rewards.ClipScore, at / CLIP),
    "aesthetic": lambda at: rewards.Aesthetic(
        clip.image_encoder(at / CLIP, FLOAT), aesthetic.aesthetic_head(at / HEAD)
    ),
    "sharpness": lambda at: rewards.SharpnessReward(),
    "symmetry": lambda at: rewards.SymmetryReward("left-right"),
    "JPEG size": lambda at: rewards.JpegSizeReward(),
}
NETWORKS = [name for name in MAKERS if name not in ("sharpness", "symmetry", "JPEG size")]


def gradient(weight: Weight, image: Tensor) -> Tensor:
    leaf = image.movedim(-1, 1).clone().requires_grad_()
    (grad,) = torch.autograd.grad(weight(leaf).sum(), leaf)
    return grad


def test_every_choice_is_covered():
    (widget,) = LAGSLoadWeight.define_schema().inputs
    assert [option.key for option in widget.options] == list(MAKERS) == list(DIRECT)


@pytest.mark.parametrize("name", MAKERS)
def test_load_weight_gives_the_score_of_its_name(weight_files, name):
    image = noise(3)
    weight = load_weight(name, strength=2.5)
    (label,) = weight.labels
    assert label.startswith(name) and weight.strengths == {label: 2.5}
    expected = DIRECT[name](weight_files)(image.movedim(-1, 1)).detach()
    assert expected.std() > 0, "a score that tells images apart"
    torch.testing.assert_close(scores(weight, image)[0], expected, rtol=1e-5, atol=1e-6)
    if weight.differentiable:
        grad = gradient(weight, image)
        assert torch.isfinite(grad).all() and (grad.flatten(1).abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_precision(weight_files, name, precision):
    image = noise(2)
    weight = load_weight(name, precision=precision)
    network = weight.modules[0]
    dtypes = {p.dtype for p in getattr(network, "encoder", network).parameters()}
    assert dtypes == {getattr(torch, precision)}
    found, exact = (scores(w, image) for w in (weight, load_weight(name)))
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 0.05 * exact.abs().max() + 0.02
    assert torch.isfinite(gradient(weight, image)).all()


@pytest.mark.parametrize("name", ["PickScore", "HPSv2.1", "ImageReward", "CLIP score"])
def test_the_prompt_counts(weight_files, name):
    image = noise(2)
    prompts = (PROMPT, "two dogs on a blue sofa", "")
    cat, dog, nothing = (scores(load_weight(name, prompt=p), image) for p in prompts)
    assert not torch.allclose(cat, dog) and not torch.allclose(cat, nothing)
    assert torch.isfinite(nothing).all()


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("a (red:1.3) cat", "a red cat"),
        ("a ((red)) cat, (on a (blue:0.5) sofa:1.2)", "a red cat, on a blue sofa"),
        ("a red cat embedding:easynegative", "a red cat"),
        ("embedding:style, a (red cat) embedding:more:1.1", "a red cat"),
        (r"a \(red\) cat", "a (red) cat"),
        ("a red cat :) 16:9", "a red cat :) 16:9"),
        ("a cat (unclosed", "a cat (unclosed"),
        ("  spaces stay ", "  spaces stay "),
        ("", ""),
    ],
)
def test_emphasis_and_embeddings_are_left_out_and_that_is_said(written, plain, caplog):
    assert plain_prompt(written) == plain
    told = [text for _, _, text in caplog.record_tuples if "no emphasis and no embeddings" in text]
    assert len(told) == (written != plain) and all(repr(plain) in text for text in told)


@pytest.mark.parametrize("name", ["PickScore", "HPSv2.1", "ImageReward", "CLIP score"])
def test_every_reward_reads_the_plain_prompt(weight_files, name):
    image = noise(2)
    emphasis, plain = (
        scores(load_weight(name, prompt=prompt), image) for prompt in ("a (red:1.3) cat", PROMPT)
    )
    assert torch.equal(emphasis, plain)


def test_axis_of_symmetry():
    half = noise(1, 32, 32)
    mirrored = torch.cat([half, half.flip(2)], dim=2)
    sideways = load_weight("symmetry", axis="left-right")
    upright = load_weight("symmetry", axis="top-bottom")
    assert scores(sideways, mirrored) > -0.001 > -0.05 > scores(upright, mirrored)


def test_two_sides_of_a_clip_in_two_files(weight_files):
    apart = load_weight("CLIP score", file=VISION, text_file=CLIP)
    together = load_weight("CLIP score", file=CLIP)
    image = noise(2)
    assert torch.isfinite(scores(apart, image)).all()
    assert not torch.allclose(scores(apart, image), scores(together, image))


@pytest.mark.parametrize(
    "file",
    [VISION, CLIP, *(f"{name}/model.safetensors" for name in ("tiny-dinov2", "siglip-tiny"))],
)
def test_content_is_highest_at_the_reference(weight_files, file):
    image = noise(4)
    found = scores(reference(image[1:2], file=file), image)[0]
    assert found[1] == pytest.approx(1.0, abs=1e-4)
    assert (found[[0, 2, 3]] < 0.999).all()


def test_several_references_count_as_their_mean(weight_files):
    image = noise(3)
    alone = [scores(reference(image[i : i + 1]), image[i : i + 1]) for i in (0, 1)]
    both = scores(reference(image[:2]), image)[0]
    assert both[2] < both[:2].min() < min(alone)
    assert both[0] == pytest.approx(float(both[1]), abs=1e-4)  # the mean is as near to each


def test_style_is_highest_at_the_reference(weight_files):
    image = noise(3)
    weight = reference(image[2:], "style", strength=0.5, auto_nats=2.0)
    found = scores(weight, image)[0]
    assert found[2] == pytest.approx(0.0, abs=1e-3)
    assert (found[:2] < -0.1).all()


def test_perceptual_is_highest_at_the_reference(weight_files, caplog):
    image = noise(3)
    found = scores(reference(image[2:], "perceptual"), image)[0]
    assert found[2] == pytest.approx(0.0, abs=1e-6) and (found[:2] < -0.01).all()
    plain = scores(reference(image[2:], "perceptual", heads=UNIT), image)[0]
    assert plain[2] == pytest.approx(0.0, abs=1e-6) and (plain[:2] < 1.2 * found[:2]).all()
    assert "unit weights" not in caplog.text


def test_reference_strength_is_kept(weight_files):
    (term,) = reference(noise(1), strength=-4.0, auto_nats=2.0).terms
    assert (term.strength, term.spread) == (-4.0, 2.0)


def test_reference_of_a_wrong_shape(weight_files):
    with pytest.raises(ValueError, match=r"\(1, 8, 8, 1\).*height, width, 3"):
        reference(torch.zeros(1, 8, 8, 1))
    with pytest.raises(ValueError, match="at least one image"):
        reference(torch.zeros(0, 8, 8, 3))


# ---- classifier -------------------------------------------------------------------------------


@pytest.fixture
def log_p(weight_files) -> Callable[[Tensor], Tensor]:
    """log p(class | image) [B, classes] of an IMAGE."""
    model = classifier(weight_files / VIT, FLOAT)
    return lambda image: model(image.movedim(-1, 1)).detach().log_softmax(dim=1)


def test_towards_and_away(log_p):
    image = noise(3)
    towards = scores(classify(goal="towards", classes="Lime, 3"), image)[0]
    away = scores(classify(goal="away", classes="lime,grey"), image)[0]
    expected = log_p(image)[:, [1, 3]].logsumexp(dim=1)
    torch.testing.assert_close(towards, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(away, (1 - expected.exp()).log(), rtol=1e-3, atol=1e-4)


def test_balance_by_rates(log_p):
    image = noise(3)
    weight = classify(classes="red, blue", rates="0.8, 0.2", targets="1, 3")
    among = log_p(image)[:, [0, 2]].softmax(dim=1)
    expected = (among @ torch.tensor([0.25 / 0.8, 0.75 / 0.2])).log()
    torch.testing.assert_close(scores(weight, image)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("comma", ["，", "、 ", "；"])  # noqa: RUF001
def test_lists_are_separated_by_the_commas_of_other_keyboards_too(comma, weight_files):
    def listed(comma: str) -> Weight:
        lists = {"classes": "red, blue", "rates": "0.8, 0.2", "targets": "1, 3"}
        weight = classify(**{name: text.replace(", ", comma) for name, text in lists.items()})
        return combine(weight, weight, exponents=f"1{comma}0.5")

    image = noise(3)
    assert torch.equal(scores(listed(comma), image), scores(listed(", "), image))
    assert listed(comma).strengths == listed(", ").strengths


def test_balance_measures_the_rates(log_p):
    plain, image = noise(11, seed=7), noise(3)
    weight = classify(plain, classes="red, green")
    rates = log_p(plain)[:, [0, 1]].softmax(dim=1).mean(dim=0)
    expected = (log_p(image)[:, [0, 1]].softmax(dim=1) @ (0.5 / rates)).log()
    torch.testing.assert_close(scores(weight, image)[0], expected, rtol=1e-4, atol=1e-5)
    given = classify(plain, classes="red, green", rates="3, 1")
    assert not torch.allclose(scores(given, image)[0], expected), "rates by hand come first"


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ({"goal": "towards", "classes": "cat"}, f"no class 'cat'.*4 classes.*{LABELS[0]}"),
        ({"goal": "towards", "classes": " "}, "No class is named.*'red'"),
        ({"goal": "away", "classes": "0, 1, 2, 3"}, "4 of 4 classes.*not all"),
        ({"classes": "red, blue"}, "plain_images.*'0.8, 0.2'"),
        ({"classes": "red", "rates": "1"}, "1 class to balance.*two"),
        ({"classes": "red, blue", "rates": "1, 2, 3"}, r"rates are \[1.0, 2.0, 3.0\] for 2"),
        ({"classes": "red, blue", "rates": "1, 0"}, r"rates are \[1.0, 0.0\].*above 0"),
        ({"classes": "red, blue", "rates": "1, 2", "targets": "1"}, r"targets are \[1.0\]"),
        ({"classes": "red, blue", "rates": "half"}, "rates are 'half'.*commas"),
        (
            {"file": "tiny-dinov2/model.safetensors", "goal": "towards", "classes": "red"},
            "tiny-dinov2.*does not hold.*classifier.weight",
        ),
    ],
)
def test_classifier_errors(weight_files, goal, said):
    with pytest.raises(ValueError, match=said):
        classify(**goal)


# ---- weights out of weights -------------------------------------------------------------------


def test_combine_adds_log_w(weight_files):
    image = noise(2).movedim(-1, 1)
    first = load_weight("PickScore", strength=2.0)
    second = load_weight("sharpness", strength=-3.0)
    both = combine(first, second, exponents="1; -0.5")
    assert both.strengths == {"PickScore": 2.0, "sharpness": 1.5}
    torch.testing.assert_close(both(image), first(image) - 0.5 * second(image))
    plainly = combine(first, second)
    torch.testing.assert_close(plainly(image), first(image) + second(image))


def test_combine_leaves_empty_sockets_out():
    first, second = (load_weight(name) for name in ("symmetry", "sharpness"))
    both = combine(first, None, second, exponents="2, 3")
    assert list(both.strengths.values()) == [2.0, 3.0]


def test_combine_names_twins_apart(weight_files):
    twins = [load_weight("PickScore", prompt=text) for text in ("a cat", "a dog")]
    both = combine(*twins)
    assert both.labels == ("PickScore", "PickScore (2)")
    assert len(both.modules) == 1, "one network for both prompts"


@pytest.mark.parametrize(
    ("names", "exponents", "said"),
    [
        (("symmetry", "sharpness"), "1", "2 weights and 1 exponents"),
        (("symmetry", "sharpness"), "1, 2, 3", "2 weights and 3 exponents"),
        (("symmetry",), "x", "exponents are 'x'"),
        ((), "", "0 weights"),
    ],
)
def test_combine_errors(names, exponents, said):
    weights = [load_weight(name) for name in names]
    with pytest.raises(ValueError, match=said):
        combine(*(weights or [None]), exponents=exponents)


def test_mask_judges_the_inside_only(weight_files):
    mask = torch.zeros(1, 24, 20)
    mask[:, :12, :10] = 1
    weight = combine(*(load_weight(n) for n in ("PickScore", "sharpness")))
    inside = mask_weight(weight, mask)
    assert inside.labels == ("PickScore, masked", "sharpness, masked")
    image = noise(2)
    elsewhere = image.clone()
    elsewhere[:, 28:], elsewhere[:, :, 24:] = 0.1, 0.9
    within = image.clone()
    within[:, :8, :8] = 0.1
    torch.testing.assert_close(scores(inside, elsewhere), scores(inside, image))
    assert ((scores(inside, within) - scores(inside, image)).abs() > 1e-4).all()


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (torch.zeros(1, 8, 8), "mask is empty"),
        (torch.full((1, 8, 8), float("nan")), "mask is empty"),
        (torch.ones(2, 8, 8), "2 masks; expected one"),
    ],
)
def test_mask_errors(mask, said):
    with pytest.raises(ValueError, match=said):
        mask_weight(load_weight("symmetry"), mask)


def test_a_mask_without_a_batch_is_one_mask():
    whole = load_weight("symmetry")
    weight = mask_weight(whole, torch.ones(8, 8))
    torch.testing.assert_close(scores(weight, noise(1)), scores(whole, noise(1)))


@pytest.mark.parametrize(
    ("name", "widget", "value", "said"),
    [
        ("symmetry", "strength", float("nan"), "nan"),
        ("symmetry", "auto_nats", float("nan"), "nan"),
        ("PickScore", "precision", "float8", "float8.*float32"),
    ],
)
def test_a_widget_of_no_such_value(weight_files, name, widget, value, said):
    with pytest.raises(ValueError, match=said):
        load_weight(name, **{widget: value})
