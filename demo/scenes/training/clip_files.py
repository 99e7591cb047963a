"""A small CLIPModel of transformers as published files, with a BPE tokenizer of its own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from torch import nn

from ..text import VOCABULARY
from .trainer import save_half

SIDE, PATCH, LENGTH, SHARED = 64, 8, 24, 64
MEAN = STD = (0.5, 0.5, 0.5)
START, END = "<|startoftext|>", "<|endoftext|>"
VISION: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
    "hidden_act": "quick_gelu",
}
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": LENGTH,
    "hidden_act": "quick_gelu",
}


def words() -> list[str]:
    """The words that are one token each."""
    return [word for word in VOCABULARY if not word.startswith("<")]


def byte_pairs(vocabulary: list[str]) -> list[tuple[str, str]]:
    """Merges of byte-pair encoding, most frequent pair first, until every word is one token.

    Source: Sennrich et al. 2016, with CLIP's mark of a word's end.
    """
    parts = [[*word[:-1], word[-1] + "</w>"] for word in vocabulary]
    merges: list[tuple[str, str]] = []
    while any(len(part) > 1 for part in parts):
        counts = Counter(pair for part in parts for pair in zip(part, part[1:], strict=False))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        parts = [_merged(part, best) for part in parts]
    return merges


def _merged(part: list[str], pair: tuple[str, str]) -> list[str]:
    done: list[str] = []
    for symbol in part:
        if done and (done[-1], symbol) == pair:
            done[-1] += symbol
        else:
            done.append(symbol)
    return done


def token_numbers() -> dict[str, int]:
    """The tokenizer's vocabulary: bytes, bytes at a word's end, merges, start, end."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += ["".join(pair) for pair in byte_pairs(words())]
    return {token: number for number, token in enumerate(dict.fromkeys([*tokens, START, END]))}


def clip_model() -> Any:
    """The model, with random weights."""
    from transformers import CLIPConfig, CLIPModel

    numbers = token_numbers()
    special = {
        "vocab_size": len(numbers),
        "bos_token_id": numbers[START],
        "eos_token_id": numbers[END],
        "pad_token_id": numbers[END],
    }
    config = CLIPConfig(
        text_config={**TEXT, **special, "projection_dim": SHARED},
        vision_config={**VISION, "projection_dim": SHARED},
        projection_dim=SHARED,
    )
    # For 64 tokens plain attention is the faster one on a processor, four times in the backward.
    return CLIPModel._from_config(config, attn_implementation="eager")  # noqa: SLF001


def write_tokenizer(folder: Path) -> None:
    """vocab.json, merges.txt and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in byte_pairs(words()))]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write_json(folder / "vocab.json", token_numbers())
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    kind = {"model_max_length": LENGTH, "tokenizer_class": "CLIPTokenizer"}
    _write_json(folder / "tokenizer_config.json", {**special, **kind})


def write_folder(model: nn.Module, folder: Path) -> None:
    """The model's whole folder, as its page would have it; weights in float16."""
    write_tokenizer(folder)
    save_half(model.state_dict(), folder / "model.safetensors")
    config: Any = model.config
    _write_json(folder / "config.json", config.to_dict())
    size = {"shortest_edge": SIDE}
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            **{"do_resize": True, "size": size, "resample": 3, "do_rescale": True},
            **{"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}},
            **{"do_normalize": True, "image_mean": list(MEAN), "image_std": list(STD)},
        },
    )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer, as the scorers load it."""
    from transformers import CLIPTokenizer

    if not (folder / "vocab.json").is_file():
        write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
