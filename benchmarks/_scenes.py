"""The text-to-image model in the benchmarks: its prompts, its scorers, and what the judge says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..demo.scenes.captions import NAMING_COLOUR, caption
from ..demo.scenes.compose import Labels, random_labels
from ..demo.scenes.diffusion import (
    FOLDER,
    SceneDenoiser,
    encode_prompts,
    latent_shape,
    load_small_decoder,
    load_text_encoder,
    load_unet,
    load_vae,
    training_sigmas,
)
from ..demo.scenes.scorers import SCORERS, load_scorer
from ..demo.scenes.subjects import held_out_pair
from ..guidance import AutogradLogWeight
from ..rewards import PickScore, Weight
from ..rewards.clip import CosineReward
from ._family import Task
from ._judge import Judge, Real, log_fulfilled, targets
from ._samplers import euler

HARD_EVERY = 3  # one prompt in three asks for a combination that training never drew
SEED = 17  # of the prompts
QUICK_IMAGES, QUICK_STEPS = 4, 6  # as runtime/strengths.py
BATCH = 32  # images that VAE and judge look at together


class Prompt(NamedTuple):
    """What is asked for.

    Attributes:
        text: as the user writes it.
        labels: what the judge looks for, of one scene.
        is_hard: whether training never drew these two subjects together.
    """

    text: str
    labels: Labels
    is_hard: bool


def prompts(count: int) -> list[Prompt]:
    """The first so many prompts; every third one is hard. All name a background."""
    generator = torch.Generator().manual_seed(SEED)
    found = []
    for number in range(count):
        is_hard = number % HARD_EVERY == HARD_EVERY - 1
        labels = random_labels(1, generator, held_out=is_hard)
        first, second, colour = (int(part) for part in labels)
        while is_hard and (second < 0 or not held_out_pair(first, second)):
            labels = random_labels(1, generator, held_out=True)
            first, second, colour = (int(part) for part in labels)
        wording = number % len(NAMING_COLOUR)
        found.append(Prompt(caption(first, second, colour, wording), labels, is_hard))
    return found


class CountedLogWeight(AutogradLogWeight):
    """A log-weight that counts what it is asked for, image by image.

    Attributes:
        gradients: values with their gradient so far.
        values: values alone.
    """

    gradients = values = 0

    def __call__(self, denoised: Tensor) -> Tensor:
        """As a log-weight."""
        self.values += denoised.shape[0]
        return super().__call__(denoised)

    def value_and_grad(self, denoised: Tensor) -> tuple[Tensor, Tensor]:
        """As a log-weight."""
        self.gradients += denoised.shape[0]
        return super().value_and_grad(denoised)


@dataclass(frozen=True)
class Scenes:
    """The bundled model with its decoders.

    Attributes:
        folder: of its weights.
        scorers: folder of the scorers' folders.
        half: whether the small decoder and its gradient are computed in bfloat16: faster where the
            processor has instructions for that, slower where it has not.
    """

    folder: Path = FOLDER
    scorers: Path = SCORERS
    half: bool = False

    @cached_property
    def unet(self) -> nn.Module:
        """The denoising network."""
        return load_unet(self.folder)

    @cached_property
    def text(self) -> nn.Module:
        """The text encoder."""
        return load_text_encoder(self.folder)

    @cached_property
    def vae(self) -> nn.Module:
        """The VAE, whose images count."""
        return load_vae(self.folder).to(memory_format=torch.channels_last)

    @cached_property
    def small_decoder(self) -> nn.Module:
        """The cheap decoder, through which weights look."""
        return load_small_decoder(self.folder).to(memory_format=torch.channels_last)

    def loaded(self) -> Scenes:
        """With all networks in memory, for several threads to share."""
        for network in (self.unet, self.text, self.vae, self.small_decoder):
            network.eval()
        self.scorer(PickScore, "")  # what it imports is not to be imported by two threads at once
        return self

    def denoiser(self, prompt: str, cfg: float) -> SceneDenoiser:
        """The model for a prompt."""
        context, negative = (encode_prompts(self.text, [text]) for text in (prompt, ""))
        return SceneDenoiser(self.unet, context, negative, cfg)

    def scorer(self, kind: type[CosineReward], prompt: str) -> CosineReward:
        """One of the bundled scorers, for a prompt."""
        return load_scorer(kind, prompt, self.scorers)

    def task(
        self,
        prompt: str,
        weight: Weight,
        cfg: float,
        steps: int,
        decode: Callable[[Tensor], Tensor] | None = None,
    ) -> Task:
        """Drawing images of a prompt; the weight looks through ``decode``, the small decoder."""
        sigmas = training_sigmas()

        def log_w(latents: Tensor) -> Tensor:
            return weight((decode or self.small_images)(latents))

        return Task(
            self.denoiser(prompt, cfg),
            CountedLogWeight(log_w, weight.name),
            latent_shape(1)[1:],
            float(sigmas[0]),
            float(sigmas[-1]),
            steps,
        )

    def small_images(self, latents: Tensor) -> Tensor:
        """[B, 3, 128, 128], about 0..1, by the small decoder, float32."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.half):
            return images_of(self.small_decoder, latents).float()

    @torch.no_grad()
    def images(self, latents: Tensor) -> Tensor:
        """[B, 3, 128, 128] in 0..1, by the VAE."""
        decode = self.vae.decode
        return torch.cat([images_of(decode, part).clamp(0, 1) for part in latents.split(BATCH)])


