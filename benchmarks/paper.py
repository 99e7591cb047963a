"""The paper's main experiment on the bundled text-to-image model: preference alignment.

Every method draws the same prompts from the same seeds, with the bundled PickScore as its weight:
at the paper's own strength (100 nats per unit of score, a unit being one logit of preference;
1/beta = 1e4 on the cosine of the published one), and at an automatic one, 2 nats per standard
deviation of the score. What counts is the judge, which nothing is guided by. Methods take turns
prompt by prompt, so a noisy moment hits all alike. On fewer prompts a sweep of c, and others of the
strength. With --keep an interrupted run goes on, and only what is missing is drawn.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..demo.scenes.diffusion import SceneDenoiser
from ..guidance import DPS, FreeDoM, Method, preset
from ..guidance.methods.lidar import COUNT as LOOKAHEAD
from ..guidance.particles import best, gather
from ..rewards import PickScore, Weight
from ._family import Task, lidar, run_best_of, run_guided, run_particles, run_plain
from ._judge import Judge, Real, load_judge, load_real
from ._paper_plot import draw
from ._report import parser, report
from ._scenes import (
    CountedLogWeight,
    Prompt,
    Scenes,
    deviation,
    frechet_distance,
    look,
    pairwise_distance,
    prompts,
)

PARTICLES = 4
PLAIN, RULER = "plain", "LAGS, paper"  # the run time of the ruler is 1.0
NO_STRENGTH = "-"
PAPERS, NATS = "paper's own", "{:g} nats"
C_SWEEP = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
STRENGTHS = (1.0, 3.0)  # nats, of every method
STRENGTH_SWEEP = (10.0, 30.0, 100.0)  # of these:
SWEPT = (RULER, "LAGS, balanced", "DPS", "DAS, 1 particle")
BACKWARD = 2  # forwards that a backward pass counts as


class Calls(NamedTuple):
    """What one image cost.

    Attributes:
        branches: evaluations of one branch of the UNet, backward passes counted as two.
        gradients: of the weight.
        values: of the weight without a gradient.
    """

    branches: float
    gradients: float
    values: float


Run = Callable[[Task, int, int], Tensor]  # (task, groups, seed) -> latents [G, ...]


def with_method(make: Callable[[Task], Method]) -> Run:
    """A run that a method guides."""
    return lambda task, groups, seed: run_guided(
        task, make(task), task.sigmas(task.steps), groups, seed
    )[0]


def with_particles(name: str, count: int) -> Run:
    """The best of a group of particles."""

    def run(task: Task, groups: int, seed: int) -> Tensor:
        found = run_particles(name, task, task.steps, count, groups, seed)
        return gather(found, best(found))[:, 0]

    return run


def best_plain(count: int) -> Run:
    """The best of plain images."""
    return lambda task, groups, seed: run_best_of(task, count, groups, seed).samples


def looked_ahead(task: Task, groups: int, seed: int) -> Tensor:
    """LiDAR with its published number of lookahead images."""
    method = lidar(task, LOOKAHEAD, groups, seed)
    return run_guided(task, method, task.sigmas(task.steps), groups, seed)[0]


def freedom(task: Task) -> FreeDoM:
    """FreeDoM bound to a run."""
    return FreeDoM(sigmas=task.sigmas(task.steps))


def lags(mode: str, c: float = 10.0) -> Run:
    """LAGS in one of its modes."""
    return with_method(lambda task: preset(mode, c))


RUNS: dict[str, Run] = {
    PLAIN: run_plain,
    RULER: lags("paper"),
    "LAGS, balanced": lags("balanced"),
    "LAGS, fast": lags("fast"),
    "DPS": with_method(lambda task: DPS()),
    "FreeDoM": with_method(freedom),
    f"DAS, {PARTICLES} particles": with_particles("das", PARTICLES),
    "DAS, 1 particle": with_particles("das_1p", 1),
    "LiDAR": looked_ahead,
    f"FK-steering, {PARTICLES} particles": with_particles("fk", PARTICLES),
    f"best of {PARTICLES}": best_plain(PARTICLES),
}
WITHOUT_STRENGTH = (PLAIN, "FreeDoM", f"best of {PARTICLES}")  # it changes nothing they draw


@dataclass(frozen=True)
class Setting:
    """One row of a table.

    Attributes:
        table: main, c or strength.
        method: a name of ``RUNS``, or one with its c.
        strength: nats per standard deviation of the score; ``math.inf`` is the paper's own, 0 one
            that changes nothing.
        run: how it is drawn.
    """

    table: str
    method: str
    strength: float
    run: Run

    @property
    def label(self) -> str:
        """The strength in words."""
        if not self.strength:
            return NO_STRENGTH
        return PAPERS if math.isinf(self.strength) else NATS.format(self.strength)

    @property
    def slug(self) -> str:
        """A folder's name."""
        words = f"{self.method} {self.label}".replace(",", "").replace("'", "")
        return words.replace(" ", "_").replace(NO_STRENGTH, "any")


