"""Small prompts in API format on the bundled model, sampled in every way that the pack knows."""

from __future__ import annotations

from typing import Any

Prompt = dict[str, Any]
KSAMPLER = {"steps": 2, "cfg": 1.0, "scheduler": "karras", "denoise": 1.0}
PARTICLES = {
    **{"particles": 2, "resampling": "from method", "ess_threshold": -1.0},
    **{"tempering": "from method", "evaluate_every": 0, "particles_at_once": 0},
    **{"output": "best", "count": 1},
}
METHODS = {  # widgets of the nodes of methods
    "LAGSMethodDPS": {"rho": 1.0, "normalised": False},
    "LAGSMethodMPGD": {"rho": 1.0},
    "LAGSMethodFreeDoM": {
        **{"step": 0.2, "plain_step": 0.02, "first": 0.7, "last": 0.3},
        **{"travel_until": 0.4, "repeats": 2},
    },
    "LAGSMethodLiDAR": {
        **{"count": 4, "lookahead_steps": 2, "scale": 1.0, "sigma_end": 0.57},
        "lookahead_seed": 0,
    },
}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def colour(strength: float = 30.0, attribute: str = "hue", nats: float = 0.0) -> dict[str, Any]:
    widgets = {"attribute": attribute, "hue": 0.0, "colour": "#2060ff"}
    return node("LAGSWeightColor", **widgets, strength=strength, auto_nats=nats)


def sampled(
    sampler: dict[str, Any], weight: dict[str, Any], batch: int = 1, key: str = "sample"
) -> Prompt:
    """A sampler's node under the id `key`, on the bundled model, and its images shown."""
    loaded = {"model": 0, "positive": 1, "negative": 2, "vae": 3, "latent_image": 4}
    links = {name: ["demo", output] for name, output in loaded.items()}
    return {
        "demo": node("LAGSDemoModel", subject="any", colour="any", batch_size=batch),
        "weight": weight,
        key: {**sampler, "inputs": {**links, "weight": ["weight", 0], **sampler["inputs"]}},
        "decode": node("VAEDecode", samples=[key, 0], vae=["demo", 3]),
        "show": node("PreviewImage", images=["decode", 0]),
    }


def lags(seed: int, mode: str = "balanced", **changes: Any) -> dict[str, Any]:
    """KSampler (LAGS)."""
    chosen = {"seed": seed, "sampler_name": "euler_ancestral", "mode": mode, "c": 10.0}
    return node("LAGSKSampler", **{**KSAMPLER, **chosen, "strength": 1.0, **changes})


def particles(seed: int, method: str) -> dict[str, Any]:
    """Particle KSampler."""
    chosen = {"seed": seed, "sampler_name": "euler_ancestral", "method": method, "strength": 1.0}
    return node("LAGSParticleSampler", **KSAMPLER, **PARTICLES, **chosen)


def search(seed: int) -> dict[str, Any]:
    """Search KSampler."""
    chosen = {"seed": seed, "sampler_name": "euler", "rounds": 1, "neighbours": 2, "radius": 0.3}
    return node("LAGSSearchSampler", **KSAMPLER, **chosen)
