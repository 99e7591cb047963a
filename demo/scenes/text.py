"""Prompts: a vocabulary of words, a tokenizer, and the transformer that encodes them."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .subjects import COLOUR_WORDS, WORDS
from .unet import CONTEXT

OTHER_WORDS = (
    *("a", "an", "the", "and", "with", "on", "in", "of", "next", "to", "beside", "against"),
    *("picture", "photo", "image", "drawing", "background", "scene", "front", "together"),
)
PAD, START, END = 0, 1, 2
VOCABULARY = ("<pad>", "<start>", "<end>", *OTHER_WORDS, *COLOUR_WORDS, *WORDS)
TOKENS = 20  # of a prompt, with start and end
_NUMBERS = {word: number for number, word in enumerate(VOCABULARY)}
# spellings that mean a word of the vocabulary
_ALIASES = {"gray": "grey", "donut": "doughnut", "present": "gift", "hamburger": "burger"}
_ALIASES |= {"bunny": "rabbit", "kitten": "cat", "puppy": "dog", "color": "", "colour": ""}


def split_words(prompt: str) -> tuple[list[int], list[str]]:
    """The numbers of a prompt's known words, and the words that are not known.

    A plural that is not a word itself is read as its singular.
    """
    numbers: list[int] = []
    unknown: list[str] = []
    for written in re.findall(r"[^\W\d_]+", prompt.lower()):
        word = _ALIASES.get(written, written)
        singular = _ALIASES.get(word[:-1], word[:-1])
        if word not in _NUMBERS and word.endswith("s") and singular in _NUMBERS:
            word = singular
        if word in _NUMBERS:
            numbers.append(_NUMBERS[word])
        elif word and written not in unknown:
            unknown.append(written)
    return numbers, unknown


def pad(numbers: list[int]) -> list[int]:
    """Start, the words that fit, end, and padding to ``TOKENS``."""
    inside = numbers[: TOKENS - 2]
    return [START, *inside, END, *[PAD] * (TOKENS - 2 - len(inside))]


def tokenize(prompts: list[str]) -> Tensor:
    """[B, TOKENS] integers; unknown words are left out."""
    return torch.tensor([pad(split_words(prompt)[0]) for prompt in prompts])


class Layer(nn.Module):
    """Attention over all tokens but padding, and feed-forward; norms come first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(h.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class SceneTextEncoder(nn.Module):
    """Tokens [B, TOKENS] -> [B, TOKENS, width], normalised."""

    def __init__(self, width: int = CONTEXT, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(len(VOCABULARY), width)
        self.places = nn.Parameter(0.02 * torch.randn(TOKENS, width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.words.weight, std=0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places[: tokens.shape[1]]
        mask = (tokens != PAD)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)
