"""The judge: what it is asked, and that it can learn it."""

from __future__ import annotations

import torch
from lags_pack.benchmarks._judge import (
    Judge,
    Verdict,
    imperfect,
    judge_loss,
    log_fulfilled,
    targets,
)
from lags_pack.demo.scenes.compose import Labels, background
from lags_pack.demo.scenes.subjects import COLOUR_WORDS, WORDS


def labels() -> Labels:
    return Labels(torch.tensor([3, 3]), torch.tensor([-1, 5]), torch.tensor([2, 2]))


def test_targets() -> None:
    assert targets(labels()).nonzero().tolist() == [[0, 3], [1, 3], [1, 5]]


def test_a_prompt_is_fulfilled_when_all_of_it_is_there() -> None:
    subjects, colours = torch.full((2, len(WORDS)), -9.0), torch.zeros(2, len(COLOUR_WORDS))
    subjects[:, 3] = 9.0
    colours[:, 2] = 20.0
    found = log_fulfilled(Verdict(subjects, colours, torch.empty(2, 0)), labels())
    assert found[0] > -0.01 and found[1] < -8


def test_one_prompt_is_looked_for_in_every_image() -> None:
    """The second image's background is another, the third has no subject."""
    subjects, colours = torch.full((3, len(WORDS)), -9.0), torch.zeros(3, len(COLOUR_WORDS))
    subjects[:2, 3] = 9.0
    colours[[0, 1, 2], [2, 4, 2]] = 20.0
    asked = Labels(*(column[:1] for column in labels()))
    found = log_fulfilled(Verdict(subjects, colours, torch.empty(3, 0)), asked)
    assert found[0] > -0.01 and (found[1:] < -8).all()


def test_it_learns_the_background() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    judge = Judge()
    optimiser = torch.optim.AdamW(judge.parameters(), 2e-3)
    colour = torch.arange(20) % len(COLOUR_WORDS)
    scenes = Labels(torch.zeros(20, dtype=torch.long), torch.full((20,), -1), colour)
    losses = []
    for _ in range(12):
        images = imperfect(background(colour, generator, 64), generator)
        loss = judge_loss(judge, images, scenes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert judge(torch.rand(2, 3, 128, 128)).subjects.shape == (2, len(WORDS))
