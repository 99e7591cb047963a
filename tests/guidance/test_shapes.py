"""The shapes in the signatures of guidance/ are checked while these tests run."""

from __future__ import annotations

import jaxtyping
import pytest
import torch
from lags_pack.guidance import UncertaintySchedule
from lags_pack.guidance.finite_difference import DifferenceStep
from lags_pack.guidance.particles.resampling import effective_sample_size


def test_sizes_that_do_not_agree_and_tensors_of_another_kind_are_refused() -> None:
    step, v = DifferenceStep(), torch.randn(3, 4, 8, 8)
    assert step.size(v, torch.ones(3)).shape == (3,)
    with pytest.raises(jaxtyping.TypeCheckError):
        step.size(v, torch.ones(2))
    with pytest.raises(jaxtyping.TypeCheckError):
        UncertaintySchedule().alpha(torch.ones(3, dtype=torch.int64))
    with pytest.raises(jaxtyping.TypeCheckError):
        effective_sample_size(torch.zeros(4))
