"""Prompts of any length and script: read as far as the model reads, and the rest is told."""

from __future__ import annotations

import pytest
import torch
from lags_pack.rewards import Reward
from lags_pack.tests.reward_table import READERS, Reader, gradient, pictures

LENGTH = dict.fromkeys(READERS, 77) | {"ImageReward": 35}  # tokens, with those of start and end
TEXTS = {
    "emoji": "a 🐈‍⬛ on a 🛹, 👩🏽‍🚀",
    "Chinese": "一只红色的猫坐在窗边",
    "right to left": "قطة حمراء",
    "no words": " \t\n ",
    "control characters": "a\x00b\ufffd\u200b",
    "markup": "<|endoftext|> [SEP] (cat:1.2) <lora:x:1>",
}
IMAGES = pictures(2, 40, 48)


@pytest.fixture(scope="module", params=READERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def read(name: str, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return READERS[name](tmp_path_factory.mktemp("models"), torch.float32)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for _, _, text in caplog.record_tuples if text.startswith("LAGS: the prompt has")]


def check_usable(reward: Reward) -> None:
    assert torch.isfinite(reward(IMAGES)).all()
    grad = gradient(reward, IMAGES)
    assert torch.isfinite(grad).all() and (grad != 0).any()


@pytest.mark.parametrize("words", [0, 1, 30, 77, 500])
def test_reads_prompts_of_any_length(
    caplog: pytest.LogCaptureFixture, read: Reader, name: str, words: int
) -> None:
    """Each word is one token here; the model adds a start and an end."""
    check_usable(read("a " * words))
    assert bool(told(caplog)) == (words + 2 > LENGTH[name])


@pytest.mark.parametrize(("surplus", "warnings"), [(0, 0), (1, 1), (400, 1)])
def test_says_what_is_cut_with_the_numbers(
    caplog: pytest.LogCaptureFixture, read: Reader, name: str, surplus: int, warnings: int
) -> None:
    read("a " * (LENGTH[name] - 2 + surplus))
    assert len(told(caplog)) == warnings
    numbers = f"has {LENGTH[name] + surplus} tokens", f"the first {LENGTH[name]}."
    assert all(number in text for text in told(caplog) for number in numbers)


def test_what_is_cut_does_not_count_and_the_rest_does(read: Reader, name: str) -> None:
    fits = LENGTH[name] - 2
    prompts = ["a " * fits, "a " * 500, "a " * fits + "b " * 9, "a " * (fits - 1) + "b", "b"]
    full, longer, other_end, other, short = (read(prompt)(IMAGES) for prompt in prompts)
    assert torch.equal(full, longer) and torch.equal(full, other_end)
    assert (full != other).all() and (full != short).all()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_reads_any_script(read: Reader, text: str) -> None:
    check_usable(read(text))
