"""What guidance costs at full size: arithmetic per image and memory for the gradient, counted.

ComfyUI's own UNets and decoders run on the meta device, which computes nothing: no GPU, no weights.
Arithmetic is torch's FLOP count, two for a multiply-add. The network of a preference model comes on
top of the guided rows of the second table. Memory is for one image: what is kept between forward
and backward, and the most that is alive at one time, neither with the weights nor with what kernels
take; in half precision, unless a row says float32. The last table is what each mode costs over
plain sampling as it is, with and without TAESD's file, the network of PickScore counted.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..demo.sampler import karras_sigmas
from ..guidance import MODES, plan, preset
from ._comfyui import ENCODERS, QWEN, Work, decoder, encoder, import_comfyui, unet
from ._report import parser, report

SIDES = {"SD1.5": 512, "SDXL": 1024}  # of the image, in pixels
SIGMAS = (0.0292, 14.6146)  # of both
TEXTBOOK = "balanced, reuse_gradient 1"
DECODERS = ("vae", "taesd", "latent-rgb")
DECODE_SIDES = (0, 448, 256)  # full, for an encoder of 224, for colour
STEPS = (4, 8, 20, 30)  # of the runs that users ask about
ROWS = 2  # of the UNet in one evaluation: with the prompt, and without


@dataclass(frozen=True)
class Calls:
    """What a run asks for.

    Attributes:
        model: evaluations of the denoiser, with and without the prompt.
        conditional: evaluations with the prompt alone.
        gradients: decodes with their backward pass.
        decodes: decodes without it.
        model_gradients: of ``model``, those with a backward pass through the UNet.
    """

    model: int
    conditional: int = 0
    gradients: int = 0
    decodes: int = 0
    model_gradients: int = 0


def tflop(calls: Calls, unet: Work, decoder: Work) -> float:
    """Arithmetic of one image."""
    return (
        (ROWS * calls.model + calls.conditional) * unet.forward
        + ROWS * calls.model_gradients * unet.backward
        + calls.gradients * (decoder.forward + decoder.backward)
        + calls.decodes * decoder.forward
    )


def saved(calls: Calls, unet: Work, decoder: Work) -> float:
    """GB kept for the backward pass; a gradient through the UNet keeps the decoder's share too."""
    rows = ROWS * unet.saved if calls.model_gradients else 0.0
    return rows + (decoder.saved if calls.gradients else 0.0)


def runs(steps: int) -> dict[str, Calls]:
    """Every method, by what it asks for in a run of KSampler with Karras' noise levels."""
    low, high = SIGMAS
    sigmas = karras_sigmas(steps, low, high)
    table = {"plain": Calls(steps)}
    methods = {mode: preset(mode) for mode in MODES}
    methods[TEXTBOOK] = replace(methods["balanced"], serves=1.0)
    for name, method in methods.items():
        made = plan(method, sigmas, lambda sigma, noise, latent: latent + sigma * noise)
        alone = made.total_second_calls if made.second_share < 1 else 0
        table[name] = Calls(
            made.total_calls - alone,
            conditional=alone,
            gradients=made.weight_calls,
            decodes=made.value_calls,
        )
    # Of each denoised image, through decoder and UNet, as DPS takes it.
    table["gradient through the UNet"] = Calls(steps, gradients=steps, model_gradients=steps)
    return table


def rows_of(
    family: str, table: dict[str, Calls], unet: Work, decoder_of: Callable[[str, int], Work]
) -> list[dict[str, Any]]:
    """One row for each method, decoder and size to decode at; ``unet`` is of one of its rows.

    ``decoder_of`` is (decoder, size; 0 for full) -> what one image takes.
    """
    side, nothing = SIDES[family], Work(0, 0, 0, 0, 0)
    plain = tflop(table["plain"], unet, nothing)
    rows = []
    for method, calls in table.items():
        for name in DECODERS if calls.gradients else [""]:
            for decode_side in sizes(name, side):
                work = decoder_of(name, decode_side) if name else nothing
                total = tflop(calls, unet, work)
                rows.append(
                    {
                        "model": family,
                        "method": method,
                        "decoder": name or None,
                        "decoded at": decode_side or seen_at(name, side),
                        "model calls": calls.model,
                        "cond calls": calls.conditional,
                        "gradients": calls.gradients,
                        "values": calls.decodes,
                        "TFLOP": round(total),
                        "TFLOP / plain": total / plain,
                        "GB saved": saved(calls, unet, work),
                    }
                )
    return rows


