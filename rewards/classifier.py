"""Any image classifier: push to a class, away from it, or balance classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .checkpoint import CheckpointError, read_json, read_weights
from .encoders import EncoderReward, ImageEncoder, described, from_transformers
from .preprocessing import from_processor_config

GOALS = ("towards", "away", "balance")


class _KnownConfig:
    """A configuration of a kind that transformers itself knows; no code from the folder runs."""

    @staticmethod
    def from_dict(settings: Mapping[str, Any]) -> Any:
        import transformers

        known: Any = transformers.AutoConfig
        return type(known.for_model(settings.get("model_type"))).from_dict(settings)


class Classifier(ImageEncoder):
    """Images -> logits of named classes."""

    names: tuple[str, ...]


def classifier(path: Path, dtype: torch.dtype) -> Classifier:
    """A classifier from the weights file of a Hugging Face folder.

    Args:
        path: model.safetensors; config.json must lie beside it, and preprocessor_config.json is
            read where it does.
        dtype: precision of the network.

    Raises:
        CheckpointError: no or another config, or the weights are damaged or do not belong to it.
    """
    from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    settings = read_json(path.parent / "config.json")
    if not settings:
        raise CheckpointError(
            f"There is no config.json beside {path}: put the whole folder of the model's page into "
            "weight_functions."
        )
    config = described(_KnownConfig, settings, path)
    weights = read_weights(path)
    # timm_wrapper: its configuration may name further files to load, unsafe ones too.
    known = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    if not known or config.model_type == "timm_wrapper":
        raise CheckpointError(
            f"{path.parent} holds a {settings.get('model_type')}; expected an image classifier of "
            "transformers (ViT, ConvNeXt, Swin, DINOv2 ...)."
        )
    kinds = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    named = {kind.__name__: kind for kind in kinds}
    kind = named.get((settings.get("architectures") or [""])[0], kinds[0])
    net = from_transformers(kind, config, weights, path, dtype)
    size = getattr(config, "image_size", 224)
    preprocessing = from_processor_config(
        read_json(path.parent / "preprocessor_config.json"),
        size if isinstance(size, int) else size[0],
    )
    model = Classifier(
        net, lambda net, pixels: net(pixel_values=pixels).logits, preprocessing, config.num_labels
    )
    model.names = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    return model


def class_numbers(names: Sequence[str], wanted: str) -> list[int]:
    """Numbers of the classes in a text such as 'cat, tabby' or '3, 7'.

    A name counts if it is the class's whole name or one of its comma-separated synonyms, whatever
    the case; of several such classes the first, whole names before synonyms, names before numbers.

    Raises:
        ValueError: none, or an unknown one; the message names some that are known.
    """
    parts = [part.strip() for part in wanted.split(",") if part.strip()]
    spelled = {name.lower(): i for i, name in reversed(list(enumerate(names)))}
    for i, name in enumerate(names):
        for synonym in name.lower().split(","):
            spelled.setdefault(synonym.strip(), i)
    numbers = []
    for part in parts:
        if part.lower() in spelled:
            numbers.append(spelled[part.lower()])
        elif part.isdecimal() and int(part) < len(names):
            numbers.append(int(part))
        else:
            near = [name for name in names if part.lower() in name.lower()] or list(names)
            raise ValueError(
                f"The classifier has no class {part!r}; expected names or numbers of its "
                f"{len(names)} classes, for example {', '.join(repr(n) for n in near[:8])}."
            )
    if not numbers:
        raise ValueError(
            f"No class is named; expected one or more of {len(names)}, separated by commas, for "
            f"example {', '.join(repr(n) for n in names[:8])}."
        )
    return list(dict.fromkeys(numbers))


class ClassReward(EncoderReward):
    """log p(classes | image), or log(1 - p) to be rid of them.

    With strength 1, w p is the model's own distribution given the class, by Bayes' rule.

    Args:
        model: the classifier.
        classes: numbers; several count as one class.
        away: whether images of these classes are to be rare.
    """

    scale = "natural logarithm of a probability, 0 at best"
    working_range = (0.5, 10.0)
    strength_source = "Bayes' rule"

    def __init__(self, model: Classifier, classes: Sequence[int], away: bool = False) -> None:
        super().__init__(model)
        self.model, self.classes, self.away = model, list(dict.fromkeys(classes)), away
        if not 0 < len(self.classes) < len(model.names):
            raise ValueError(
                f"{len(self.classes)} of {len(model.names)} classes are chosen; expected some, but "
                "not all: then the probability is 1 for every image."
            )
        named = ", ".join(model.names[i].split(",")[0] for i in self.classes[:3])
        self.name = f"{'not ' if away else ''}{named}"

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, H, W] in 0..1."""
        log_p = F.log_softmax(self.model(images), dim=1)
        rest = [i for i in range(log_p.shape[1]) if i not in self.classes]
        return log_p[:, rest if self.away else self.classes].logsumexp(dim=1)


class BalanceReward(EncoderReward):
    """log of the sum over classes of target / rate * p(class | image): fairness.

    Where ``rates`` are how often the model draws each class, w p draws them as often as ``targets``
    says: the importance weight between the two, exact for a classifier that is sure.

    Args:
        model: the classifier.
        classes: numbers of the classes to balance.
        rates: how often p draws each, above 0; any scale.
        targets: how often w p is to draw each; None for equally often.

    Raises:
        ValueError: fewer than two classes, or rates or targets that do not fit them.
    """

    scale = "natural logarithm of an importance weight"
    working_range = (0.5, 2.0)
    strength_source = "importance weighting"

    def __init__(
        self,
        model: Classifier,
        classes: Sequence[int],
        rates: Sequence[float],
        targets: Sequence[float] | None = None,
    ) -> None:
        if len(classes) < 2:
            raise ValueError(f"There is {len(classes)} class to balance; expected at least two.")
        targets = [1.0] * len(classes) if targets is None else targets
        self.ratios = _shares(targets, classes, "targets") / _shares(rates, classes, "rates")
        super().__init__(model)
        self.model, self.classes = model, list(classes)
        self.name = "balance of " + ", ".join(model.names[i].split(",")[0] for i in classes)

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, H, W] in 0..1."""
        log_p = among(self.model, images, self.classes)
        return (log_p + self.ratios.log().to(log_p.device)).logsumexp(dim=1)


def among(model: Classifier, images: Tensor, classes: Sequence[int]) -> Tensor:
    """log p(class | image, one of the classes) [B, len(classes)]."""
    return F.log_softmax(model(images)[:, list(classes)], dim=1)


def _shares(values: Sequence[float], classes: Sequence[int], name: str) -> Tensor:
    numbers = torch.tensor(list(values), dtype=torch.float32)
    if len(numbers) != len(classes) or not bool(((numbers > 0) & torch.isfinite(numbers)).all()):
        raise ValueError(
            f"{name} are {list(values)} for {len(classes)} classes; expected one number above 0 "
            "for each."
        )
    return numbers / numbers.sum()
