"""Particle methods: sequential Monte Carlo on any Gaussian chain, and who lives on."""

from ..ancestral import Ancestral, Chain
from .drift import DenoiserVJP, Drift, GradientDrift, MethodDrift, NoDrift, Proposal, autograd_vjp
from .engine import ParticleSampler, Progress, group_seeds, noisy_start
from .plan import ParticlePlan, particle_plan
from .presets import PRESETS, Preset, particle_preset
from .record import ParticleRecord, Particles, ParticleTrace, Weighing
from .resampling import RESAMPLING, Resampling, effective_size
from .selection import best, diverse, drawn, everything, taken
from .tempering import TEMPERING, Adaptive, Exponential, NoTempering, Polynomial, Tempering

__all__ = [
    "PRESETS",
    "RESAMPLING",
    "TEMPERING",
    "Adaptive",
    "Ancestral",
    "Chain",
    "DenoiserVJP",
    "Drift",
    "Exponential",
    "GradientDrift",
    "MethodDrift",
    "NoDrift",
    "NoTempering",
    "ParticlePlan",
    "ParticleRecord",
    "ParticleSampler",
    "ParticleTrace",
    "Particles",
    "Polynomial",
    "Preset",
    "Progress",
    "Proposal",
    "Resampling",
    "Tempering",
    "Weighing",
    "autograd_vjp",
    "best",
    "diverse",
    "drawn",
    "effective_size",
    "everything",
    "group_seeds",
    "noisy_start",
    "particle_plan",
    "particle_preset",
    "taken",
]
