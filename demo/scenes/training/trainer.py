"""One training loop for all stages: Muon, averaged weights, and a state that can be continued."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .muon import Muon, is_hidden

Loss = Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]]


class Plan(NamedTuple):
    """How long and how fast to train."""

    steps: int  # the learning rate falls over the last fifth of them
    rate: float  # peak learning rate
    warm_up: int = 200
    average: float = 0.999  # decay of the averaged weights
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    edges: tuple[str, ...] = ()  # prefixes of weights that AdamW trains; Muon has the matrices
    save_seconds: float = 120.0
    log_steps: int = 50


def learning_rate(plan: Plan, step: int) -> float:
    """Warm-up, constant, then a cosine to zero over the last fifth."""
    warm = min(1.0, (step + 1) / plan.warm_up)
    left = max(0.0, plan.steps - step) / (0.2 * plan.steps)
    return plan.rate * warm * (1.0 if left >= 1 else 0.5 - 0.5 * math.cos(math.pi * left))


class Trainer:
    """A module in training, and everything that a later run needs to go on exactly.

    Args:
        module: what is trained, in place; float32.
        plan: how long and how fast.
        folder: where ``state.safetensors`` and ``average.safetensors`` are kept.
        seed: of the random numbers of a fresh start.
    """

    def __init__(self, module: nn.Module, plan: Plan, folder: Path, seed: int = 0) -> None:
        self.module, self.plan, self.folder = module, plan, folder
        self.averaged = copy.deepcopy(module).requires_grad_(False)
        self.names = {
            name: value for name, value in module.named_parameters() if value.requires_grad
        }
        hidden = [v for name, v in self.names.items() if is_hidden(name, v, plan.edges)]
        kept = {id(value) for value in hidden}
        others = [value for value in self.names.values() if id(value) not in kept]
        self.optimisers: list[torch.optim.Optimizer] = [
            Muon(hidden, plan.rate, weight_decay=plan.weight_decay),
            torch.optim.AdamW(others, plan.rate, betas=plan.betas, weight_decay=plan.weight_decay),
        ]
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.seconds = 0.0
        self.smooth: dict[str, float] = {}
        if (folder / "state.safetensors").is_file():
            self._load()

    def run(self, loss: Loss, until: int | None = None) -> None:
        """Train to ``until`` or the plan's end, saving now and then and at the end.

        A SIGTERM ends the run after the step that it falls into, with the state saved.
        """
        end = self.plan.steps if until is None else min(until, self.plan.steps)
        saved = time.time()
        asked_to_stop: list[int] = []
        before = signal.signal(signal.SIGTERM, lambda number, frame: asked_to_stop.append(number))
        while self.step < end and not asked_to_stop:
            start = time.time()
            self._one_step(loss)
            self.seconds += time.time() - start
            if self.step % self.plan.log_steps == 0:
                self._log()
            if time.time() - saved > self.plan.save_seconds:
                self.save()
                saved = time.time()
        self.save()
        signal.signal(signal.SIGTERM, before)
        if asked_to_stop:
            raise SystemExit(f"stopped at step {self.step}; the same command goes on")

    def _one_step(self, loss: Loss) -> None:
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(self.plan, self.step)
        value, parts = loss(self.step, self.generator)
        self.module.zero_grad()
        value.backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        if not bool(torch.isfinite(norm)):
            raise FloatingPointError(f"The gradient is not finite at step {self.step}.")
        for optimiser in self.optimisers:
            optimiser.step()
        decay = min(self.plan.average, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            pairs = zip(self.averaged.parameters(), self.module.parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast, 1 - decay)
        self.step += 1
        for name, number in {"loss": value.item(), **parts}.items():
            before = self.smooth.get(name, number)
            self.smooth[name] = before + 0.02 * (number - before)

    def _log(self) -> None:
        parts = "  ".join(f"{name} {value:.4f}" for name, value in self.smooth.items())
        print(f"step {self.step:6d}  {self.seconds:7.0f} s  {parts}", flush=True)

    def save(self) -> None:
        """Write the whole state, and the averaged weights on their own; each file in one move."""
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        averaged = self.averaged.state_dict()
        tensors |= {f"average.{name}": value for name, value in averaged.items()}
        for name, weight in self.names.items():
            for optimiser in self.optimisers:
                found = optimiser.state.get(weight, {})
                tensors |= {f"optimiser.{key}.{name}": value for key, value in found.items()}
        tensors["generator"] = self.generator.get_state()
        about = {"step": self.step, "seconds": self.seconds, "smooth": self.smooth}
        write(tensors, self.folder / "state.safetensors", {"about": json.dumps(about)})
        write(averaged, self.folder / "average.safetensors")

    def _load(self) -> None:
        from safetensors import safe_open

        with safe_open(self.folder / "state.safetensors", framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads(file.metadata()["about"])

        def part(prefix: str) -> dict[str, Tensor]:
            chosen = {name for name in tensors if name.startswith(prefix)}
            return {name.removeprefix(prefix): tensors[name] for name in chosen}

        self.module.load_state_dict(part("module."))
        self.averaged.load_state_dict(part("average."))
        for name, value in part("optimiser.").items():
            key, _, weight = name.partition(".")
            for optimiser in self.optimisers:
                held = {id(one) for group in optimiser.param_groups for one in group["params"]}
                if id(self.names[weight]) in held:
                    optimiser.state[self.names[weight]][key] = value
        self.generator.set_state(tensors["generator"])
        self.step, self.seconds, self.smooth = about["step"], about["seconds"], about["smooth"]


def write(tensors: dict[str, Tensor], path: Path, about: dict[str, str] | None = None) -> None:
    """Write a safetensors file beside its place, then move it there."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    # a name that two tensors share, and memory formats, are no business of the file
    whole = {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    save_file(whole, path.with_suffix(".part"), about)
    os.replace(path.with_suffix(".part"), path)


def save_half(weights: dict[str, Tensor], path: Path) -> None:
    """The weights alone, as float16."""
    write({name: value.half() for name, value in weights.items()}, path)
