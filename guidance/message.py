"""Sentences for the user that ComfyUI's page says in its own language."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Message:
    """An English sentence, and what the page needs to say the same in its language.

    Attributes:
        key: of the sentence in web/texts.
        english: the sentence there, with {names} in the places of the values.
        values: by name; the page writes numbers in its language's form, and strings as they are.
    """

    key: str
    english: str
    values: Mapping[str, str | int | float] = field(default_factory=dict)

    def __str__(self) -> str:
        written = {n: f"{v:g}" if isinstance(v, float) else v for n, v in self.values.items()}
        return self.english.format(**written)

    def to_json(self) -> dict[str, Any]:
        """Key and values, and the English for a page that does not know the key."""
        values = {
            name: value if isinstance(value, str) or math.isfinite(value) else str(value)
            for name, value in self.values.items()  # JSON has no number that is not finite
        }
        return {"key": self.key, "values": values, "text": str(self)}
