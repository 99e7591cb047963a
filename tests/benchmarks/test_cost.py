"""The cost table's arithmetic; its counts of ComfyUI's networks are in tests/comfyui."""

from __future__ import annotations

import pytest
import torch
from lags_pack.benchmarks import cost
from lags_pack.benchmarks._memory import held_bytes, peak_bytes, saved_bytes
from lags_pack.benchmarks.cost import Calls, Work
from lags_pack.demo.sampler import karras_sigmas
from lags_pack.guidance import MODES, plan, preset
from torch import Tensor

UNET = Work(forward=2.0, backward=3.0, saved=10.0, peak=11.0, value=1.0)
DECODER = Work(forward=0.5, backward=0.7, saved=1.0, peak=1.5, value=0.3)


@pytest.mark.parametrize(
    ("calls", "tflop", "saved"),
    [
        (Calls(3), 3 * 2 * 2.0, 0),
        (Calls(3, conditional=2), 16.0, 0),
        (Calls(3, gradients=2), 12 + 2 * 1.2, 1),
        (Calls(3, decodes=2), 12 + 1.0, 0),
        (Calls(3, model_gradients=3), 12 + 3 * 2 * 3.0, 20),
        (Calls(3, gradients=1, model_gradients=1), 12 + 1.2 + 2 * 3.0, 21),
    ],
)
def test_arithmetic_of_a_run(calls: Calls, tflop: float, saved: float) -> None:
    assert cost.tflop(calls, UNET, DECODER) == pytest.approx(tflop)
    assert cost.saved(calls, UNET, DECODER) == saved


def test_the_modes_calls_are_the_plans() -> None:
    table = cost.runs(12)
    sigmas = karras_sigmas(12, *cost.SIGMAS)
    for mode in MODES:
        made = plan(preset(mode), sigmas, lambda sigma, noise, latent: latent + sigma * noise)
        assert table[mode].model + table[mode].conditional == made.total_calls
        assert table[mode].conditional == (made.total_second_calls if mode == "balanced" else 0)
        assert (table[mode].gradients, table[mode].decodes) == (made.weight_calls, made.value_calls)
    assert table["plain"] == Calls(12)
    assert table["paper"] == Calls(24, gradients=12)


def test_the_table_has_every_method_decoder_and_size() -> None:
    asked = []

    def decoder_of(name: str, size: int) -> Work:
        asked.append((name, size))
        return DECODER

    rows = cost.rows_of("SDXL", cost.runs(10), UNET, decoder_of)
    assert rows[0]["method"] == "plain" and rows[0]["TFLOP / plain"] == 1
    assert rows[0]["decoder"] is None and rows[0]["decoded at"] is None
    assert set(asked) == {
        *((name, size) for name in cost.DECODERS[:2] for size in (0, 448, 256)),
        ("latent-rgb", 0),
    }
    small = [row["decoded at"] for row in rows if row["decoder"] == "latent-rgb"]
    assert set(small) == {128}
    paper = [row for row in rows if row["method"] == "paper"]
    assert {row["TFLOP / plain"] for row in paper} == {(80 + 12) / 40}
    assert {row["decoded at"] for row in paper} == {1024, 448, 256, 128}


def test_what_users_pay_counts_the_network_and_every_number_of_steps() -> None:
    network = Work(forward=1.0, backward=1.5, saved=0, peak=0, value=0)
    rows = cost.usual_rows("SDXL", UNET, lambda name, side: DECODER, network)
    assert len(rows) == 2 * (2 + 2 + 1), "weights x (balanced and fast with two decoders, paper)"
    by = {(row["weight"], row["mode"], row["decoder"]): row for row in rows}
    assert {row["decoded at"] for row in rows} == {256, 448, 1024}
    paper = {weight: by[weight, "paper", "vae"]["20 steps"] for weight in ("colour", "PickScore")}
    assert paper == pytest.approx({"colour": 2 + 1.2 / 4, "PickScore": 2 + 3.7 / 4}, abs=0.006)
    balanced = by["PickScore", "balanced", "taesd"]
    assert balanced["4 steps"] > balanced["8 steps"] > balanced["30 steps"] > 1


# ---- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_saved_memory_counts_once(device: str) -> None:
    """relu keeps its result, which the next product keeps too; the weight is there anyway."""
    x = torch.zeros(8, 4, device=device, requires_grad=True)
    weight = torch.zeros(4, 4, device=device, requires_grad=True)

    def run() -> Tensor:
        return (x @ weight).relu() @ weight

    assert saved_bytes(run, [weight, x]) == 8 * 4 * 4
    assert saved_bytes(run, [weight]) == 2 * 8 * 4 * 4
    assert held_bytes(run) == 2 * 8 * 4 * 4, "with what it returns, without what was there"
    with torch.no_grad():
        assert held_bytes(run) == 8 * 4 * 4


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_peak_is_the_most_that_lives_at_one_time(device: str) -> None:
    x = torch.zeros(100, device=device)

    def one_after_another() -> object:
        y = x + 1
        del y
        return x + 2

    def both() -> object:
        y = x + 1
        z = y.view(10, 10).add_(1)  # no memory of its own
        return x + 2, z

    assert peak_bytes(one_after_another) == 400
    assert peak_bytes(both) == 800
