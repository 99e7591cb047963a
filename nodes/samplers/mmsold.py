"""MM-SOLD Sampler: new images from a batch of images, without a diffusion model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...guidance import MMSOLD
from ...runtime.checks import UNCONNECTED, check_one_connected
from ...runtime.mmsold import NEAREST, NOTHING, new_images
from ..inputs import dial, power_input, seed_input
from ..sockets import CATEGORY, WeightSocket, found_by

SCORES = ("exact", "nearest")
BY_DATA = -1.0  # of smoothing


class LAGSMMSOLD(io.ComfyNode):
    """New images that vary as the given ones do."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LAGSMMSOLD",
            display_name="MM-SOLD Sampler",
            category=CATEGORY,
            description="Makes new images from a few dozen similar ones, without any diffusion "
            "model: blends of neighbours, with the mean and the variation of the given set. Best "
            "on images that are aligned (faces, digits, icons, textures); photos of all sorts "
            "blend to a blur. With a VAE it works on latents, without one on pixels.",
            **found_by(
                "mm-sold, mmsold, langevin, training-free, few images, image variations, "
                "朗之万, 免训练, 图像变体"
            ),
            inputs=[
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Connect the images to learn from, all of one size: at least 8, "
                    "better some dozens to hundreds. Instead of latents.",
                ),
                io.Latent.Input(
                    "latents",
                    optional=True,
                    tooltip="Connect a batch of latents to learn from. Instead of images.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Connect a VAE to encode the images and decode the result. Without "
                    "one, the images are processed as pixels, which suits small ones.",
                ),
                WeightSocket.Input(
                    "weight",
                    optional=True,
                    tooltip="Connect what makes given images count more: the new ones follow w "
                    "times the distribution of the set. Any Weight node, also those "
                    "without a gradient.",
                ),
                power_input(
                    "Raise it for a stronger effect. It is the power of the weight: 1 as its "
                    "node sets it, 0 off, negative the opposite. If too few images keep a weight "
                    "that counts, the run is refused."
                ),
                io.Int.Input(
                    "count",
                    **dial(8, 1, 4096),
                    tooltip="Choose how many new images to make. The mean and the variation of "
                    "the set hold exactly from four times the rank upwards.",
                ),
                io.Int.Input(
                    "steps",
                    **dial(100, 1, 100000),
                    tooltip="Set the number of Langevin steps. 100 is published for images.",
                ),
                io.Float.Input(
                    "smoothing",
                    **dial(BY_DATA, BY_DATA, 100.0, 0.05),
                    tooltip="Set sigma, in units of the distance from an image to its nearest "
                    "neighbour (median, in whitened coordinates). -1 finds it during the "
                    "run: as little as leaves no more copies than there are among the "
                    "given images. Below 0.4 they are copied, 0.5 to 0.8 blends "
                    "neighbours, above 1 blends everything. 0 is off.",
                ),
                io.Float.Input(
                    "sigma_g",
                    **dial(0.05, 0.001, 10.0, 0.01),
                    tooltip="Set the blur around each image, in the same units. Working range "
                    "0.01 to 0.1; more adds noise, less takes smaller steps.",
                ),
                io.Int.Input(
                    "draws",
                    **dial(8, 0, 10000, 2),
                    tooltip="Set the random shifts per image and step that estimate the "
                    "smoothing; even. Published 2 to 32; 0 is no smoothing.",
                ),
                io.Combo.Input(
                    "score",
                    options=list(SCORES),
                    default="nearest",
                    tooltip="Choose which images are summed over. nearest: sums over the 20 "
                    "nearest images and 20 others drawn for the rest, which keeps kinds "
                    "apart. exact: over all images, which blends kinds where the rank is "
                    "high.",
                ),
                io.Int.Input(
                    "rank",
                    **dial(0, 0, 4096),
                    tooltip="Set the number of principal components to work in; the rest of the "
                    "detail is lost. 0: as many as hold 95 % of the variance, at most a "
                    "third of the images.",
                ),
                seed_input("seed", "Change it for another result: one seed, one result."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE", tooltip="The new images. From latents: needs the VAE."
                ),
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="The new latents; none if images were given without a VAE.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, images: Any = UNCONNECTED, latents: Any = UNCONNECTED) -> bool:
        """At queueing: what learns from nothing can't run, and other branches can."""
        return check_one_connected(NOTHING, images, latents)

    @classmethod
    def execute(
        cls, steps: int, smoothing: float, sigma_g: float, draws: int, score: str, **inputs: Any
    ) -> io.NodeOutput:
        sigma = None if smoothing < 0 else smoothing
        method = MMSOLD(sigma_g, sigma, draws, steps, nearest=NEAREST * (score == "nearest"))
        return io.NodeOutput(*new_images(method, **inputs))
