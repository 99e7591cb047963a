"""Weights of the bundled models, from their files."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in float32."""
    from safetensors.torch import load_file  # at the first use: the pack's import stays short

    return {name: value.float() for name, value in load_file(path).items()}
