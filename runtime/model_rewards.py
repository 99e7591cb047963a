"""Rewards that have a model of their own: which file each needs, and how it is built from it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..rewards import (
    Aesthetic,
    BalanceReward,
    ClassReward,
    ClipScore,
    HPSv2,
    HPSv21,
    ImageReward,
    JpegSizeReward,
    PerceptualReward,
    PickScore,
    ReferenceReward,
    Reward,
    SharpnessReward,
    StyleReward,
    SymmetryReward,
)
from ..rewards.aesthetic import aesthetic_head
from ..rewards.base import Published
from ..rewards.classifier import GOALS, Classifier, among, class_numbers, classifier
from ..rewards.clip import TextEncoder, early_layers, image_encoder, text_encoder
from ..rewards.hps import hps_encoder
from ..rewards.image_reward import image_reward_model
from ..rewards.layouts import (
    ALEXNET,
    CLIP,
    CLIP_IMAGE,
    CLIP_TRUNK,
    DINOV2,
    HEAD,
    IMAGE_REWARD,
    IMAGES,
    LINEAR_HEAD,
    LPIPS,
    OPEN_CLIP,
    SIGLIP_HEAD,
    SIGLIPS,
    SO400M,
    VGG16,
    WHOLE,
    Shapes,
    head_key,
    image_features,
    siglip_sizes,
)
from ..rewards.perceptual import (
    PAGE,
    VGG16_PAGE,
    Heads,
    PerceptualEncoder,
    perceptual_encoder,
    perceptual_heads,
)
from ..rewards.reference import reference_encoder, reference_features
from ..rewards.siglip import siglip_encoder
from . import models
from .checks import numbers, with_commas
from .images import channels_first
from .model_files import AUTO, Fault, ModelFile, ModelFileError, tokenizer_folder
from .prompts import plain_prompt

CLIP_L = ("*clip-vit-large-patch14/model.safetensors", "*clip-vit-large-patch14.safetensors")
CLIP_L += ("*clip_vision_l*.safetensors", "*clip-vit-l-14*.safetensors")
# Not sigclip, as a SigLIP for ComfyUI is called: it comes after all CLIPs.
ANY_CLIP = (*CLIP_L, "clip*.safetensors", "*[!g]clip*.safetensors", "clip_vision/*")
ENCODER = ClipScore.published
FILES = {
    "PickScore": ModelFile(
        "PickScore",
        PickScore.published,
        ("*pickscore*.safetensors",),
        layouts=WHOLE,
        bundled="scenes_pickscore",
    ),
    "HPSv2.1": ModelFile(
        "HPSv2.1",
        HPSv21.published,
        ("*hps*v2.1*.safetensors", "*hps*v2.1*.pt"),
        layouts=(OPEN_CLIP,),
    ),
    "HPSv2": ModelFile(
        "HPSv2",
        HPSv2.published,
        ("*hps_v2_*.safetensors", "*hps_v2_*.pt"),
        layouts=(OPEN_CLIP,),
    ),
    "ImageReward": ModelFile(
        "ImageReward",
        ImageReward.published,
        ("*imagereward*.safetensors", "*imagereward*.pt"),
        layouts=(IMAGE_REWARD,),
    ),
    "CLIP score": ModelFile(
        "the CLIP score",
        ClipScore.published,
        (*CLIP_L, "*clip*/model.safetensors", "clip_vision/*"),
        ("clip_vision",),
        WHOLE,
        bundled="scenes_clip",
    ),
    "aesthetic": ModelFile(
        "the aesthetic score",
        Aesthetic.published,
        (
            *("*ava1-l14-linearmse*.safetensors", "*ava1-l14-linearmse*.pth"),
            *("*sa_0_4_vit_l_14_linear*.safetensors", "*sa_0_4_vit_l_14_linear*.pth"),
            *("*aesthetic_predictor_v2_5*.safetensors", "*aesthetic_predictor_v2_5*.pth"),
        ),
        layouts=(HEAD, LINEAR_HEAD, SIGLIP_HEAD),
    ),
    "aesthetic CLIP": ModelFile("CLIP ViT-L/14", ENCODER, CLIP_L, ("clip_vision",), IMAGES),
    "aesthetic SigLIP": ModelFile(
        "SigLIP so400m patch14-384",
        Published("siglip-so400m-patch14-384/model.safetensors", SO400M, 3.5),
        ("*siglip-so400m-patch14-384*.safetensors", "*sig*lip*.safetensors", "clip_vision/*"),
        ("clip_vision",),
        SIGLIPS,
    ),
    "text side": ModelFile("CLIP's text side", folders=("text_encoders",)),
    "classifier": ModelFile("an image classifier", bundled="green"),
    "content": ModelFile(
        "a CLIP, SigLIP or DINOv2",
        ENCODER,
        ("*dinov2*/model.safetensors", "*dino*.safetensors", *ANY_CLIP, "*siglip*.safetensors"),
        ("clip_vision",),
        (DINOV2, *IMAGES, *SIGLIPS),
    ),
    "style": ModelFile(
        "a CLIP", ENCODER, ANY_CLIP, ("clip_vision",), (CLIP, CLIP_IMAGE, CLIP_TRUNK)
    ),
    "perceptual": ModelFile(
        "VGG16 or AlexNet",
        Published("vgg16.tv_in1k/model.safetensors", VGG16_PAGE, 0.55),
        ("*vgg16*.safetensors", "*vgg16*.pth", "*alexnet*.safetensors", "*alexnet*.pth"),
        layouts=(VGG16, ALEXNET),
    ),
    "LPIPS heads": ModelFile(
        "LPIPS's heads",
        Published("lpips/vgg.pth", PAGE, 0.00001),
        ("*lpips*.safetensors", "*lpips*.pth", "*vgg.pth", "*alex.pth"),
        layouts=(LPIPS,),
    ),
}
# Trainings of CLIP's sizes by others: their features are of other spaces.
NOT_OPENAI = ("laion", "datacomp", "commonpool", "metaclip", "dfn", "openclip", "open_clip")
SIGLIP_WORDS = 32000  # in the first SigLIP's vocabulary; the second has 256,000
SAME_FILE = "same file"
UNIT = "unit weights"


def signatures(chosen: Any, *choices: tuple[str, str]) -> list[Any]:
    """What tells that chosen files have changed on disk: ComfyUI keeps what a node put out.

    Args:
        chosen: a node's widgets; anything else where they are not known yet.
        choices: a kind of file, and the widget that names one.
    """
    if not isinstance(chosen, dict):
        return []
    known = [(kind, chosen.get(widget)) for kind, widget in choices if kind in FILES]
    return [FILES[kind].signature(choice) for kind, choice in known if isinstance(choice, str)]


def prompt_encoder(path: Path, dtype: torch.dtype) -> TextEncoder:
    """A CLIP's text side, with ComfyUI's tokenizer where the file has none beside it."""
    return text_encoder(path, dtype, tokenizer_folder())


def encode_prompt(path: Path, chosen: dict[str, Any]) -> Tensor:
    """Features of the prompt, by the text side of a CLIP file; once, not in every step."""
    encoder = models.shared(prompt_encoder, path, chosen["precision"])
    models.load([encoder])
    with torch.inference_mode(False), torch.no_grad():
        features: Tensor = encoder(plain_prompt(chosen["prompt"]))
    return features


def pickscore(chosen: dict[str, Any]) -> Reward:
    """PickScore for a prompt."""
    path = FILES["PickScore"].path(chosen["file"])
    encoder = models.shared(image_encoder, path, chosen["precision"])
    return PickScore(encoder, encode_prompt(path, chosen))


def hps(chosen: dict[str, Any]) -> Reward:
    """HPSv2 or HPSv2.1 for a prompt."""
    path = FILES[chosen["reward"]].path(chosen["file"])
    encoder = models.shared(hps_encoder, path, chosen["precision"])
    kind = HPSv2 if chosen["reward"] == HPSv2.name else HPSv21
    return kind(encoder, encode_prompt(path, chosen))


def image_reward(chosen: dict[str, Any]) -> Reward:
    """ImageReward for a prompt; BERT's vocabulary lies beside its file."""
    path = FILES["ImageReward"].path(chosen["file"])
    model = models.shared(image_reward_model, path, chosen["precision"])
    return ImageReward(model, path.parent / "vocab.txt", plain_prompt(chosen["prompt"]))


