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
