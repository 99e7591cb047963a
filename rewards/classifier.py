"""Any image classifier: push to a class, away from it, or balance classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .checkpoint import CheckpointError, read_json, read_weights
from .encoders import EncoderReward, ImageEncoder, described, from_transformers, try_grey
from .processors import preprocessing_beside

GOALS = ("towards", "away", "balance")
MULTI_LABEL = "multi_label_classification"


class _KnownConfig:
    """A configuration of a kind that transformers itself knows; no code from the folder runs."""

    @staticmethod
    def from_dict(settings: Mapping[str, Any]) -> Any:
        import transformers

        known: Any = transformers.AutoConfig
        return type(known.for_model(settings.get("model_type"))).from_dict(settings)


class Classifier(ImageEncoder):
    """Images -> logits of named classes.

    Attributes:
        names: of the classes.
        kind: what the logits are of: ``exclusive`` classes (softmax), ``independent`` ones, such as
            tags (sigmoid), or ``values``, by regression.
    """

    names: tuple[str, ...]
    kind: Literal["exclusive", "independent", "values"] = "exclusive"


def classifier(path: Path, dtype: torch.dtype) -> Classifier:
    """A classifier from the weights file of a Hugging Face folder.

    Args:
        path: model.safetensors; config.json must lie beside it, and preprocessor_config.json is
            read where it does; else the defaults of its class are taken.
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
    if settings.get("id2label"):  # PVT's has 1000 classes, whatever the file says
        config.id2label = {int(number): name for number, name in settings["id2label"].items()}
        config.num_labels = len(config.id2label)
    weights = read_weights(path)
    # timm_wrapper: its configuration may name further files to load, unsafe ones too.
    known = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    if not known or config.model_type == "timm_wrapper":
        raise CheckpointError(
            f"{path.parent} holds a {settings.get('model_type')}; expected an image classifier of "
            "transformers (ViT, ConvNeXt, Swin, DINOv2 ...)."
        )
    names = _class_names(config, path)
    kinds = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    named = {kind.__name__: kind for kind in kinds}
    kind = named.get((settings.get("architectures") or [""])[0], kinds[0])
    net = from_transformers(kind, config, weights, path, torch.float32)
    look = preprocessing_beside(path, config.model_type)
    model = Classifier(net, lambda net, pixels: net(pixel_values=pixels).logits, look, len(names))
    model.names, model.kind = names, _kind(config)
    try_grey(model, path, "classifier, for example a ViT, ConvNeXt, Swin or DINOv2")
    return model.to(dtype)


def _class_names(config: Any, path: Path) -> tuple[str, ...]:
    """The names in order.

    Raises:
        CheckpointError: there is none for some number.
    """
    names, count = config.id2label, config.num_labels
    strays = [i for i in range(count) if i not in names]
    if strays or not count:
        raise CheckpointError(
            f"{path.parent / 'config.json'} names {count} classes in id2label, with none for "
            f"{', '.join(map(str, strays[:8])) or 'number 0'}: number them from 0 without holes, "
            "one for each output of the network."
        )
    return tuple(str(names[i]) for i in range(count))


def _kind(config: Any) -> Any:
    """As transformers' own pipeline reads the logits; one that is no regression is a sigmoid's."""
    if config.problem_type == "regression":
        return "values"
    one = config.num_labels == 1
    return "independent" if one or config.problem_type == MULTI_LABEL else "exclusive"


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

    With strength 1, w p is the model's own distribution given the class, by Bayes' rule. Of classes
    that do not exclude each other, p is that of at least one, as if they were independent; of
    regression, the score is the sum of the values themselves, or minus it.

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
        if model.kind == "values":
            self.scale = "the classifier's own value, by regression"
        most = len(model.names) - (model.kind == "exclusive")
        if not 0 < len(self.classes) <= most:
            raise ValueError(
                f"{len(self.classes)} of {len(model.names)} classes are chosen; expected some, but "
                "not all: then the probability is 1 for every image."
            )
        named = ", ".join(model.names[i].split(",")[0] for i in self.classes[:3])
        self.name = f"{'not ' if away else ''}{named}"

    def __call__(self, images: Tensor) -> Tensor:
        """Score [B] of images [B, 3, H, W] in 0..1."""
        logits: Tensor = self.model(images)
        if self.model.kind == "exclusive":
            rest = [i for i in range(logits.shape[1]) if i not in self.classes]
            log_p = F.log_softmax(logits, dim=1)
            return log_p[:, rest if self.away else self.classes].logsumexp(dim=1)
        chosen = logits[:, self.classes]
        if self.model.kind == "values":
            return -chosen.sum(dim=1) if self.away else chosen.sum(dim=1)
        absent = F.logsigmoid(-chosen)
        if self.away:
            return absent.sum(dim=1)
        before = absent.cumsum(dim=1) - absent  # that none of those before is there
        return (F.logsigmoid(chosen) + before).logsumexp(dim=1)


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
        ValueError: fewer than two classes, rates or targets that do not fit them, or classes that
            do not exclude each other.
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
        _check_exclusive(model)
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
    """log p(class | image, one of the classes) [B, len(classes)].

    Raises:
        ValueError: the classes do not exclude each other.
    """
    _check_exclusive(model)
    return F.log_softmax(model(images)[:, list(classes)], dim=1)


def _check_exclusive(model: Classifier) -> None:
    if model.kind != "exclusive":
        raise ValueError(
            f"This classifier's classes are {model.kind} (problem_type and the number of classes "
            "in its config.json): an image can be of several or of none, so there are no shares to "
            "balance. Choose towards or away, or a classifier whose classes exclude each other."
        )


def _shares(values: Sequence[float], classes: Sequence[int], name: str) -> Tensor:
    numbers = torch.tensor(list(values), dtype=torch.float32)
    if len(numbers) != len(classes) or not bool(((numbers > 0) & torch.isfinite(numbers)).all()):
        raise ValueError(
            f"{name} are {list(values)} for {len(classes)} classes; expected one number above 0 "
            "for each."
        )
    return numbers / numbers.sum()