def clip_score(chosen: dict[str, Any]) -> Reward:
    """CLIP score for a prompt, of one file with both sides or one for each."""
    files, other = FILES["CLIP score"], chosen["text_file"]
    if other == SAME_FILE:
        path = files.path(chosen["file"])
        features = encode_prompt(path, chosen)
    else:
        features = encode_prompt(FILES["text side"].path(other), chosen)
        path = files.path(chosen["file"], IMAGES, of_width(features.shape[1]))
    encoder = models.shared(image_encoder, path, chosen["precision"])
    if features.shape[1] != encoder.width:
        raise ValueError(
            f"The image side gives {encoder.width} features and the text side "
            f"{features.shape[1]}: they belong to different CLIPs. Choose both of one model."
        )
    return ClipScore(encoder, features)


def of_width(width: int) -> Fault:
    """What auto looks at where a CLIP must give a number of features."""

    def fault(name: str, path: Path, shapes: Shapes) -> str:
        found = image_features(shapes)
        return "" if found == width else f"gives {found} features, not {width}"

    return fault


def of_openai(width: int) -> Fault:
    """The same where it must be OpenAI's own, which neither keys nor shapes tell."""

    def fault(name: str, path: Path, shapes: Shapes) -> str:
        if any(word in name.lower() for word in NOT_OPENAI):
            return "not OpenAI's, by its name"
        return of_width(width)(name, path, shapes)

    return fault


def of_so400m(name: str, path: Path, shapes: Shapes) -> str:
    """What auto looks at where it must be the SigLIP of the aesthetic head's version 2.5."""
    patches, width, words = siglip_sizes(shapes)
    if (patches, width) != (729, 1152):
        return f"sees {patches} patches and gives {width} features, not 729 and 1152"
    second = words > SIGLIP_WORDS or re.search(r"sigc?lip[-_ ]?v?2(?!\d)", name.lower())
    return "a SigLIP 2, whose features are of another space" if second else ""


