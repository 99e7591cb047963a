"""The scene model as a denoiser: Stable Diffusion's noise levels, v-prediction, CFG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ...guidance import AutogradDenoiser
from ...rewards.checkpoint import below
from ..weights import read_weights
from .small_decoder import small_decoder
from .text import SceneTextEncoder, tokenize
from .unet import SceneUNet
from .vae import FACTOR, SceneVAE

FOLDER = Path(__file__).parent
UNET_FILE, CONDITIONING_FILE = "unet.safetensors", "conditioning.safetensors"
VAE_FILE, SMALL_DECODER_FILE = "vae.safetensors", "small_decoder.safetensors"
LATENT_RGB_FILE = "latent_rgb.json"
TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012

Network = TypeVar("Network", bound=nn.Module)


def alphas_cumprod() -> Tensor:
    """[TIMESTEPS] share of the signal's variance at the timesteps, falling, float64."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def training_sigmas() -> Tensor:
    """[TIMESTEPS] noise levels of the timesteps, rising (variance-exploding units)."""
    kept = alphas_cumprod()
    return ((1 - kept) / kept).sqrt().float()


def sigma_to_timestep(sigma: Tensor, sigmas: Tensor) -> Tensor:
    """The timestep whose noise level is nearest in log sigma; training saw whole ones only."""
    distance = (sigma.log()[:, None] - sigmas.log()).abs()
    return distance.argmin(dim=1)


def v_denoised(network: nn.Module, x: Tensor, sigma: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """Denoised estimate of a network that predicts v.

    Source: Salimans and Ho 2022, appendix D, in variance-exploding units: with
    s^2 = sigma^2 + 1, denoised = x / s^2 - sigma / s * v(x / s).
    """
    wide = sigma.view(-1, 1, 1, 1)
    norm = (wide**2 + 1).sqrt()
    return x / norm**2 - network(x / norm, t, context) * (wide / norm)


class SceneDenoiser:
    """The scene model as a denoiser, (x, sigma) -> denoised, with classifier-free guidance.

    Args:
        unet: as ``load_unet`` returns it.
        context: [1 or B, tokens, width] the encoded prompt.
        negative: the same of the negative prompt, usually that of "".
        cfg: guidance scale; 1 evaluates the conditional branch alone.

    Attributes:
        branches: evaluations of the UNet so far, of one image and one branch each.
        backwards: passes back through it, likewise.
    """

    def __init__(
        self, unet: nn.Module, context: Tensor, negative: Tensor, cfg: float = 3.0
    ) -> None:
        self.unet, self.context, self.negative, self.cfg = unet, context, negative, cfg
        self.sigmas, self.branches, self.backwards = training_sigmas(), 0, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        context = self.context.expand(x.shape[0], -1, -1)
        if self.cfg == 1.0:
            return self._evaluate(x, sigma, context)
        both = torch.cat([context, self.negative.expand(x.shape[0], -1, -1)])
        cond, uncond = self._evaluate(x.repeat(2, 1, 1, 1), sigma.repeat(2), both).chunk(2)
        correction = self.cfg * (cond - uncond)
        combined = uncond + correction
        self._last = cond.detach(), combined.detach(), correction.detach()
        return combined

    def conditional(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The last call's output, moved as the conditional branch moves from its x to this one."""
        moved = self._evaluate(x, sigma, self.context.expand(x.shape[0], -1, -1))
        if self.cfg == 1.0:
            return moved
        cond, combined, _ = self._last
        return combined + moved - cond

    def correction(self) -> Tensor | None:
        """cfg (D_conditional - D_unconditional) of the last call; None at cfg 1."""
        return None if self.cfg == 1.0 else self._last[2]

    def vjp(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """(D(x), the map from v to J^T v, to be called once)."""
        before = self.branches
        denoised, pull = AutogradDenoiser(self).vjp(x, sigma)
        self.backwards += self.branches - before
        return denoised, pull

    def _evaluate(self, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        self.branches += x.shape[0]
        return v_denoised(self.unet, x, sigma, sigma_to_timestep(sigma, self.sigmas), context)


def encode_prompts(encoder: nn.Module, prompts: list[str]) -> Tensor:
    """[B, tokens, width] of prompts; "" is the unconditional one."""
    encoded: Tensor = encoder(tokenize(prompts))
    return encoded


def latent_shape(count: int, size: int = 128) -> tuple[int, int, int, int]:
    """The shape of ``count`` latents of square images."""
    return (count, 4, size // FACTOR, size // FACTOR)


def unet_weights(folder: Path = FOLDER) -> dict[str, Tensor]:
    """The UNet's weights, in float32, from the two files that ``split_weights`` describes."""
    return read_weights(folder / UNET_FILE) | _part(folder, "unet.")


def text_weights(folder: Path = FOLDER) -> dict[str, Tensor]:
    """The text encoder's weights, in float32."""
    return _part(folder, "text.")


def split_weights(unet: nn.Module, text: nn.Module) -> dict[str, dict[str, Tensor]]:
    """File name -> weights of UNet and text encoder.

    What reads the timestep lies beside the text encoder, so that each file stays below 5 MB.
    """
    weights = unet.state_dict()
    timestep = {name for name in weights if "time_embed." in name or ".emb_layers." in name}
    conditioning = {f"unet.{name}": weights[name] for name in timestep}
    conditioning |= {f"text.{name}": value for name, value in text.state_dict().items()}
    rest = {name: value for name, value in weights.items() if name not in timestep}
    return {UNET_FILE: rest, CONDITIONING_FILE: conditioning}


def load_unet(folder: Path = FOLDER) -> SceneUNet:
    """The trained UNet in float32, without gradients."""
    return _loaded(SceneUNet(), unet_weights(folder))


def load_vae(folder: Path = FOLDER) -> SceneVAE:
    """The trained VAE in float32, without gradients."""
    return _loaded(SceneVAE(), read_weights(folder / VAE_FILE))


def load_text_encoder(folder: Path = FOLDER) -> SceneTextEncoder:
    """The trained text encoder in float32, without gradients."""
    return _loaded(SceneTextEncoder(), text_weights(folder))


def load_small_decoder(folder: Path = FOLDER) -> nn.Sequential:
    """The trained small decoder in float32, without gradients."""
    return _loaded(small_decoder(), read_weights(folder / SMALL_DECODER_FILE))


def _part(folder: Path, prefix: str) -> dict[str, Tensor]:
    return below(read_weights(folder / CONDITIONING_FILE), prefix)


def _loaded(module: Network, weights: dict[str, Tensor]) -> Network:
    module.load_state_dict(weights)
    return module.eval().requires_grad_(False)
