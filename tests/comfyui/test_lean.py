"""Lean graphs: the plain gradient bit for bit, of less that is kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from comfyui_support.guided import state_of
from lags_pack.benchmarks._memory import held_bytes
from lags_pack.runtime.autograd_safe import autograd_safe
from lags_pack.runtime.decoders import VAEDecoder
from lags_pack.runtime.gradient import frozen
from lags_pack.runtime.lean import Lean
from torch import Tensor, nn
from torch.nn import functional as F


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient(run: Callable[[Tensor], Tensor], x: Tensor, mode: Any = None) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad(), mode or nullcontext():
        leaf = x.clone().requires_grad_()
        (found,) = torch.autograd.grad(run(leaf).square().sum(), leaf)
    assert torch.isfinite(found).all() and (found != 0).any()
    return found


@pytest.fixture(params=["kl_vae", "qwen"])
def decoder(request: pytest.FixtureRequest) -> tuple[VAEDecoder, Tensor]:
    """A VAE's decoder, and latents of its: of images, and of one frame."""
    found = request.getfixturevalue(request.param)
    vae = found if request.param == "kl_vae" else found.vae
    return VAEDecoder(vae, Tensor.clone), noise(2, vae.latent_channels, 6, 10)


def of(decoder: VAEDecoder, lean: bool) -> AbstractContextManager[Any]:
    """A decoder's gradient as it is, and as torch alone would take it."""
    return decoder.differentiable() if lean else autograd_safe(decoder.net)


def test_a_vaes_gradient_is_the_plain_one_bit_for_bit(decoder, executor_mode):
    made, x = decoder
    before = state_of(made.net)
    plain, lean = (gradient(made.images, x, of(made, lean)) for lean in (False, True))
    assert torch.equal(plain, lean)
    assert state_of(made.net) == before
    assert not torch.overrides._get_current_function_mode_stack()


def test_a_vaes_graph_holds_less_than_half(decoder):
    made, x = decoder
    held = {}
    for lean in (False, True):
        with torch.inference_mode(False), torch.enable_grad(), of(made, lean), frozen(made.net):
            leaf = x.clone().requires_grad_()
            weights = sum(p.nbytes for p in made.net.decoder.parameters())  # copies: see there
            held[lean] = held_bytes(lambda x=leaf: made.images(x)) - weights
    assert 0 < held[True] < 0.5 * held[False]  # 0.35 at full size: see test_cost.py


class _Stop(Exception):
    pass


@pytest.mark.parametrize("error", [_Stop, torch.cuda.OutOfMemoryError])
def test_an_error_on_the_way_leaves_the_vae_and_torch_as_they_were(kl_vae, monkeypatch, error):
    """It arrives as itself, so that interrupts and lack of memory are understood."""
    made = VAEDecoder(kl_vae, Tensor.clone)
    before = state_of(made.net)

    def fails(*_: Any) -> Tensor:
        raise error("in the decoder")

    with monkeypatch.context() as patched, pytest.raises(error):
        patched.setattr(made.net.decoder.mid.block_2, "forward", fails)
        gradient(made.images, noise(1, 4, 8, 8), made.differentiable())
    assert state_of(made.net) == before
    assert not torch.overrides._get_current_function_mode_stack()


CONV = nn.Conv2d(32, 32, 3, padding=1).requires_grad_(False)
SCALE = noise(1, 32, 1, 1, seed=3)


def changed(x: Tensor) -> Tensor:
    """What a norm made is written into before it is used."""
    h = F.group_norm(x, 4)
    h *= 1 + SCALE
    return CONV(F.silu(h))


def used_twice(x: Tensor) -> Tensor:
    h = F.group_norm(CONV(x), 4)
    return F.silu(h) + F.silu(h * 2.0) + h + F.silu(x + h)


def in_place(x: Tensor) -> Tensor:
    h = F.silu(F.group_norm(CONV(x), 4), inplace=True)
    return CONV(F.silu(h * 3.0))


def of_rows(x: Tensor) -> Tensor:
    """As Wan's norm."""
    return CONV(F.silu(F.normalize(x, dim=1) * 32**0.5 * SCALE + 0.1))


def last_channels(x: Tensor) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    return CONV(F.silu(F.group_norm(CONV(x), 4)))


def in_half(x: Tensor) -> Tensor:
    """Casting gives the convolution others than those it is asked for."""
    with torch.autocast("cpu", torch.bfloat16):
        return CONV(F.silu(CONV(x))).float()


def transposed(x: Tensor) -> Tensor:
    return F.conv_transpose2d(F.silu(CONV(x)), CONV.weight, stride=2)


def its_own_weight(x: Tensor) -> Tensor:
    """A convolution with something that depends on what the gradient is taken of."""
    return F.conv2d(F.silu(x), x[:, :, :3, :3])


def named(x: Tensor) -> Tensor:
    return F.conv2d(input=F.silu(input=F.group_norm(x, num_groups=4)), weight=CONV.weight)


PLACES = [
    *(changed, used_twice, in_place, of_rows, last_channels, in_half, transposed, its_own_weight),
    named,
]


@pytest.mark.parametrize("run", PLACES)
def test_the_gradient_of_other_orders_is_the_plain_one(run):
    x = noise(2, 32, 8, 8)
    assert torch.equal(gradient(run, x), gradient(run, x, Lean()))


def test_weights_that_want_a_gradient_get_theirs():
    conv, x = nn.Conv2d(32, 32, 3), noise(1, 32, 8, 8)
    found = []
    for mode in (nullcontext(), Lean()):
        with mode:
            y = conv(F.silu(F.group_norm(x.clone().requires_grad_(), 4)))
            found.append(torch.autograd.grad(y.square().sum(), conv.weight)[0])
    assert torch.equal(*found)


@pytest.mark.parametrize("run", [changed, used_twice, in_place, of_rows, last_channels])
def test_what_is_not_kept_is_let_go(run):
    """Between forward and backward: at least the inputs of the convolutions are gone."""
    held = []
    for mode in (nullcontext(), Lean()):
        with mode:
            leaf = noise(2, 32, 64, 64).requires_grad_()
            held.append(held_bytes(lambda x=leaf: run(x)) / leaf.nbytes)
    assert held[1] <= held[0] - 0.9


def test_what_a_norm_was_given_may_not_change_before_the_backward():
    """As torch says by itself: else the gradient would be another's, without a word."""
    with Lean():
        leaf = noise(1, 32, 8, 8).requires_grad_()
        x = leaf * 2
        y = F.silu(F.group_norm(x, 4))
        x += 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(y.sum(), leaf)
