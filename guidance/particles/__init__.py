"""Particle methods: sequential Monte Carlo on any Gaussian chain, and who lives on."""

from ..ancestral import Ancestral, Chain
from .drift import Drift, GradientDrift, MethodDrift, NoDrift, Proposal
from .engine import ParticleSampler, Progress, group_seeds, noisy_start
from .plan import ParticlePlan, particle_plan
from .presets import PRESETS, Preset, particle_preset
from .record import ParticleRecord, Particles, ParticleTrace, Weighing
from .resampling import RESAMPLING, Resampling, effective_sample_size
from .selection import best, diverse, draw, everything, gather
from .tempering import TEMPERING, Adaptive, Exponential, NoTempering, Polynomial, Tempering

__all__ = [
    "PRESETS",
    "RESAMPLING",
    "TEMPERING",
    "Adaptive",
    "Ancestral",
    "Chain",
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
    "best",
    "diverse",
    "draw",
    "effective_sample_size",
    "everything",
    "group_seeds",
    "noisy_start",
    "particle_plan",
    "particle_preset",
    "gather",
]
