from __future__ import annotations

import pytest
import torch
from lags_pack.guidance import ve_view
from lags_pack.guidance.ve import chosen
from torch import Tensor


def eps(sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
    return noise * sigma.view(-1, 1, 1, 1) + latent


def flow(sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
    level = sigma.view(-1, 1, 1, 1)
    return level * noise + (1 - level) * latent


def test_eps_is_variance_exploding_already_and_flow_is_divided_by_its_signal_per_sample() -> None:
    sigma, x = torch.tensor([0.03, 14.6]), torch.randn(2, 4, 8, 8)
    view = ve_view(eps, sigma)
    assert torch.equal(view.sigma_ve, sigma)
    assert torch.equal(view.to_ve(x), x) and torch.equal(view.from_ve(x), x)
    x, view = torch.ones(2, 4, 8, 8), ve_view(flow, torch.tensor([0.5, 0.8]))
    assert view.sigma_ve.tolist() == pytest.approx([1.0, 4.0])
    assert view.to_ve(x)[:, 0, 0, 0].tolist() == pytest.approx([2.0, 5.0])
    assert torch.allclose(view.from_ve(view.to_ve(x)), x)


def test_to_ve_and_sigma_ve_speak_of_the_same_noise() -> None:
    """x_ve = x0 + sigma_ve * noise for a sample made by the model's own forward process."""
    generator = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(2, 2, 4, 8, 8, generator=generator).unbind()
    for scaling in (eps, flow):
        sigma = torch.tensor([0.3, 0.9])
        view = ve_view(scaling, sigma)
        expected = x0 + view.sigma_ve.view(-1, 1, 1, 1) * noise
        assert torch.allclose(view.to_ve(scaling(sigma, noise, x0)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("sigma", "usable"), [(0.0, False), (0.5, True), (0.99, True), (0.9995, False), (1.0, False)]
)
def test_flow_near_1_has_no_signal_to_divide_by(sigma: float, usable: bool) -> None:
    view = ve_view(flow, torch.tensor([0.5, sigma]))
    assert view.is_usable == usable
    assert torch.isfinite(view.sigma_ve).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_x_keeps_its_dtype(dtype: torch.dtype) -> None:
    view = ve_view(flow, torch.tensor([0.5], dtype=dtype))
    x = torch.ones(1, 4, 8, 8, dtype=dtype)
    assert view.to_ve(x).dtype == view.from_ve(x).dtype == dtype
    assert view.sigma_ve.dtype == torch.float32
    small = torch.tensor([0.011], dtype=dtype)  # 1 - sigma rounds in half precision
    assert ve_view(flow, small).signal.item() == pytest.approx(1 - small.item(), rel=1e-6)


def test_reads_in_place_forward_processes_and_any_rank() -> None:
    """ComfyUI adds the latent in place; video latents have five dimensions."""

    def in_place(sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
        noise *= 2 * sigma.view(-1, 1, 1, 1)
        noise += latent
        return noise

    view = ve_view(in_place, torch.tensor([0.5, 3.0]))
    assert view.signal.tolist() == [1, 1] and view.noise.tolist() == [1, 6]
    assert view.to_ve(torch.ones(2, 4, 3, 8, 8)).shape == (2, 4, 3, 8, 8)


@pytest.mark.parametrize("where", [[True, True], [False, False], [True, False]])
def test_the_chosen_samples_are_taken_and_the_rest_of_the_others(where: list[bool]) -> None:
    values, others = torch.ones(2, 3), torch.zeros(2, 3)
    found = chosen(torch.tensor(where), values, others)
    assert found.tolist() == [[float(taken)] * 3 for taken in where]
