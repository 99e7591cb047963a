"""A prompt as a reward's own text encoder reads it: without what only ComfyUI's encoders know."""

from __future__ import annotations

import logging
import re

from comfy.sd1_clip import escape_important, token_weights, unescape_important

EMBEDDING = re.compile(r"(?<!\S)embedding:[^\s,]+,?", re.IGNORECASE)


def plain_prompt(prompt: str) -> str:
    """The words of a prompt without emphasis, such as (red:1.3), and embeddings; that is said.

    A reward's network was trained on sentences: to it the brackets and numbers are words too.
    """
    words = "".join(part for part, _ in token_weights(escape_important(prompt), 1.0))
    plain = EMBEDDING.sub("", unescape_important(words)).strip()
    if plain == prompt.strip():
        return prompt
    logging.warning(
        "LAGS: rewards read no emphasis and no embeddings of ComfyUI: the image is judged by %r.",
        plain,
    )
    return plain
