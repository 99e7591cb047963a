"""Classes by name or number, and what class and balance scores refuse."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from lags_pack.rewards import BalanceReward, ClassReward
from lags_pack.rewards.checkpoint import CheckpointError
from lags_pack.rewards.classifier import Classifier, among, class_numbers, classifier
from lags_pack.tests import reward_files
from safetensors.torch import load_file
from torch import Tensor

NAMES = ("tench, Tinca tinca", "crane", "Egyptian cat", "tabby, tabby cat", "crane, lifter")
NAMES += ("lifter, jack", "7", "hot dog")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """Of the classes red; green, lime; blue; grey."""
    path = reward_files.classifier(tmp_path_factory.mktemp("classifier"))
    return classifier(path, torch.float32)


def pictures() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ("Egyptian cat", [2]),
        ("egyptian CAT", [2]),
        ("  hot dog ,tench", [7, 0]),
        ("tinca tinca", [0]),
        ("tabby cat, tabby", [3]),  # synonyms of one class
        ("crane", [1]),  # a whole name before a synonym
        ("lifter", [4]),  # of two classes the first
        ("jack", [5]),
        ("3, 0", [3, 0]),
        ("2, egyptian cat, 02", [2]),
        ("7", [6]),  # a class of that name
        ("hot dog,, 1,", [7, 1]),
    ],
)
def test_classes_are_found(wanted: str, numbers: list[int]) -> None:
    assert class_numbers(NAMES, wanted) == numbers


def test_names_that_are_numbers_count_and_whole_ones_come_first() -> None:
    assert class_numbers(("1", "2", "3"), "1, 2") == [0, 1]
    assert class_numbers(("1", "2", "3"), "0") == [0]
    assert class_numbers(("cardigan, Welsh corgi", "cardigan"), "cardigan") == [1]
    assert class_numbers(("crane", "crane"), "crane") == [0]


@pytest.mark.parametrize(
    ("wanted", "part", "shown"),
    [
        ("cat", "cat", "'Egyptian cat', 'tabby, tabby cat'."),  # those that hold it
        ("tench, Dog", "Dog", "'hot dog'."),
        ("8", "8", "'tench, Tinca tinca', 'crane', "),
        ("-1", "-1", "'tench, Tinca tinca', 'crane', "),
        ("1.5", "1.5", "'tench, Tinca tinca', 'crane', "),
        ("zebra", "zebra", "'tench, Tinca tinca', 'crane', "),
    ],
)
def test_an_unknown_class_is_told_with_examples(wanted: str, part: str, shown: str) -> None:
    with pytest.raises(ValueError) as caught:
        class_numbers(NAMES, wanted)
    message = str(caught.value)
    assert message.startswith(f"The classifier has no class {part!r}; expected names or numbers of")
    assert f"its 8 classes, for example {shown}" in message


def test_no_class_is_told_with_examples_and_a_long_list_of_classes_is_cut() -> None:
    for wanted in ("", "  ", " , ,"):
        said = "No class is named; expected one or more of 8.*'crane'"
        with pytest.raises(ValueError, match=said):
            class_numbers(NAMES, wanted)
    names = [f"class {i}" for i in range(1000)]
    with pytest.raises(ValueError, match=r"1000 classes, for example 'class 0', .*'class 7'\.$"):
        class_numbers(names, "zebra")


# ---- scores -----------------------------------------------------------------------------------


def test_scores_need_some_classes_and_not_all(model: Classifier) -> None:
    for classes in ([], [0, 1, 2, 3], [3, 2, 1, 0, 0]):
        said = f"{len(set(classes))} of 4 classes are chosen; expected some, but"
        with pytest.raises(ValueError, match=said):
            ClassReward(model, classes)
    for classes in ([], [2]):
        said = f"is {len(classes)} class to balance; expected at least"
        with pytest.raises(ValueError, match=said):
            BalanceReward(model, classes, [1.0] * len(classes))


def test_towards_and_away_share_the_probability(model: Classifier) -> None:
    towards, away = ClassReward(model, [0, 2]), ClassReward(model, [0, 2], away=True)
    torch.testing.assert_close(towards(pictures()).exp() + away(pictures()).exp(), torch.ones(3))
    red, blue = (ClassReward(model, [one])(pictures()).exp() for one in (0, 2))
    torch.testing.assert_close(towards(pictures()).exp(), red + blue)
    assert (towards.name, away.name) == ("red, blue", "not red, blue")
    twice = ClassReward(model, [1, 1])
    assert torch.equal(twice(pictures()), ClassReward(model, [1])(pictures()))
    assert twice.name == "green"


def test_a_certain_classifier_gives_finite_scores(tmp_path: Path) -> None:
    """Log-probabilities, not logarithms of probabilities that round to 0 or 1."""
    sure = classifier(reward_files.classifier(tmp_path), torch.float32)
    with torch.no_grad():
        sure.net.classifier.weight.mul_(1e4)
    scores, slopes = [], []
    for reward in (ClassReward(sure, [i], away) for i in range(4) for away in (False, True)):
        images = pictures().requires_grad_()
        scores.append(reward(images))
        slopes.append(torch.autograd.grad(scores[-1].sum(), images)[0])
    assert torch.isfinite(torch.stack(scores)).all() and torch.isfinite(torch.stack(slopes)).all()
    for score, slope in zip(scores, slopes, strict=True):
        assert (slope[score < -100] != 0).flatten(1).any(dim=1).all()
    assert torch.stack(scores).min() < -100


@pytest.mark.parametrize(
    "values", [[1.0], [1.0, 2.0, 3.0], [1.0, 0.0], [1.0, -1.0], [1.0, math.nan], [math.inf, 1.0]]
)
def test_rates_and_targets_must_fit_the_classes(values: Sequence[float], model: Classifier) -> None:
    for name, arguments in (("rates", [values]), ("targets", [[1.0, 1.0], values])):
        with pytest.raises(ValueError) as caught:
            BalanceReward(model, [0, 1], *arguments)
        assert str(caught.value) == (
            f"{name} are {list(values)} for 2 classes; expected one number above 0 for each."
        )


# ---- what the logits are of -------------------------------------------------------------------


def giving(folder: Path, logits: Sequence[float], problem: str | None) -> Path:
    """A classifier's file that gives these logits for every image."""
    path = reward_files.classifier(folder)
    weights = load_file(path)
    weights["classifier.weight"] = torch.zeros(len(logits), reward_files.WIDTH)
    weights["classifier.bias"] = torch.tensor(logits)
    reward_files.save(path, weights)
    return altered(
        path, problem_type=problem, id2label=dict(enumerate(map(str, range(len(logits)))))
    )


