"""Score Images: the numbers are the reward's own, and the order is that of log w."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui_support.executing import run_node
from comfyui_support.weighing import PROMPT, combine, load_weight, noise, rows_of
from lags_pack.nodes.tools.score import LAGSScoreImages
from lags_pack.rewards import ColourReward, PickScore, Weight, clip
from torch import Tensor

BRIGHT = Weight.of(ColourReward("brightness"), 2.0)


def judge(images: Tensor, weight: Weight, top_k: int = 0) -> tuple[Any, ...]:
    """Ranked images, table, best index, scores."""
    return run_node(LAGSScoreImages, images=images, weight=weight, top_k=top_k)[:4]


def by_hand(weight_files: Path, images: Tensor) -> Tensor:
    """PickScore [B] without any node."""
    path = weight_files / "PickScore_v1" / "model.safetensors"
    text = clip.text_encoder(path, torch.float32)(PROMPT)
    reward = PickScore(clip.image_encoder(path, torch.float32), text)
    return torch.cat([reward(one) for one in images.movedim(-1, 1).split(1)]).detach()


def test_ranks_as_the_plain_function_does(weight_files):
    images = noise(19)  # more than are judged at once
    expected = by_hand(weight_files, images)
    order = expected.argsort(descending=True).tolist()
    ranked, table, best, given = judge(images, load_weight("PickScore"))
    torch.testing.assert_close(torch.tensor(given), expected, rtol=1e-4, atol=1e-3)
    assert best == order[0]
    assert torch.equal(ranked, images[order])
    rows = rows_of(table)
    assert [int(row["image"]) for row in rows] == order
    assert [int(row["rank"]) for row in rows] == list(range(1, 20))
    preferred = expected.softmax(dim=0)  # PickScore's logits, as its authors trained them
    for row, i in zip(rows, order, strict=True):
        assert float(row["PickScore"]) == pytest.approx(float(expected[i]), abs=2e-3)
        assert float(row["PickScore preferred"]) == pytest.approx(float(preferred[i]), abs=2e-3)
        assert float(row["log w"]) == pytest.approx(float(expected[i]), abs=2e-3)


def test_preference_has_the_scale_of_its_authors(weight_files):
    weight = load_weight("HPSv2.1", strength=7.0)
    images = 0.95 * noise(1) + 0.05 * noise(4, seed=2)  # alike, so that none is certain to win
    _, table, _, given = judge(images, weight)
    expected = (100 * torch.tensor(given)).softmax(dim=0)
    for row in rows_of(table):
        i = int(row["image"])
        assert float(row["HPSv2.1 preferred"]) == pytest.approx(float(expected[i]), abs=1e-4)
        assert float(row["log w"]) == pytest.approx(7 * given[i], abs=1e-4)
    assert 0.001 < expected.min() < 0.2 < expected.max() < 0.9, "shares that tell scales apart"


@pytest.mark.parametrize("top_k", [1, 3, 5, 9])
def test_top_k(top_k):
    images = noise(5) * torch.tensor([0.3, 0.9, 0.1, 0.7, 0.5]).view(5, 1, 1, 1)
    ranked, table, best, given = judge(images, BRIGHT, top_k)
    assert torch.equal(ranked, images[[1, 3, 4, 0, 2][:top_k]])
    assert best == 1 and len(given) == len(rows_of(table)) == 5
    assert sorted(given) == [given[i] for i in (2, 0, 4, 3, 1)], "scores in the images' order"


def test_equal_pictures_keep_their_order():
    images = noise(1).expand(4, -1, -1, -1).contiguous()
    rows = rows_of(judge(images, BRIGHT)[1])
    assert [int(row["image"]) for row in rows] == [0, 1, 2, 3]


class Half(PickScore):
    """Brightness as a preference; images above a half have no score."""

    def __init__(self, broken: float) -> None:
        self.broken, self.name = broken, "half"

    def __call__(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3))
        return torch.where(mean > 0.5, self.broken, mean)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_an_image_without_a_score_is_last_and_that_is_said(broken, caplog):
    images = torch.tensor([0.1, 0.9, 0.3, 0.8, 0.2]).view(5, 1, 1, 1).expand(-1, 8, 8, 3)
    top, text, best, given = judge(images, Weight.of(Half(broken), 2.0), 3)
    order = [2, 4, 0, 1, 3]
    assert torch.equal(top, images[order[:3]]) and best == 2
    rows = rows_of(text)
    assert [int(row["image"]) for row in rows] == order
    assert rows[3]["half"] == rows[4]["half"] == f"{broken}"
    assert not math.isfinite(given[1]) and given[2] == pytest.approx(0.3)
    assert "weight 'half' gives no finite score for image 1, 3 of 5: ranked last" in caplog.text
    caplog.clear()
    judge(images[::2], Weight.of(Half(broken), 2.0))
    assert "LAGS" not in caplog.text


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_an_image_without_a_score_leaves_the_others_theirs(broken):
    """Their probability of preference, and an automatic strength."""
    images = torch.tensor([0.1, 0.9, 0.3]).view(3, 1, 1, 1).expand(-1, 8, 8, 3)
    weight = Weight.of(Half(broken), 1.0, 2.0)
    with_it, without = (rows_of(judge(part, weight)[1]) for part in (images, images[::2]))
    for column in ("half", "half preferred", "log w"):
        assert [row[column] for row in with_it[:2]] == [row[column] for row in without]
    assert float(with_it[2]["half preferred"]) == 0


def test_an_image_of_nan_is_shown_and_ranked_last():
    images = noise(3)
    images[0] = math.nan
    ranked, _, best, _ = judge(images, BRIGHT)
    assert best != 0 and ranked[2].isnan().all() and not ranked[:2].isnan().any()


def test_negative_strength_ranks_the_other_way():
    images = noise(3) * torch.tensor([0.5, 0.9, 0.1]).view(3, 1, 1, 1)
    _, table, best, given = judge(images, BRIGHT.power(-1.0))
    assert best == 2 and [int(row["image"]) for row in rows_of(table)] == [2, 0, 1]
    assert given[1] > given[2] > 0, "the score itself, not log w"


def test_several_terms_are_ranked_by_log_w(weight_files):
    weight = combine(
        load_weight("PickScore", strength=0.5),
        load_weight("JPEG size", strength=-2.0),
        load_weight("PickScore", prompt="a dog", strength=0.1),
    )
    _, table, best, given = judge(noise(5), weight)
    rows = {int(row["image"]): row for row in rows_of(table)}
    assert list(rows[0]) == [
        *("rank", "image", "PickScore", "PickScore preferred", "JPEG size"),
        *("PickScore (2)", "PickScore (2) preferred", "log w"),
    ]
    for i, row in rows.items():
        parts = [float(row[name]) for name in ("PickScore", "JPEG size", "PickScore (2)")]
        log_w = 0.5 * parts[0] - 2 * parts[1] + 0.1 * parts[2]
        assert float(row["log w"]) == pytest.approx(log_w, abs=1e-3)
        assert given[i] == pytest.approx(log_w, abs=1e-3)
    assert best == max(range(5), key=given.__getitem__)


def test_automatic_strength_is_by_these_pictures():
    images = noise(4) * torch.tensor([0.5, 0.9, 0.1, 0.7]).view(4, 1, 1, 1)
    for spread in (3.0, -3.0):
        weight = Weight.of(ColourReward("brightness"), spread, abs(spread))
        _, table, _, given = judge(images, weight)
        log_w = torch.tensor([float(row["log w"]) for row in rows_of(table)])
        assert log_w.std() == pytest.approx(3.0, abs=1e-3)
        assert (log_w.mean() > 0) == (spread > 0)
        assert min(given) > 0


def test_automatic_strength_needs_pictures_that_differ():
    weight = Weight.of(ColourReward("brightness"), 1.0, 3.0)
    with pytest.raises(ValueError, match="at least two images.*by hand"):
        judge(noise(1), combine(weight, BRIGHT))
    with pytest.raises(ValueError, match="needs a score that varies"):
        judge(torch.full((2, 8, 8, 3), 0.5), weight)


def test_one_picture_has_a_score_whatever_the_strength():
    """An automatic strength is the default, and one image the first that people score."""
    image = noise(1)
    weight = Weight.of(ColourReward("brightness"), 1.0, 3.0)
    shown, table, best, given = judge(image, weight)
    assert torch.equal(shown, image) and best == 0
    assert given == pytest.approx(ColourReward("brightness")(image.movedim(-1, 1)).tolist())
    (row,) = rows_of(table)
    assert "log w" not in row and float(row["colour (brightness)"]) == pytest.approx(
        given[0], abs=1e-3
    )


def test_latents_follow_their_pictures():
    images = noise(3) * torch.tensor([0.5, 0.9, 0.1]).view(3, 1, 1, 1)
    rows = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 4, 6, 5)
    masks = rows[:, :1].clone()
    given = {"samples": rows, "noise_mask": masks, "batch_index": [7, 8, 9], "other": 1}
    inputs = {"images": images, "weight": BRIGHT, "latents": given}
    *_, latent = run_node(LAGSScoreImages, **inputs, top_k=2)
    assert latent["samples"][:, 0, 0, 0].tolist() == [1, 0]
    assert latent["noise_mask"][:, 0, 0, 0].tolist() == [1, 0]
    assert latent["batch_index"] == [8, 7] and latent["other"] == 1
    one_mask = {**given, "noise_mask": masks[:1]}
    *_, latent = run_node(LAGSScoreImages, **{**inputs, "latents": one_mask}, top_k=0)
    assert latent["noise_mask"].shape == (1, 1, 6, 5) and given["samples"] is rows
    with pytest.raises(ValueError, match="3 images and 2 latents: connect the LATENT"):
        run_node(LAGSScoreImages, **{**inputs, "latents": {"samples": rows[:2]}}, top_k=0)
    *_, none = run_node(LAGSScoreImages, images=images, weight=BRIGHT, top_k=0)
    assert "connect the LATENT" in none.message


def test_pictures_with_transparency():
    images = torch.cat([noise(2), torch.zeros(2, 48, 40, 1)], dim=-1)
    ranked, _, _, given = judge(images, BRIGHT)
    assert given == judge(images[..., :3], BRIGHT)[3]
    assert ranked.shape == images.shape


def test_pictures_that_are_none():
    for images in (torch.zeros(0, 8, 8, 3), torch.zeros(2, 8, 8), torch.zeros(2, 8, 8, 1)):
        with pytest.raises(ValueError, match=r"expected at least one image.*\[batch, height"):
            judge(images, BRIGHT)
