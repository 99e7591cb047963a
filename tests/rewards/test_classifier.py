"""Classes by name or number, and what class and balance scores refuse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from lags_pack.rewards import BalanceReward, ClassReward
from lags_pack.rewards.classifier import Classifier, among, class_numbers, classifier
from lags_pack.tests import reward_files
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
