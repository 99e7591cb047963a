"""The shapes of the tensors, as types: words for the reader, checked where jaxtyping is installed.

The tests have it, and check every call (tests/conftest.py). ComfyUI lacks it: there the words stand
beside plain Tensor. Names in one signature share their sizes: ``x: Latents, sigma_ve: PerSample``
says one noise level for each sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from typing import Annotated as Bool
    from typing import Annotated as Float
    from typing import Annotated as Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ImportError:
        from typing import Annotated as Bool
        from typing import Annotated as Float
        from typing import Annotated as Int

Latents = Float[Tensor, "batch *latent"]  # samples, or what is shaped like them
PerSample = Float[Tensor, "batch"]  # a number for each sample: sigma_ve, log w, alpha
Levels = Float[Tensor, "levels"]  # falling noise levels of a run, the last 0
Numbers = Float[Tensor, "_"]  # as many as there are, whatever else stands in the signature
PerStep = Float[Tensor, "steps"]  # a number for each noise level of a plan

# Particles: groups of them, one group for each sample that is asked for.
GroupLatents = Float[Tensor, "groups particles *latent"]
GroupWeights = Float[Tensor, "groups particles"]  # log w, or log-weights
Chosen = Int[Tensor, "groups chosen"]  # indices of particles, each into its group
PerGroup = Float[Tensor, "groups"]
Due = Bool[Tensor, "groups"]  # which groups are resampled

# MM-SOLD's samples are points: flat, and later in fewer coordinates.
Points = Float[Tensor, "points coordinates"]
PerPoint = Float[Tensor, "points"]
Vector = Float[Tensor, "coordinates"]
Square = Float[Tensor, "coordinates coordinates"]
