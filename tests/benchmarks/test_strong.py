"""Strong weights: what counts as far, and what a row says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lags_pack.benchmarks import strong
from lags_pack.benchmarks._classifier import ShapeClassifier
from lags_pack.benchmarks._tilting import Plain
from lags_pack.benchmarks.strong import METHODS, Counted, Subject, cells, main, row
from lags_pack.demo.model import load_network, to_images
from lags_pack.demo.pictures import draw_pictures
from lags_pack.rewards import ColourReward


@pytest.fixture(scope="module")
def subject() -> Subject:
    torch.manual_seed(0)
    network, looks = load_network(), ShapeClassifier().requires_grad_(False)
    return Subject(
        Plain.of(draw_pictures(network, 32, seed=0, steps=3)[0], looks),
        {"colour": ColourReward("hue", hue=240.0)},
        lambda cell: replace(
            strong._counted(strong.task_of(network, cell)),
            steps=3,  # noqa: SLF001
        ),
        lambda x: to_images(x).clamp(0, 1),
    )


def test_plain_images_are_near_and_noise_is_far(subject: Subject) -> None:
    plain = subject.plain
    assert subject.far(plain.pictures).sum() == 0
    assert subject.far(torch.rand(4, 3, 32, 32)).mean() == 1


def test_strengths_are_multiples_of_the_one_of_the_effective_sample_size(subject: Subject) -> None:
    (one, cell), (ten, stronger) = cells(subject, [1.0, 10.0])
    assert (one, ten) == (1.0, 10.0) and stronger.strength == 10 * cell.strength
    shares = (cell.strength * cell.scores.double()).softmax(0)
    assert 1 / shares.square().sum() / len(shares) == pytest.approx(0.05, rel=0.01)


def test_a_row_counts_what_was_called(subject: Subject) -> None:
    ((_, cell),) = cells(subject, [1.0])
    calls = {name: row(subject, cell, name, 2)["calls"] for name in ("plain", "LAGS, paper", "DPS")}
    # 3 steps: one evaluation, two, and one with a pass back that counts as two
    assert calls == {"plain": 3, "LAGS, paper": 6, "DPS": 9}


def test_every_method_has_a_row(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[dict[str, object]] = []
    monkeypatch.setitem(strong.SUBJECTS, "shapes", lambda count: subject)
    monkeypatch.setattr(strong, "report", lambda rows, path: printed.extend(rows))
    main(["--guided", "2", "--times", "1", "30"])
    assert {found["method"] for found in printed} == {*METHODS, "exact (importance weights)"}
    (exact,) = (r for r in printed if str(r["method"]).startswith("exact"))
    assert 0 < exact["reward"] < 3 and exact["+-"] > 0  # type: ignore[operator]
    colour = {(r["method"], r["strength"]): r["reward"] for r in printed}
    assert colour["LAGS, balanced", 30.0] > colour["plain", 30.0] + 1  # type: ignore[operator]


def test_weights_are_chosen_by_name(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[dict[str, object]] = []
    two = {"one": next(iter(subject.rewards.values())), **subject.rewards}
    monkeypatch.setitem(strong.SUBJECTS, "shapes", lambda count: replace(subject, rewards=two))
    monkeypatch.setattr(strong, "report", lambda rows, path: printed.extend(rows))
    short = ["--guided", "2", "--times", "1", "--methods", "plain", "--weights"]
    main([*short, "one"])
    assert {found["weight"] for found in printed} == {"one"} and len(printed) == 2
    with pytest.raises(SystemExit):
        main([*short, "another"])


def test_counting_changes_nothing() -> None:
    x, sigma = torch.randn(2, 3), torch.ones(2)
    counted = Counted(lambda x, sigma: x.square() / 2)
    denoised, pull = counted.vjp(x, sigma)
    assert torch.equal(denoised, x.square() / 2) and torch.allclose(pull(torch.ones(2, 3)), x)
    assert (counted.branches, counted.backwards) == (2, 2)
