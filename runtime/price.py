"""What guidance costs beside plain sampling, counted before a run: nothing is computed for it.

Networks run on shapes alone. A diffusion model or decoder is copied without its weights to the meta
device, where neither patches nor offloading are in the way; a weight runs on fake tensors as it is.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.model import pytorch_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ..guidance import Plan
from ..rewards import FunctionReward, Reward, Weight
from ..rewards.encoders import layers_kept
from ..rewards.masked import MaskedReward, box_of
from .checks import dimensions_of
from .decoded_weight import DecodedLogWeight
from .decoders import TAESDDecoder, VAEDecoder

Size = tuple[int, ...]
ON_CPU = "_scaled_dot_product_flash_attention_for_cpu"  # torch counts that of other devices only
META = torch.device("meta")
OFFLOADING = ("_v",)  # what newer ComfyUI keeps on a layer for its dynamic VRAM
TOKENS = 77  # of a prompt
SMALL_CONTEXT = 1024  # of SD 1 and 2; SDXL and all that came after it were trained at 1024 pixels
# How configurations call the width of a prompt's tokens, and of its pooled output.
WIDTHS = ("context_dim", "context_in_dim", "joint_attention_dim")
POOLED = ("adm_in_channels", "vec_in_dim")


@dataclass(frozen=True)
class Arithmetic:
    """FLOP of a forward, and of a backward pass to its input; two for a multiply-add."""

    forward: float = 0.0
    backward: float = 0.0

    def __add__(self, other: Arithmetic) -> Arithmetic:
        return Arithmetic(self.forward + other.forward, self.backward + other.backward)

    @property
    def both(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Price:
    """What one image takes.

    Attributes:
        branch: the model in one evaluation, FLOP; with classifier-free guidance there are two.
        decoder: a denoised image, as far as the weight.
        weight: the weight's own networks.
        looks: through what the weight looks, in words.
    """

    branch: float
    decoder: Arithmetic
    weight: Arithmetic
    looks: str

    def of(self, plan: Plan) -> Plan:
        """A plan whose cost counts decoder and weight."""
        look, evaluation = self.decoder + self.weight, plan.branches * self.branch
        return replace(
            plan, gradient_cost=look.both / evaluation, value_cost=look.forward / evaluation
        )


def cost_in_words(made: Plan, price: Price | None) -> str:
    """What a plan costs, with a price that is in it already."""
    looks = f"{made.weight_calls} gradients and {made.value_calls} values of the weight"
    if price is None:
        return f"{made.model_cost:.2f} x plain sampling, plus {looks}"
    return (
        f"{made.relative_cost:.2f} x plain sampling: {made.model_cost:.2f} the model, "
        f"{made.weight_cost:.2f} {looks} through {price.looks}"
    )


def price_of(model: Any, log_weight: DecodedLogWeight, shape: Sequence[int]) -> Price | None:
    """The price of one image; None where something on the way cannot be counted, which is logged.

    Args:
        model: a MODEL.
        log_weight: through the decoder of the run.
        shape: of its latents.
    """
    decoder = log_weight.decoder
    height, width = log_weight.decoded_size(shape)
    try:
        return Price(
            branch_flop(model.model, tuple(shape[1:])),
            decoder_flop(log_weight, shape),
            weight_flop(log_weight.weight, (height, width)),
            f"{decoder.name} at {width}x{height}",
        )
    except Exception as error:  # of other packs' models and weights, whatever they do
        logging.info("LAGS: what this run costs is not known: %s: %s", type(error).__name__, error)
        return None


def usual_shape(model: Any) -> Size:
    """Of latents of the size that a MODEL was trained at: 64 cells for SD 1.5, 128 for SDXL."""
    latents = model.get_model_object("latent_format")
    width = model.model.model_config.unet_config.get(WIDTHS[0]) or math.inf
    side = 64 if width <= SMALL_CONTEXT else 128
    return (1, latents.latent_channels, *(1,) * (dimensions_of(latents) - 2), side, side)


# ---- networks -----------------------------------------------------------------------------------

_branches: WeakKeyDictionary[nn.Module, dict[Size, float]] = WeakKeyDictionary()
_decoders: WeakKeyDictionary[nn.Module, dict[Size, Arithmetic]] = WeakKeyDictionary()
_rewards: WeakKeyDictionary[Reward, dict[Size, Arithmetic]] = WeakKeyDictionary()


def branch_flop(base: Any, size: Size) -> float:
    """FLOP of ComfyUI's model for one row of latents [C, ...] of this size, once per network."""
    known = _branches.setdefault(base, {})
    if size not in known:
        with torch.inference_mode(False):
            config = base.model_config.unet_config
            evaluation = partial(_evaluation, _without_weights(base), config)
            known[size] = counted(evaluation, (1, *_given(base, size)), back=False).forward
    return known[size]


def _without_weights(base: Any) -> nn.Module:
    """The network of a model on the meta device: as its configuration has it, if it has one."""
    config, net = base.model_config.unet_config, base.diffusion_model
    if config.get("disable_unet_model_creation"):
        return on_meta(net)
    kind = type(getattr(net, "_orig_mod", net))  # of a compiled one
    own = {**config, "dtype": torch.float32}
    return kind(**own, device=META, operations=comfy.ops.disable_weight_init)


def _given(base: Any, size: Size) -> Size:
    """Size of what its network is given: a UNet for inpainting also takes image and mask."""
    if isinstance(base.diffusion_model, UNetModel):
        return base.diffusion_model.in_channels, *size[1:]
    return size


