"""What the tests of weights share: the nodes with their inputs, runs, images and scores."""

from __future__ import annotations

import re
from typing import Any

import torch
from comfyui_support.executing import run_node
from comfyui_support.guided import Case
from comfyui_support.tiny import TinyModel
from lags_pack.guidance import Trace
from lags_pack.nodes.tools.demo import LAGSDemoModel
from lags_pack.nodes.weights.classifier import LAGSWeightClassifier
from lags_pack.nodes.weights.combine import LAGSCombineWeights, LAGSMaskWeight
from lags_pack.nodes.weights.load_weight import LAGSLoadWeight
from lags_pack.nodes.weights.reference import LAGSWeightReference
from lags_pack.rewards import Weight
from torch import Tensor

import nodes

PROMPT, VIT = "a red cat", "tiny-vit/model.safetensors"
# What the widgets hold when nobody touches them, but for the strength.
LOAD = {
    **{"file": "auto", "text_file": "same file", "clip": "auto", "prompt": PROMPT},
    **{"precision": "auto", "axis": "left-right", "strength": 1.0, "auto_nats": 0.0},
}


def load_weight(reward: str, **inputs: Any) -> Weight:
    """Load Weight Function, with the widgets it has for a reward."""
    (weight,) = run_node(LAGSLoadWeight, reward={"reward": reward, **LOAD, **inputs})
    return weight


def reference(image: Tensor, like: str = "content", **inputs: Any) -> Weight:
    chosen = {"file": "auto", "precision": "auto", "strength": 1.0, "auto_nats": 0.0}
    chosen |= {"heads": "auto"} if like == "perceptual" else {}
    (weight,) = run_node(LAGSWeightReference, image=image, like={"like": like, **chosen, **inputs})
    return weight


def classify(plain: Tensor | None = None, **chosen: Any) -> Weight:
    """Weight: classifier; `chosen` are its widgets and its goal's."""
    widgets = {"file": VIT, "precision": "auto", "strength": 1.0, "auto_nats": 0.0}
    given = {name: chosen.pop(name, usual) for name, usual in widgets.items()}
    extra = {} if plain is None else {"plain_images": plain}
    goal = {"goal": "balance", "targets": "", "rates": "", **chosen}
    return run_node(LAGSWeightClassifier, goal=goal, **given, **extra)[0]


def combine(*weights: Weight | None, exponents: str = "") -> Weight:
    """Combine Weights; the sockets count from 0, as the executor names them."""
    sockets = {f"weight{i}": weight for i, weight in enumerate(weights)}
    return run_node(LAGSCombineWeights, weights=sockets, exponents=exponents)[0]


def mask_weight(weight: Weight, mask: Tensor) -> Weight:
    return run_node(LAGSMaskWeight, weight=weight, mask=mask)[0]


def case_of(
    loaded: Any, batch: int = 4, size: int = 4, strength: float = 1.0, **settings: Any
) -> Case:
    """A tiny model at few steps, on images of 8 x `size` pixels; `strength` is of its weight."""
    usual = {
        **{"seed": 3, "steps": 4, "cfg": 2.0, "denoise": 1.0},
        **{"sampler_name": "euler_ancestral", "scheduler": "karras"},
        **{"positive": loaded.positive, "negative": loaded.negative},
        "latent_image": loaded.latent(batch, size),
    }
    return Case(loaded.model, loaded.vae, strength, usual | settings)


def demo_case(batch: int = 8, subject: str = "any", **settings: Any) -> Case:
    """The bundled model, which is trained; its latents are its pixels."""
    model, positive, negative, vae, latent = run_node(
        LAGSDemoModel, subject=subject, colour="any", batch_size=batch
    )
    loaded = TinyModel("demo", model, vae, positive, negative)
    return case_of(loaded, **{"cfg": 1.0, "latent_image": latent, **settings})


def pictures(case: Case, samples: Tensor) -> Tensor:
    (image,) = run_node(nodes.VAEDecode, vae=case.vae, samples={"samples": samples})
    return image


def gain_of(
    case: Case, weight: Weight, plain: Tensor, **changes: Any
) -> tuple[list[float], Trace, Tensor]:
    """What guidance brings: each term's mean gain over plain images, the trace, the latents."""
    guided, trace = case.lags(weight=weight, **changes)
    gain = scores(weight, pictures(case, guided)) - scores(weight, plain)
    return gain.mean(dim=1).tolist(), trace, guided


def scores(weight: Weight, image: Tensor) -> Tensor:
    """The score of every term [terms, B] of an IMAGE, straight from the rewards."""
    with torch.inference_mode(False), torch.no_grad():
        images = image.clone().movedim(-1, 1)
        return torch.stack([term.reward(images) for term in weight.terms])


def noise(count: int, height: int = 48, width: int = 40, seed: int = 1) -> Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def rows_of(table: str) -> list[dict[str, str]]:
    """A text table as one dictionary per row, by the column's name."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