def settings(methods: Sequence[str], nats: Sequence[float], sweeps: bool) -> list[Setting]:
    """All rows: the main table's, then those of the sweeps that it lacks."""
    rows = [
        Setting("main", name, strength, RUNS[name])
        for name in methods
        for strength in ([0.0] if name in WITHOUT_STRENGTH else [math.inf, *nats])
    ]
    if sweeps:
        rows += [Setting("c", f"LAGS, paper, c = {c:g}", 2.0, lags("paper", c)) for c in C_SWEEP]
        rows += [
            Setting("strength", name, strength, RUNS[name])
            for name in methods
            if name not in WITHOUT_STRENGTH
            for strength in STRENGTHS + (STRENGTH_SWEEP if name in SWEPT else ())
            if strength not in nats
        ]
    return rows


class Kept(NamedTuple):
    """One prompt's images by one setting."""

    latents: Tensor
    seconds: float
    calls: Calls
    nats: float  # per unit of score


@dataclass(frozen=True)
class Bench:
    """What all rows share."""

    scenes: Scenes
    judge: Judge
    real: Real
    seeds: int
    steps: int
    cfg: float
    folder: Path | None = None
    workers: int = 1  # settings that are drawn at once

    def kept(self, setting: Setting, number: int, prompt: Prompt) -> Kept:
        """What was drawn before, or is drawn now."""
        path = self.folder / setting.slug / f"{number:03d}.safetensors" if self.folder else None
        if path is not None and path.is_file():
            return _read(path)
        found = self.drawn(setting, number, prompt)
        if path is not None:
            _write(found, path)
        return found

    def drawn(self, setting: Setting, number: int, prompt: Prompt) -> Kept:
        """Draw one prompt's images; the clock runs from the measured strength on."""
        reward = self.scenes.scorer(PickScore, prompt.text)
        nats = PickScore.default_strength  # the paper's
        if setting.strength and math.isfinite(setting.strength):
            unit = self.scenes.task(prompt.text, Weight.of(reward, 1.0), self.cfg, self.steps)
            nats = setting.strength / deviation(unit)
        weight = Weight.of(reward, nats)
        task = self.scenes.task(prompt.text, weight, self.cfg, self.steps)
        start = perf_counter()
        latents = setting.run(task, self.seeds, number)
        seconds = perf_counter() - start
        return Kept(latents, seconds, self._calls(task), nats)

    def _calls(self, task: Task) -> Calls:
        denoiser, weight = task.denoiser, task.log_weight
        assert isinstance(denoiser, SceneDenoiser)  # noqa: S101
        assert isinstance(weight, CountedLogWeight)  # noqa: S101
        branches = denoiser.branches + BACKWARD * denoiser.backwards
        counted = (branches, weight.gradients, weight.values)
        return Calls(*(number / self.seeds for number in counted))


def _read(path: Path) -> Kept:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        latents = file.get_tensor("latents")
    return Kept(latents, about["seconds"], Calls(*about["calls"]), about["nats"])


def _write(kept: Kept, path: Path) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"seconds": kept.seconds, "calls": kept.calls, "nats": kept.nats}
    save_file({"latents": kept.latents.contiguous()}, path, {"about": json.dumps(about)})