def _evaluation(net: nn.Module, config: dict[str, Any], x: Tensor) -> Tensor:
    """What a network makes of latents, with a prompt of the usual length."""
    width, pooled = (
        next((config[name] for name in names if config.get(name)), 0) for names in (WIDTHS, POOLED)
    )
    more = {"y": torch.empty(1, pooled, device=x.device)} if pooled else {}
    return net(
        x,
        torch.ones(1, device=x.device),
        context=torch.empty(1, TOKENS, width, device=x.device),
        transformer_options={"optimized_attention_override": _attention},
        **more,
    )


def _attention(
    _: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: Any = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **__: Any,
) -> Tensor:
    """torch's own in place of ComfyUI's choice, which may ask for the memory that is free."""
    if not skip_reshape:
        q, k, v = (one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


def decoder_flop(log_weight: DecodedLogWeight, shape: Sequence[int]) -> Arithmetic:
    """Of the latents' way to the image that a weight looks at; once per decoder and size."""
    decoder, cells = log_weight.decoder, log_weight.decoded_cells(shape)
    if not isinstance(decoder, VAEDecoder | TAESDDecoder):
        return Arithmetic()  # one linear map
    known = _decoders.setdefault(decoder.net, {})
    if cells not in known:
        with torch.inference_mode(False):
            made = _decoder_on_meta(decoder)
            known[cells] = counted(made.images, (1, shape[1], *cells))
    return known[cells]


def _decoder_on_meta(decoder: VAEDecoder | TAESDDecoder) -> Any:
    made: Any = copy.copy(decoder)
    made.net = on_meta(decoder.net)
    if isinstance(decoder, VAEDecoder):
        made.vae = copy.copy(decoder.vae)
        made.vae.device = META
    return made


def weight_flop(weight: Weight, size: tuple[int, int]) -> Arithmetic:
    """Of a weight's networks for one image, all terms together.

    Raises:
        ValueError: a term is another pack's function, which is not run unasked.
    """
    found = Arithmetic()
    for term in weight.terms:
        if not term.strength:
            continue
        reward, seen = term.reward, size
        if isinstance(reward, MaskedReward):
            top, bottom, left, right = box_of(Weight.of(reward, 1.0), *size) or (0, 0, 0, 0)
            reward, seen = reward.reward, (bottom - top, right - left)
        found += _reward_flop(reward, seen)
    return found


def _reward_flop(reward: Reward, size: tuple[int, int]) -> Arithmetic:
    if isinstance(reward, FunctionReward):
        raise ValueError(f"weight '{reward.name}' is a function of another pack")
    if not reward.modules:
        return Arithmetic()
    known = _rewards.setdefault(reward, {})
    if size not in known:
        known[size] = counted(reward, (1, 3, *size), reward.differentiable, fake=True)
    return known[size]


# ---- counting -----------------------------------------------------------------------------------


class Count(TorchDispatchMode):
    """Sums up the arithmetic of what runs inside it.

    Attributes:
        flop: so far.
    """

    def __init__(self) -> None:
        from torch.utils import flop_counter  # here, as it sets up loggers

        super().__init__()
        self.flop = 0.0
        self.of = flop_counter

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """One operation."""
        result, packet = function(*args, **(kwargs or {})), function._overloadpacket
        if packet in self.of.flop_registry:
            self.flop += self.of.flop_registry[packet](*args, **(kwargs or {}), out_val=result)
        elif packet.__name__ == ON_CPU:
            self.flop += self.of.sdpa_flop_count(*(one.shape for one in args[:3]))
        elif packet.__name__ == f"{ON_CPU}_backward":
            self.flop += self.of.sdpa_backward_flop_count(*(one.shape for one in args[:4]))
        return result


def counted(
    run: Callable[[Tensor], Tensor], shape: Size, back: bool = True, fake: bool = False
) -> Arithmetic:
    """The arithmetic of a function of one tensor.

    Args:
        run: on the meta device; or with real networks, wherever they are.
        shape: of what it is given.
        back: whether to count a backward pass to that too.
        fake: whether its networks are real.
    """
    shapes_alone = FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext()
    with torch.inference_mode(False), shapes_alone, layers_kept(True):
        given = torch.empty(shape, device=None if fake else META, requires_grad=back)
        with torch.enable_grad() if back else torch.no_grad(), Count() as forward:
            made = run(given)
        with Count() as backward:
            if back:
                torch.autograd.grad(made.sum(), given)
    return Arithmetic(forward.flop, backward.flop)


def on_meta(net: nn.Module) -> Any:
    """A copy of a network without its weights, nor what ComfyUI does to bring those to a device."""
    memo: dict[int, Any] = {
        id(one): torch.empty(one.shape, dtype=one.dtype, device=META)
        for one in chain(net.parameters(), net.buffers())
    }
    for module in net.modules():
        memo |= {id(vars(module)[name]): None for name in OFFLOADING if name in vars(module)}
    made = copy.deepcopy(net, memo)
    for module in made.modules():
        module._forward_hooks.clear()  # another pack's are not for this
        module._forward_pre_hooks.clear()
        for name in OFFLOADING:
            vars(module).pop(name, None)
        if hasattr(module, "weight_function"):
            module.weight_function, module.bias_function = [], []
        if hasattr(module, "optimized_attention"):
            module.optimized_attention = pytorch_attention
    return made