def altered(path: Path, **settings: Any) -> Path:
    """The file, with other settings in config.json."""
    config = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
    config.pop("label2id", None)
    reward_files.write_json(path.parent / "config.json", config | settings)
    return path


MULTI = "multi_label_classification"
PROBLEMS: dict[str, tuple[list[float], str | None, list[int], float, float]] = {
    # logits, problem_type, classes, and the probability of towards and of away
    "a tag": ([0.298, 2.0, -1.0], MULTI, [0], 0.574, 0.426),
    "two tags, one or both": ([0.0, 0.0, 9.0], MULTI, [0, 1], 0.75, 0.25),
    "all tags": ([0.0, 0.0], MULTI, [0, 1], 0.75, 0.25),
    "one of 30 likely tags of 1000": ([2.0] * 30 + [-6.0] * 970, MULTI, [3], 0.88, 0.12),
    "exclusive": ([0.298, 2.0, -1.0], "single_label_classification", [0], 0.148, 0.852),
    "exclusive by default": ([0.298, 2.0, -1.0], None, [0], 0.148, 0.852),
    "one logit": ([0.298], None, [0], 0.574, 0.426),
    "one tag": ([0.298], MULTI, [0], 0.574, 0.426),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_probability_is_that_of_the_problem_s_type(name: str, tmp_path: Path) -> None:
    logits, problem, classes, towards, away = PROBLEMS[name]
    model = classifier(giving(tmp_path, logits, problem), torch.float32)
    for aside, expected in ((False, towards), (True, away)):
        score = ClassReward(model, classes, aside)(pictures())
        torch.testing.assert_close(score.exp(), torch.full((3,), expected), atol=2e-3, rtol=0)


def test_a_regression_s_score_is_its_value(tmp_path: Path) -> None:
    model = classifier(giving(tmp_path, [3.5], "regression"), torch.float32)
    towards, away = ClassReward(model, [0]), ClassReward(model, [0], away=True)
    assert towards(pictures()).tolist() == [3.5] * 3 and away(pictures()).tolist() == [-3.5] * 3
    assert "by regression" in towards.scale and "probability" in ClassReward.scale


def test_certain_tags_give_finite_scores_and_slopes(tmp_path: Path) -> None:
    path = giving(tmp_path, [-300.0, -200.0, 300.0], MULTI)
    weights = load_file(path)
    weights["classifier.weight"] = torch.linspace(-1, 1, 3 * reward_files.WIDTH).view(3, -1).sin()
    reward_files.save(path, weights)
    model = classifier(path, torch.float32)
    for classes in ([0], [0, 1], [2], [0, 1, 2]):
        for away in (False, True):
            images = pictures().requires_grad_()
            score = ClassReward(model, classes, away)(images)
            (slope,) = torch.autograd.grad(score.sum(), images)
            assert torch.isfinite(score).all() and torch.isfinite(slope).all()
            assert (score < -100).all() == (slope != 0).any()


@pytest.mark.parametrize(
    ("logits", "problem", "kind"),
    [([0.0, 1.0], MULTI, "independent"), ([1.0, 2.0], "regression", "values")],
)
def test_balance_needs_classes_that_exclude_each_other(
    logits: list[float], problem: str, kind: str, tmp_path: Path
) -> None:
    model = classifier(giving(tmp_path, logits, problem), torch.float32)
    said = f"classes are {kind} .problem_type.*no shares to balance. Choose towards or away"
    with pytest.raises(ValueError, match=said):
        BalanceReward(model, [0, 1], [0.5, 0.5])
    with pytest.raises(ValueError, match=said):
        among(model, pictures(), [0, 1])


# ---- what fails at loading ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"0": "a", "1": "b", "2": "c", "4": "d"}, "names 4 classes in id2label, with none for 3:"),
        ({"1": "a", "2": "b", "3": "c", "4": "d"}, "names 4 classes in id2label, with none for 0:"),
    ],
)
def test_classes_without_a_name_are_told(names: dict[str, str], said: str, tmp_path: Path) -> None:
    path = altered(reward_files.classifier(tmp_path), id2label=names)
    with pytest.raises(CheckpointError, match=f"config.json names.*{said[5:]} number them from 0"):
        classifier(path, torch.float32)


