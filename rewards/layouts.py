"""What a weight file is, by its keys and shapes: enough to choose it, or to name what it is."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import CheckpointError, Weights

Shapes = Mapping[str, Sequence[int]]
CLIP_L = "https://huggingface.co/openai/clip-vit-large-patch14"
SO400M = "https://huggingface.co/google/siglip-so400m-patch14-384"
DINO = "https://huggingface.co/facebook/dinov2-base"
ELSEWHERE = "It belongs to another node."
CONVERTED = f"There is a version for transformers, such as model.safetensors of {DINO}."


@dataclass(frozen=True)
class Layout:
    """A kind of weight file.

    Attributes:
        name: in words, as after "is".
        keys: shell patterns; a file of this kind has a key for each.
        instead: what to do with it, or to take for it; "" where nothing general can be said.
        width: second dimension of the first key's weight, where that tells; 0 for any.
    """

    name: str
    keys: tuple[str, ...]
    instead: str = ""
    width: int = 0

    def fits(self, shapes: Shapes) -> bool:
        """Whether a file with these keys and shapes is of this kind."""
        found = [_found(shapes, pattern) for pattern in self.keys]
        if not all(found):
            return False
        return not self.width or tuple(shapes[found[0]][1:]) == (self.width,)


def _found(shapes: Shapes, pattern: str) -> str:
    """The first key that matches; '' where none does."""
    if pattern in shapes:
        return pattern
    named = (key for key in shapes if fnmatch.fnmatchcase(key, pattern)) if "*" in pattern else ()
    return next(iter(named), "")


_CLASS, _BLOCKS = "vision_model.embeddings.class_embedding", "vision_model.encoder.layers.*"
_PROJECTION = "visual_projection.weight"
CLIP = Layout("a CLIP", (_CLASS, _PROJECTION, "text_model.*", "text_projection.weight"))
CLIP_IMAGE = Layout("the image side of a CLIP", (_CLASS, _PROJECTION))
CLIP_TRUNK = Layout("the image side of a CLIP without its projection", (_CLASS, _BLOCKS))
CLIP_TEXT = Layout("the text side of a CLIP", ("text_model.encoder.*", "text_projection.weight"))
CLIP_WORDS = Layout("the text side of a CLIP without its projection", ("text_model.encoder.*",))
_OPEN_CLIP_IMAGE = ("visual.conv1.weight", "visual.transformer.resblocks.*")
OPEN_CLIP = Layout(
    "a CLIP in open_clip's layout",
    (*_OPEN_CLIP_IMAGE, "transformer.resblocks.*", "text_projection"),
)
OPEN_CLIP_IMAGE = Layout("the image side of a CLIP in open_clip's layout", _OPEN_CLIP_IMAGE)
OPEN_CLIP_BARE = Layout(
    OPEN_CLIP_IMAGE.name, ("conv1.weight", "class_embedding", "transformer.resblocks.*", "proj")
)
DINOV2 = Layout("a DINOv2", ("embeddings.cls_token", "encoder.layer.*.layer_scale1.lambda1"))
_SIGLIP = ("vision_model.embeddings.patch_embedding.bias", _BLOCKS)
SIGLIP = Layout("a SigLIP", (*_SIGLIP, "vision_model.head.probe"))
SIGLIP_BARE = Layout("a SigLIP", ("embeddings.patch_embedding.bias", "head.probe"))
HEAD = Layout("LAION's aesthetic head", ("layers.0.weight", "layers.7.weight"))
SIGLIP_HEAD = Layout(
    "the aesthetic head of version 2.5, for SigLIP's features",
    ("scoring_head.0.weight", "scoring_head.8.weight"),
    "It belongs to Load Weight Function, aesthetic.",
)
LINEAR_HEAD = Layout("one of LAION's first aesthetic heads", ("weight", "bias"))

# torchvision's: no other network of its has convolutions at these numbers.
VGG16 = Layout("a VGG16", ("features.24.weight", "features.26.weight"))
ALEXNET = Layout("an AlexNet", tuple(f"features.{i}.weight" for i in (3, 6, 10)))


def head_key(number: int) -> str:
    """Of the weights that LPIPS has learned for a layer."""
    return f"lin{number}.model.1.weight"


LPIPS = Layout(
    "LPIPS's heads",
    (head_key(0), head_key(4)),
    "They belong to Weight: reference image, perceptual, as heads.",
)
CLASSIFIER = Layout(
    "an image classifier of transformers",
    ("classifier.weight", "*.embeddings.*"),
    "It belongs to Weight: classifier.",
)

# What serves where: both sides of a CLIP, the image side alone, the text side alone.
WHOLE = (CLIP, OPEN_CLIP)
IMAGES = (*WHOLE, CLIP_IMAGE, OPEN_CLIP_IMAGE, OPEN_CLIP_BARE)
SIGLIPS = (SIGLIP, SIGLIP_BARE)
TEXTS = (*WHOLE, CLIP_TEXT, CLIP_WORDS)
IMAGE_REWARD = Layout("ImageReward", ("blip.visual_encoder.*", "mlp.layers.*"))

# The first that fits is what a file is: what holds more stands before what it holds.
LAYOUTS = (
    Layout("a whole diffusion checkpoint", ("*model.diffusion_model.*",), ELSEWHERE),
    Layout("a LoRA", ("*lora_down*",), ELSEWHERE),
    Layout("a LoRA", ("*lora_A*",), ELSEWHERE),
    Layout("an IP-Adapter", ("ip_adapter.*",), ELSEWHERE),
    Layout("a diffusion model", ("double_blocks.*",), ELSEWHERE),
    Layout("a diffusion model", ("joint_blocks.*",), ELSEWHERE),
    Layout("a diffusion model", ("input_blocks.*",), ELSEWHERE),
    Layout("a diffusion model", ("down_blocks.*", "up_blocks.*"), ELSEWHERE),
    Layout("a VAE", ("*decoder.conv_in.weight",), ELSEWHERE),
    Layout("a VAE", ("*decoder.conv1.weight",), ELSEWHERE),
    Layout("a T5 text encoder", ("encoder.block.*", "shared.weight"), ELSEWHERE),
    Layout("a language model", ("model.embed_tokens.weight", "model.layers.*"), ELSEWHERE),
    IMAGE_REWARD,
    Layout("a BLIP", ("vision_model.encoder.layers.*.self_attn.qkv.weight",)),
    Layout("the image side of LLaVA", (_CLASS, "multi_modal_projector.*"), ELSEWHERE),
    CLASSIFIER,
    CLIP,
    CLIP_IMAGE,
    CLIP_TRUNK,
    Layout(
        "a SigLIP 2 that reads images of any shape (NaFlex)",
        ("vision_model.embeddings.patch_embedding.weight", _BLOCKS),
        f"Take a SigLIP of a fixed size, such as {SO400M}.",
        768,  # numbers of a patch of 16 pixels
    ),
    SIGLIP,
    SIGLIP_BARE,
    Layout(
        "a SigLIP without its pooling head",
        _SIGLIP,
        f"The whole one has it: model.safetensors of {SO400M}.",
    ),
    CLIP_TEXT,
    CLIP_WORDS,
    OPEN_CLIP,
    OPEN_CLIP_IMAGE,
    OPEN_CLIP_BARE,
    Layout(
        "a CLIP with a ResNet in open_clip's layout", ("visual.conv1.weight", "visual.layer1.*")
    ),
    Layout("a CLIP with a timm network in open_clip's layout", ("visual.trunk.*",)),
    Layout("an EVA-CLIP", ("visual.blocks.*",)),
    Layout("a DINOv3", ("embeddings.register_tokens", "layer.*")),
    Layout("a DINOv2 with registers", ("embeddings.register_tokens", "encoder.layer.*")),
    DINOV2,
    Layout("a DINOv3 in torch hub's layout", ("storage_tokens", "blocks.*"), CONVERTED),
    Layout("a DINOv2 in torch hub's layout", ("blocks.*.ls1.gamma", "cls_token"), CONVERTED),
    Layout(
        "a vision transformer in the layout of timm or torch hub, such as DINO's first",
        ("blocks.*.attn.qkv.weight", "patch_embed.proj.weight"),
        CONVERTED,
    ),
    Layout(
        "a vision transformer of transformers, such as DINO's first",
        ("*embeddings.cls_token", "*encoder.layer.*"),
    ),
    SIGLIP_HEAD,
    VGG16,
    ALEXNET,
    Layout("another network of torchvision or timm", ("features.*",)),
    LPIPS,
    HEAD,
    LINEAR_HEAD,
)


def layout_of(shapes: Shapes) -> Layout | None:
    """What a file is; None where it is nothing that is known."""
    return next((layout for layout in LAYOUTS if layout.fits(shapes)), None)


def image_features(shapes: Shapes) -> int:
    """How many features a CLIP's image side gives; 0 where the file does not tell."""
    if _PROJECTION in shapes:
        return shapes[_PROJECTION][0]
    return (*shapes.get("visual.proj", shapes.get("proj", ())), 0, 0)[1]


def siglip_sizes(shapes: Shapes) -> tuple[int, ...]:
    """Of a SigLIP: how many patches it sees, its width, and how many words it knows; 0 for none."""
    places = "embeddings.position_embedding.weight"
    sizes = shapes.get(f"vision_model.{places}", shapes.get(places, (0, 0)))
    return (*sizes, shapes.get("text_model.embeddings.token_embedding.weight", (0,))[0])


def expect(weights: Weights, path: Path, layouts: Sequence[Layout], expected: str) -> Layout | None:
    """What a file is, if it is known; one that is known to be something else is refused.

    Args:
        weights: of the file.
        path: the file.
        layouts: what is served.
        expected: that in words, with an example.

    Raises:
        CheckpointError: it is something else; the message says what, and what to take.
    """
    layout = layout_of({key: value.shape for key, value in weights.items()})
    if layout is not None and layout not in layouts:
        said = f"{path} is {layout.name}; expected {expected}. {layout.instead}"
        raise CheckpointError(said.rstrip())
    return layout
