"""Captions of scenes, in several wordings."""

from __future__ import annotations

import torch

from .compose import Labels
from .subjects import COLOUR_WORDS, WORDS
from .text import VOCABULARY, split_words

# {s}, {t}: subjects; {as}, {at}: with their article; {c}, {ac}: the background's colour
ONE = (
    "{as} on {ac} background",
    "{s}, {c} background",
    "a picture of {as} on {c}",
    "{s} on {c}",
    "a photo of {as} against {ac} background",
    "{c} background with {as}",
    "a drawing of {as} in front of {ac} background",
    "{as}",
)
TWO = (
    "{as} and {at} on {ac} background",
    "{s} and {t}, {c} background",
    "{as} next to {at} on {c}",
    "a picture of {as} and {at} on {ac} background",
    "{s} with {t} on {c}",
    "{c} background, {s} and {t}",
    "{as} beside {at} against {ac} background",
    "{as} and {at}",
)
NAMING_COLOUR = range(len(ONE) - 1)  # the last wording leaves the background open


def with_article(word: str) -> str:
    """The word with a or an before it."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def caption(first: int, second: int, colour: int, wording: int = 0) -> str:
    """The caption of a scene; ``second`` below 0 where there is one subject."""
    s = WORDS[first]
    names = {"s": s, "as": with_article(s), "c": COLOUR_WORDS[colour]}
    names["ac"] = with_article(names["c"])
    if second < 0:
        return ONE[wording].format(**names)
    t = WORDS[second]
    return TWO[wording].format(**names, t=t, at=with_article(t))


def random_captions(labels: Labels, generator: torch.Generator) -> list[str]:
    """One caption per scene, in a random wording and order of the subjects."""
    count = labels.first.shape[0]
    wording = torch.randint(len(ONE), (count,), generator=generator).tolist()
    swap = (torch.rand(count, generator=generator) < 0.5).tolist()
    scenes = zip(*(column.tolist() for column in labels), strict=True)
    captions = []
    for (first, second, colour), index, swapped in zip(scenes, wording, swap, strict=True):
        if swapped and second >= 0:
            first, second = second, first
        captions.append(caption(first, second, colour, index))
    return captions


def read_labels(prompt: str) -> Labels:
    """What one prompt asks for: one or two subjects and a background.

    Raises:
        ValueError: it names none or more, or no colour.
    """
    words = [VOCABULARY[number] for number in split_words(prompt)[0]]
    subjects = [WORDS.index(word) for word in words if word in WORDS]
    colours = [COLOUR_WORDS.index(word) for word in words if word in COLOUR_WORDS]
    if len(subjects) not in (1, 2) or len(colours) != 1:
        raise ValueError(
            f"The prompt {prompt!r} names {len(subjects)} subjects and {len(colours)} colours; "
            "expected one or two subjects and the colour of the background, such as "
            f"{caption(0, 2, 5)!r}."
        )
    return Labels(*(torch.tensor([part]) for part in (*[*subjects, -1][:2], colours[0])))