def test_a_processor_of_another_size_is_told_at_loading(tmp_path: Path) -> None:
    path = reward_files.classifier(tmp_path)
    settings = {"image_processor_type": "ViTImageProcessor", "size": 48}
    reward_files.write_json(path.parent / "preprocessor_config.json", settings)
    said = f"{path} holds a ViTForImageClassification, whose configuration reads images of 32.*48"
    with pytest.raises(CheckpointError, match=f"{said}.*choose another classifier, for example"):
        classifier(path, torch.float32)


def test_without_a_processor_s_file_the_network_s_own_size_is_taken(tmp_path: Path) -> None:
    """ViT's defaults are 224 pixels, which this network of 32 does not read."""
    path = reward_files.classifier(tmp_path)
    plain = classifier(path, torch.float32)
    (path.parent / "preprocessor_config.json").unlink()
    bare = classifier(path, torch.float32)
    assert bare.preprocessing == plain.preprocessing
    assert torch.equal(bare(pictures()), plain(pictures()))


SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
SMALL |= {"num_attention_heads": 2, "patch_size": 8}
PYRAMID = {"hidden_sizes": [8, 16, 16, 16], "depths": [1] * 4, "num_attention_heads": [1, 2, 2, 2]}
KINDS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    # model, configuration, processor, and what is said; "": it serves
    "PVT": ("Pvt", {**PYRAMID, "image_size": 32}, "Pvt", ""),
    "list": ("ViT", {**SMALL, "image_size": [32, 32]}, "", ""),
    "nested": ("Siglip", {"vision_config": {**SMALL, "image_size": 32}}, "", ""),
    "tuples": ("ViT", {**SMALL, "image_size": 32, "return_dict": False}, "ViT", ""),
    "oblong": ("ViT", {**SMALL, "image_size": [32, 16]}, "ViT", r"of \[32, 16\] pixels; it fails"),
    "grey": ("ViT", {**SMALL, "image_size": 32, "num_channels": 1}, "ViT", "Expected 1 but got 3"),
    "ImageGPT": ("ImageGPT", {"n_embd": 16, "n_layer": 1, "n_head": 2}, "ViT", "input_ids"),
    "NaFlex": ("Siglip2", {"vision_config": {**SMALL, "num_patches": 16}}, "ViT", "it fails on"),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_fails_on_an_image_fails_at_loading_in_words(name: str, tmp_path: Path) -> None:
    family, settings, processor, said = KINDS[name]
    config = getattr(transformers, f"{family}Config")(**settings)
    config.num_labels = 3
    net = getattr(transformers, f"{family}ForImageClassification")(config)
    path = tmp_path / "model.safetensors"
    net.save_pretrained(tmp_path)
    altered(path, id2label={"0": "a", "1": "b", "2": "c"})
    if processor:
        look = {"image_processor_type": f"{processor}ImageProcessor"}
        look["size"] = {"height": 32, "width": 32}
        reward_files.write_json(tmp_path / "preprocessor_config.json", look)
    if not said:
        assert ClassReward(classifier(path, torch.float16).float(), [1])(pictures()).shape == (3,)
        return
    with pytest.raises(CheckpointError, match=f"{path} holds a {family}For.*{said}.*or choose an"):
        classifier(path, torch.float32)


def test_rates_and_targets_have_any_scale(model: Classifier) -> None:
    plain = BalanceReward(model, [0, 1, 3], [0.5, 0.3, 0.2], [1.0, 1.0, 2.0])
    scaled = BalanceReward(model, [0, 1, 3], [50, 30, 20], [0.25, 0.25, 0.5])
    torch.testing.assert_close(plain(pictures()), scaled(pictures()))
    even = BalanceReward(model, [0, 1, 3], [0.5, 0.3, 0.2])
    assert not torch.allclose(plain(pictures()), even(pictures()))
    assert plain.name == "balance of red, green, grey"
    balanced = BalanceReward(model, [0, 2], [0.9, 0.1], [9.0, 1.0])
    torch.testing.assert_close(balanced(pictures()), torch.zeros(3), atol=1e-6, rtol=0)


def test_shares_are_among_the_chosen_classes(model: Classifier) -> None:
    shares = among(model, pictures(), [3, 1]).exp()
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(3))
    every = model(pictures()).softmax(dim=1)
    torch.testing.assert_close(shares[:, 0] / shares[:, 1], every[:, 3] / every[:, 1])
