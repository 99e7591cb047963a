"""The demo: a prompt drawn plainly and with LAGS, the same seeds, as a table and an image.

``python3 dev.py demo`` needs neither a GPU nor a download: model and scorers come with the pack.
The weight is the bundled CLIP score of a wish that says more than the prompt. Below each image
stands how sure the judge is that the wish is fulfilled; nothing is guided by the judge.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from ..demo.pictures import Row, plot_schedules, save_rows
from ..demo.scenes.captions import read_labels
from ..guidance import MODES, Trace, plan, preset
from ..rewards import ClipScore, Weight
from ._family import Task, run_guided, run_plain
from ._judge import load_judge, log_fulfilled
from ._scenes import Scenes, deviation
from .paper import PLAIN

ROOT = Path(__file__).resolve().parents[1]
SLIGHT = 0.02  # mean change of a colour, of 1: less is hardly seen


class Drawn(NamedTuple):
    """Images of one method, and what they took."""

    images: Tensor
    seconds: float
    trace: Trace


def main(arguments: list[str]) -> None:
    """Draw, print the table, write the images, and say where they are."""
    choice = _options(arguments)
    choice.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # for networks so small, more wait for each other
    scenes, judge = Scenes(), load_judge()
    reward = scenes.scorer(ClipScore, choice.wish)
    asked = choice.prompt, Weight.of(reward, 1.0), choice.cfg, choice.steps
    nats = choice.nats / deviation(scenes.task(*asked))
    task = scenes.task(choice.prompt, Weight.of(reward, nats), choice.cfg, choice.steps)
    print(f"Prompt: {choice.prompt}\nWeight: CLIP score of '{choice.wish}', ", end="")
    print(f"automatic strength {choice.nats:g} ({nats:.0f} nats per unit of score)")
    print("method    CLIP score  judge   change  model calls  gradients  seconds")
    rows: list[Row] = []
    for name in (PLAIN, *MODES):
        images, seconds, trace = drawn(scenes, task, name, choice.images, choice.seed)
        sure = log_fulfilled(judge(images), choice.labels).exp()
        rows.append(Row(name, images, [f"{value:.0%}" for value in sure.tolist()]))
        change = float((images - rows[0].images).abs().mean())
        calls = trace.model_calls or choice.steps
        with torch.no_grad():
            score = float(reward(images).mean())
        why = f"  {acts_late(name, task)}" if name != PLAIN and change < SLIGHT else ""
        print(
            f"{name:9} {score:10.4f} {float(sure.mean()):6.0%} {change:8.3f} {calls:12d} "
            f"{trace.weight_calls:10d} {seconds:8.1f}{why}",
            flush=True,
        )
    side_by_side, schedule = choice.out / "demo.png", choice.out / "schedule.png"
    save_rows(rows, side_by_side)
    plot_schedules(task.sigmas(choice.steps), schedule)
    print(f"Same seeds, one row per method, the judge's probability below: {side_by_side}")
    print(f"What each schedule does at every noise level: {schedule}")


def drawn(scenes: Scenes, task: Task, name: str, count: int, seed: int) -> Drawn:
    """Plain images, or those of a mode, from the same noise."""
    start, trace = perf_counter(), Trace()
    if name == PLAIN:
        latents = run_plain(task, count, seed)
    else:
        latents, trace = run_guided(task, preset(name), task.sigmas(task.steps), count, seed)
    seconds = perf_counter() - start
    return Drawn(scenes.images(latents), seconds, trace)


def acts_late(mode: str, task: Task) -> str:
    """Why a mode changes little: from which noise level on it guides with half of its strength."""
    made = plan(preset(mode), task.sigmas(task.steps), lambda sigma, noise, x: x + sigma * noise)
    half = made.sigma_ve[made.alpha >= made.alpha.max() / 2][0]
    return (
        f"changes little: it guides from noise level {half:.2f} on, of {made.sigma_ve[0]:.1f}, "
        "where the subjects are decided"
    )


def _options(arguments: list[str]) -> argparse.Namespace:
    options = argparse.ArgumentParser(prog="dev.py demo", description=__doc__)
    options.add_argument("--prompt", default="a cat", help="what the model is asked for")
    options.add_argument("--wish", default="a cat on a blue background", help="what w favours")
    options.add_argument("--nats", type=float, default=3.0, help="automatic strength")
    options.add_argument("--images", type=int, default=6)
    options.add_argument("--steps", type=int, default=25)
    options.add_argument("--cfg", type=float, default=2.0)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--out", type=Path, default=ROOT / "output")
    choice = options.parse_args(arguments)
    try:
        choice.labels = read_labels(choice.wish)
    except ValueError as error:
        options.error(str(error))
    return choice