def aesthetic(chosen: dict[str, Any]) -> Reward:
    """The aesthetic score, of LAION's head or of version 2.5."""
    head = models.shared(aesthetic_head, FILES["aesthetic"].path(chosen["file"]), "float32")
    if head.reads_siglip:
        path = FILES["aesthetic SigLIP"].path(chosen["clip"], fault=of_so400m)
        return Aesthetic(models.shared(siglip_encoder, path, chosen["precision"]), head)
    path = FILES["aesthetic CLIP"].path(chosen["clip"], fault=of_openai(head.width))
    return Aesthetic(models.shared(image_encoder, path, chosen["precision"]), head)


MAKERS: dict[str, Callable[[dict[str, Any]], Reward]] = {
    "PickScore": pickscore,
    "HPSv2.1": hps,
    "HPSv2": hps,
    "ImageReward": image_reward,
    "CLIP score": clip_score,
    "aesthetic": aesthetic,
    "sharpness": lambda chosen: SharpnessReward(),
    "symmetry": lambda chosen: SymmetryReward(chosen["axis"]),
    "JPEG size": lambda chosen: JpegSizeReward(),
}


def content(chosen: dict[str, Any], picture: Tensor) -> Reward:
    """Like an image in what it shows."""
    path = FILES["content"].path(chosen["file"])
    encoder = models.shared(reference_encoder, path, chosen["precision"])
    models.load([encoder])
    with torch.inference_mode(False):
        return ReferenceReward(encoder, reference_features(encoder, picture))


def style(chosen: dict[str, Any], picture: Tensor) -> Reward:
    """Like an image in how it is painted."""
    path = FILES["style"].path(chosen["file"])
    encoder = models.shared(early_layers, path, chosen["precision"])
    models.load([encoder])
    with torch.inference_mode(False):
        return StyleReward(encoder, picture)


def perceptual(chosen: dict[str, Any], picture: Tensor) -> Reward:
    """Like an image in every part, as people compare two images."""
    path = FILES["perceptual"].path(chosen["file"])
    encoder = models.shared(perceptual_encoder, path, chosen["precision"])
    heads = heads_for(encoder, chosen["heads"])
    models.load([encoder])
    with torch.inference_mode(False):
        return PerceptualReward(encoder, picture, heads)


def heads_for(encoder: PerceptualEncoder, choice: str) -> Heads | None:
    """LPIPS's heads; None for unit weights, by choice or where auto finds none, which is said."""
    if choice == UNIT:
        return None
    try:
        path = FILES["LPIPS heads"].path(choice, fault=of_channels(encoder.channels))
    except ModelFileError as error:
        if choice != AUTO:
            raise
        logging.warning("LAGS: the perceptual weight takes unit weights. %s", error)
        return None
    return models.shared(perceptual_heads, path, "float32")


def of_channels(channels: Sequence[int]) -> Fault:
    """What auto looks at where heads must be for layers of these channels."""

    def fault(name: str, path: Path, shapes: Shapes) -> str:
        keys = takewhile(shapes.__contains__, map(head_key, count()))
        found = [shapes[key][1] for key in keys]
        return "" if found == list(channels) else f"for layers of {found} channels"

    return fault


LIKE = {"content": content, "style": style, "perceptual": perceptual}


def measured_rates(model: Classifier, classes: Sequence[int], plain: Tensor | None) -> list[float]:
    """How often plain images are of each class, by the classifier.

    Raises:
        ValueError: there are no plain images.
    """
    if plain is None:
        raise ValueError(
            "To balance classes their rates without guidance must be known. Connect a batch of "
            "plainly sampled images (a few dozen) to plain_images, or write the rates, such as "
            "'0.8, 0.2'."
        )
    models.load([model])
    with torch.inference_mode(False), torch.no_grad():
        parts = [among(model, part, classes).exp() for part in channels_first(plain).split(8)]
    return torch.cat(parts).mean(dim=0).clamp(min=1e-4).tolist()


def class_reward(file: str, precision: str, goal: dict[str, Any], plain: Tensor | None) -> Reward:
    """More or less of classes, or a mix of them, by a classifier.

    Args:
        file: a choice of the classifiers' files.
        precision: of its network.
        goal: the chosen goal with its widgets.
        plain: plainly sampled images, to measure the rates on.

    Raises:
        ValueError: no such class, or neither rates nor plain images.
        ModelFileError: the file is missing.
    """
    model = models.shared(classifier, FILES["classifier"].path(file), precision)
    classes = class_numbers(model.names, with_commas(goal["classes"]))
    if goal["goal"] != GOALS[2]:
        return ClassReward(model, classes, away=goal["goal"] == GOALS[1])
    rates = numbers(goal["rates"], "rates") or measured_rates(model, classes, plain)
    targets = numbers(goal["targets"], "targets") or None
    return BalanceReward(model, classes, rates, targets)
