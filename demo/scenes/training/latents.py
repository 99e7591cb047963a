"""Stage 2: scenes encoded once and kept, so that the UNet's training need not draw them.

``vae.safetensors`` is written first: the averaged VAE with latents of zero mean and unit variance.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...weights import read_weights
from ..compose import Labels, draw, random_labels
from ..diffusion import VAE_FILE, load_vae
from ..vae import SceneVAE
from .sprites import load_sprites
from .trainer import write

CHUNK = 2048
FIRST_SEED = 1_000_000  # of the chunks' scenes


class Encoded(NamedTuple):
    """Latents [N, 4, 16, 16] in float16 and what their scenes hold."""

    latents: Tensor
    labels: Labels


@torch.no_grad()
def normalise(vae: SceneVAE, images: Tensor) -> None:
    """Scale and shift the VAE's inner 1x1 convolutions: each latent channel of zero mean, unit std.

    Decoded images stay the same.
    """
    z = torch.cat([vae.encode(part) for part in images.split(32)])
    mean, std = z.mean(dim=(0, 2, 3)), z.std(dim=(0, 2, 3))
    channels = len(mean)
    inward, outward = vae.quant_conv, vae.post_quant_conv
    assert inward.bias is not None and outward.bias is not None  # noqa: S101
    outward.bias += (outward.weight[:, :, 0, 0] * mean).sum(1)
    outward.weight *= std.view(1, -1, 1, 1)
    inward.weight[:channels] /= std.view(-1, 1, 1, 1)
    inward.bias[:channels] = (inward.bias[:channels] - mean) / std
    inward.bias[channels:] -= 2 * std.log()  # the log variance


def export_vae(cache: Path, sprites: Tensor) -> Path:
    """Write the averaged VAE of stage 1, normalised, in float16; the path of the file."""
    vae = SceneVAE().eval().requires_grad_(False)
    vae.load_state_dict(read_weights(cache / "vae" / "average.safetensors"))
    generator = torch.Generator().manual_seed(FIRST_SEED - 1)
    normalise(vae, draw(random_labels(512, generator), sprites, generator))
    path = cache / VAE_FILE
    write({name: value.half() for name, value in vae.state_dict().items()}, path)
    return path


@torch.no_grad()
def encode_chunk(vae: SceneVAE, sprites: Tensor, seed: int, count: int = CHUNK) -> Encoded:
    """Draw and encode the scenes of one seed."""
    generator = torch.Generator().manual_seed(seed)
    labels = random_labels(count, generator)
    latents = []
    for part in zip(*(column.split(32) for column in labels), strict=True):
        images = draw(Labels(*part), sprites, generator)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latents.append(vae.encode(images).float().contiguous().half())
    return Encoded(torch.cat(latents), labels)


def load_latents(cache: Path) -> Encoded:
    """All chunks that are there and belong to the VAE that is there.

    Raises:
        FileNotFoundError: there is none.
    """
    from safetensors import safe_open

    mark = fingerprint(cache / VAE_FILE)
    latents, labels = [], []
    for path in sorted((cache / "latents").glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            if file.metadata()["vae"] == mark:
                latents.append(file.get_tensor("latents"))
                labels.append(file.get_tensor("labels").long())
    if not latents:
        raise FileNotFoundError(f"No latents of this VAE in {cache}: run scenes-latents first.")
    return Encoded(torch.cat(latents), Labels(*torch.cat(labels).unbind(1)))


def fingerprint(path: Path) -> str:
    """A hash of a VAE file's encoder: what the latents hang on."""
    from safetensors.torch import load_file

    weights = load_file(path)
    digest = hashlib.sha256()
    for name in sorted(weights):
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(weights[name].numpy().tobytes())
    return digest.hexdigest()[:16]


def is_current(path: Path, mark: str) -> bool:
    """Whether a chunk is there and was made by the VAE with this fingerprint."""
    from safetensors import safe_open

    if not path.is_file():
        return False
    with safe_open(path, framework="pt") as file:
        return bool(file.metadata()["vae"] == mark)


def main(options: argparse.Namespace) -> None:
    """Write ``--steps`` chunks of 2,048 scenes; those that are there are left."""
    sprites = load_sprites(options.cache)
    if not (options.cache / VAE_FILE).is_file():
        export_vae(options.cache, sprites)
    vae = load_vae(options.cache).to(memory_format=torch.channels_last)
    mark = fingerprint(options.cache / VAE_FILE)
    chunks = options.steps or 60
    for index in range(chunks):
        path = options.cache / "latents" / f"{index:04d}.safetensors"
        if is_current(path, mark):
            continue
        start = time.time()
        encoded = encode_chunk(vae, sprites, FIRST_SEED + index)
        labels = torch.stack(list(encoded.labels), dim=1).to(torch.int16)
        write({"latents": encoded.latents, "labels": labels}, path, {"vae": mark})
        print(f"chunk {index + 1} of {chunks}: {time.time() - start:.0f} s", flush=True)