def usual_rows(
    family: str, unet: Work, decoder_of: Callable[[str, int], Work], network: Work
) -> list[dict[str, Any]]:
    """What each mode costs over plain, in few and many steps, as it is unless something is chosen.

    Args:
        family: one of ``SIDES``.
        unet: of one of its rows.
        decoder_of: as in ``rows_of``.
        network: of a preference model.
    """
    nothing = Work(0, 0, 0, 0, 0)
    weights = {"colour": (256, nothing), "PickScore": (448, network)}
    tables = {steps: runs(steps) for steps in STEPS}
    rows = []
    for weight, (side, own) in weights.items():
        for mode in MODES:
            # The paper's mode takes the VAE at full size by itself.
            ways = [("vae", 0)] if mode == "paper" else [("taesd", side), ("vae", side)]
            for name, decode_side in ways:
                look = both(decoder_of(name, decode_side), own)
                row = {"model": family, "weight": weight, "mode": mode, "decoder": name}
                row["decoded at"] = decode_side or SIDES[family]
                for steps, table in tables.items():
                    plain = tflop(table["plain"], unet, nothing)
                    row[f"{steps} steps"] = round(tflop(table[mode], unet, look) / plain, 2)
                rows.append(row)
    return rows


def both(decoder: Work, network: Work) -> Work:
    """The arithmetic of a decoder and of what looks at its image."""
    forward, backward = decoder.forward + network.forward, decoder.backward + network.backward
    return replace(decoder, forward=forward, backward=backward)


def sizes(decoder: str, side: int) -> list[int]:
    """The sizes of the table; latent-rgb is small already."""
    if decoder in ("", "latent-rgb"):
        return [0]
    return [size for size in DECODE_SIDES if size < side]


def seen_at(decoder: str, side: int) -> int | None:
    """Side in pixels of an image decoded at full size."""
    if not decoder:
        return None
    return side // 8 if decoder == "latent-rgb" else side


def network_row(family: str, name: str, side: int, work: Work) -> dict[str, Any]:
    """A network in the first table."""
    return {
        "model": family,
        "network": name,
        "side": side,
        "TFLOP forward": work.forward,
        "TFLOP backward": work.backward,
        "GB saved": work.saved,
        "GB at one time": work.peak,
        "GB reserved": work.reserved[0],
        "GB without a gradient": work.value,
        "GB reserved for that": work.reserved[1],
    }


def main(arguments: list[str]) -> None:
    """Print what the networks take, and what the methods come to."""
    options = parser("cost", __doc__)
    options.add_argument("--families", nargs="+", choices=SIDES, default=list(SIDES))
    options.add_argument("--steps", type=int, default=30)
    choice = options.parse_args(arguments)
    root = Path(os.environ["COMFYUI_PATH"])
    with tempfile.TemporaryDirectory(prefix="lags-cost-", ignore_cleanup_errors=True) as folder:
        import_comfyui(root, Path(folder))
        networks, rows, usual = [], [], []
        encoders = {name: encoder(name) for name in ENCODERS}
        networks += [network_row("", name, 224, work) for name, work in encoders.items()]
        for family in choice.families:
            side = SIDES[family]
            network = unet(family, side)
            networks.append(network_row(family, "UNet, one row", side, network))
            works = {}
            for name in DECODERS:
                for size in sizes(name, side):
                    works[name, size] = work = decoder(name, family, side, size)
                    networks.append(network_row(family, name, size or seen_at(name, side), work))
            rows += rows_of(family, runs(choice.steps), network, lambda *key, w=works: w[key])
            usual += usual_rows(family, network, lambda *key, w=works: w[key], encoders["ViT-H"])
        for label, family, dtype in (
            ("vae, float32", choice.families[-1], torch.float32),
            ("vae", QWEN, torch.float16),
        ):
            for side in (1024, 448):
                work = decoder("vae", family, side, dtype=dtype)
                networks.append(network_row(family, label, side, work))
    # One list per file, so that each is a flat table.
    report(networks, choice.json and choice.json.with_suffix(".networks.json"))
    print()
    report(rows, choice.json)
    print()
    report(usual, choice.json and choice.json.with_suffix(".usual.json"))