def images_of(decode: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
    """What a decoder makes of latents, in the order of memory that it is fastest in."""
    return decode(latents.contiguous(memory_format=torch.channels_last))


def deviation(task: Task) -> float:
    """Standard deviation of the score of a task of strength 1, measured as the nodes do."""
    generator = torch.Generator().manual_seed(SEED)
    sigmas = task.sigmas(QUICK_STEPS)
    x = sigmas[0] * torch.randn(QUICK_IMAGES, *task.shape, generator=generator)
    images = euler(task.denoiser, x, sigmas, generator)
    return float(task.log_weight(images).double().std())


class Seen(NamedTuple):
    """What the judge says of images.

    Attributes:
        log_fulfilled: [B] log probability that all that was asked for is there.
        subject: [B] whether the clearest subject is one asked for.
        fulfilled: [B] whether every subject asked for, and the colour, is what it sees.
        broken: [B] whether no subject is as clear as in 99 % of real scenes.
        features: [B, F], for distances.
    """

    log_fulfilled: Tensor
    subject: Tensor
    fulfilled: Tensor
    broken: Tensor
    features: Tensor


@torch.no_grad()
def look(judge: Judge, real: Real, images: Tensor, labels: Labels) -> Seen:
    """Let the judge look at images [B, 3, H, W] of one prompt each."""
    verdicts = [judge(part) for part in images.split(BATCH)]
    verdict = type(verdicts[0])(*(torch.cat(column) for column in zip(*verdicts, strict=True)))
    wanted = targets(labels).bool()
    shown = ((verdict.subjects > 0) | ~wanted).all(dim=1)
    fulfilled = shown & (verdict.colours.argmax(dim=1) == labels.colour)
    clearest, which = verdict.subjects.max(dim=1, keepdim=True)
    subject = wanted.expand_as(verdict.subjects).gather(1, which)[:, 0]
    broken = clearest[:, 0] < real.least
    flags = (flag.float() for flag in (subject, fulfilled, broken))
    return Seen(log_fulfilled(verdict, labels), *flags, verdict.features)


def frechet_distance(features: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """Squared Frechet distance of features [N, F] from a normal law.

    |m - m'|^2 + tr(C + C' - 2 (C^1/2 C' C^1/2)^1/2).
    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, eq. 6.
    """
    features, mean, covariance = features.double(), mean.double(), covariance.double()
    own = torch.cov(features.T)
    root = _root(own)
    cross = _root(root @ covariance @ root)
    off = (features.mean(dim=0) - mean).square().sum()
    return float(off + torch.trace(own + covariance - 2 * cross))


def _root(matrix: Tensor) -> Tensor:
    """The square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def pairwise_distance(features: Tensor) -> float:
    """Mean distance between two of [N, F]."""
    count = features.shape[0]
    return float(torch.cdist(features, features).sum() / (count * (count - 1)))