def error(values: Tensor) -> float:
    """Standard error of the mean of independent values."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


class Measured(NamedTuple):
    """A setting over its prompts: [P] or [P, G] each."""

    score: Tensor
    log_fulfilled: Tensor
    subject: Tensor
    fulfilled: Tensor
    broken: Tensor
    features: Tensor  # [P, G, F]


def measured(bench: Bench, asked: Sequence[Prompt], kept: Sequence[Kept]) -> Measured:
    """Decode by the VAE, score, and let the judge look."""
    columns: list[tuple[Tensor, ...]] = []
    for prompt, one in zip(asked, kept, strict=True):
        images = bench.scenes.images(one.latents)
        with torch.no_grad():
            score = bench.scenes.scorer(PickScore, prompt.text)(images)
        seen = look(bench.judge, bench.real, images, prompt.labels)
        columns.append((score, *seen[:4], seen.features @ bench.real.directions))
    return Measured(*(torch.stack(column) for column in zip(*columns, strict=True)))


def row(
    setting: Setting,
    found: Measured,
    kept: Sequence[Kept],
    ruler: Sequence[Kept] | None,
    hard: Tensor,
    real: Real,
    plain: Measured | None = None,
) -> dict[str, Any]:
    """One line of the table; errors are over prompts, those of gains over plain over pairs.

    Without a ruler there is no time, for a time alone says nothing.
    """
    share = found.fulfilled.mean(dim=1)
    pairs = zip(kept, ruler or (), strict=False)
    return {
        "table": setting.table,
        "method": setting.method,
        "strength": setting.label,
        "nats": mean(one.nats for one in kept) if setting.strength else 0.0,
        "time": median(one.seconds / other.seconds for one, other in pairs) if ruler else None,
        "branches": mean(one.calls.branches for one in kept),
        "gradients": mean(one.calls.gradients for one in kept),
        "values": mean(one.calls.values for one in kept),
        "score": float(found.score.mean()),
        "score +-": error(found.score.mean(dim=1)),
        "judge": float(found.log_fulfilled.mean()),
        "judge +-": error(found.log_fulfilled.mean(dim=1)),
        "subject %": 100 * float(found.subject[~hard].mean()) if not bool(hard.all()) else None,
        **_gains(found, plain),
        "fulfilled %": 100 * float(share.mean()),
        "fulfilled +-": 100 * error(share),
        "hard %": 100 * float(share[hard].mean()) if bool(hard.any()) else None,
        "Frechet": frechet_distance(found.features.flatten(0, 1), *real.law),
        "broken %": 100 * float(found.broken.mean()),
        "diversity": mean(pairwise_distance(each) for each in found.features),
        "images": found.score.numel(),
    }


def _gains(found: Measured, plain: Measured | None) -> dict[str, float]:
    """What the judge says more than of plain images of the same prompts and noise."""
    if plain is None:
        return {}
    count = len(found.score)
    gain = (found.log_fulfilled - plain.log_fulfilled[:count]).mean(dim=1)
    more = 100 * (found.fulfilled - plain.fulfilled[:count]).mean(dim=1)
    return {
        "judge gain": float(gain.mean()),
        "gain +-": error(gain),
        "fulfilled gain, %": float(more.mean()),
        "fulfilled gain +-": error(more),
    }


def rows_of(
    bench: Bench,
    asked: Sequence[Prompt],
    chosen: Sequence[Setting],
    swept: int,
    first: int = 0,
) -> list[dict[str, Any]]:
    """Draw and measure all settings, prompt by prompt; the sweeps take the first ``swept``.

    Prompts are numbered from ``first`` on: a number is also the seed.
    """
    kept: dict[Setting, list[Kept]] = {setting: [] for setting in chosen}
    with ThreadPoolExecutor(bench.workers) as pool:
        for number, prompt in enumerate(asked):
            start = perf_counter()
            wanted = [known for known in chosen if known.table == "main" or number < swept]
            draw_one = partial(bench.kept, number=first + number, prompt=prompt)
            for setting, drawn in zip(wanted, pool.map(draw_one, wanted), strict=True):
                kept[setting].append(drawn)
            seconds = perf_counter() - start
            print(f"{number + 1}/{len(asked)} {prompt.text}: {seconds:.0f} s", flush=True)
    hard = torch.tensor([prompt.is_hard for prompt in asked])
    rulers = {setting.label: drawn for setting, drawn in kept.items() if setting.method == RULER}
    rows, plain = [], None
    for setting, drawn in kept.items():
        count = len(drawn)
        ruler = rulers.get(setting.label) or next(iter(rulers.values()), None)
        found = measured(bench, asked[:count], drawn)
        plain = found if setting.method == PLAIN else plain
        rows.append(row(setting, found, drawn, ruler, hard[:count], bench.real, plain))
    return rows


def gains(rows: Iterable[dict[str, Any]]) -> list[str]:
    """What the paper claims, in our numbers: who has the best judged score, and in what time."""
    main_rows = [found for found in rows if found["table"] == "main"]
    lines = []
    for strength in dict.fromkeys(found["strength"] for found in main_rows):
        if strength == NO_STRENGTH:
            continue
        mine = [found for found in main_rows if found["strength"] in (strength, NO_STRENGTH)]
        top = sorted(mine, key=lambda found: -found["judge"])[:3]
        lines.append(f"{strength}: best judged {', '.join(map(_in_words, top))}")
    return lines


def _in_words(found: dict[str, Any]) -> str:
    taken = "" if found["time"] is None else f" (time {found['time']:.2f})"
    return f"{found['method']} {found['judge']:.2f}{taken}"


def main(arguments: list[str]) -> None:
    """Print the tables."""
    options = parser("paper", __doc__)
    options.add_argument("--prompts", type=int, default=60, help="every third is a hard one")
    options.add_argument("--first", type=int, default=0, help="how many prompts to leave out")
    options.add_argument("--seeds", type=int, default=4, help="images of each prompt")
    options.add_argument("--steps", type=int, default=50, help="ancestral steps")
    options.add_argument("--cfg", type=float, default=5.0, help="the paper's code base has 5")
    options.add_argument("--methods", nargs="+", default=list(RUNS), help="some, by name")
    options.add_argument("--nats", type=float, nargs="*", default=[2.0])
    options.add_argument("--swept", type=int, default=12, help="prompts of the sweeps; 0 is none")
    options.add_argument("--half", action="store_true", help="small decoder in bfloat16")
    options.add_argument(
        "--workers", type=int, default=min(2, os.cpu_count() or 1), help="methods drawn at once"
    )
    options.add_argument("--keep", type=Path, help="folder for what was drawn, for a later run")
    options.add_argument("--plot", type=Path, help="draw the frontier into this PNG file")
    choice = options.parse_args(arguments)
    _check(options, choice)
    torch.set_num_threads(1)
    looks = load_judge(), load_real()
    scenes = Scenes(half=choice.half).loaded()
    bench = Bench(
        scenes, *looks, choice.seeds, choice.steps, choice.cfg, choice.keep, choice.workers
    )
    chosen = settings(choice.methods, choice.nats, choice.swept > 0)
    asked = prompts(choice.first + choice.prompts)[choice.first :]
    rows = rows_of(bench, asked, chosen, choice.swept, choice.first)
    report(rows, choice.json)
    print("\n".join(gains(rows)))
    if choice.plot:
        draw(rows, choice.plot)
        print(f"Plot written to {choice.plot}")


def _check(options: argparse.ArgumentParser, choice: argparse.Namespace) -> None:
    if not set(choice.methods) <= set(RUNS):
        options.error(f"--methods: expected some of {'; '.join(RUNS)}")
    if min(choice.prompts, choice.steps, choice.workers) < 1 or choice.seeds < 2:
        options.error("--prompts, --steps and --workers must be 1 or more, --seeds 2 or more")
    if choice.first < 0:
        options.error(f"--first is {choice.first}; expected 0 or more")
    if not all(nats > 0 and math.isfinite(nats) for nats in choice.nats):
        options.error("--nats: expected finite numbers above 0")
    if choice.plot and RULER not in choice.methods:
        options.error(f"--plot: times are those of '{RULER}', which --methods leaves out")
    choice.swept = min(choice.swept, choice.prompts)
    choice.methods = list(dict.fromkeys(choice.methods))
