"""How often an attribute comes and how much fine detail there is, before and after guidance.

Fairness: one shape in eight is green by the demo's training; a weight is to make it every other
one. Two weights do it: the bundled classifier, which balances green and any other colour, and the
score of the hue; each at the strength that the importance weights of plain images ask for, with
another classifier as the judge. Detail: the weight of a frequency band, raised and lowered. Rows
called exact are importance weights of plain images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..demo.classifier import COLOUR, FOLDER
from ..demo.model import DemoUNet, load_network
from ..demo.pictures import draw_pictures
from ..demo.shapes import COLOURS, HUES, SIZE
from ..guidance import preset
from ..rewards import BalanceReward, ColourReward, FrequencyReward, Reward, Weight
from ..rewards.classifier import Classifier, among, classifier
from ..rewards.preprocessing import Preprocessing
from ._classifier import ShapeClassifier, trained
from ._report import parser, report
from ._tilting import strength_for_rate, tilted_shares

TARGET = 0.5
BAND, STRENGTH = (0.15, 0.5), 3.0  # cycles per pixel; nats per factor e of energy


def one_colour(classifier: ShapeClassifier, colour: str) -> Classifier:
    """The small classifier as one of two classes, the colour and the others."""
    number = COLOURS.index(colour)
    others = [i for i in range(len(COLOURS)) if i != number]

    def logits(net: ShapeClassifier, pixels: Tensor) -> Tensor:
        log_p = net(pixels)[1].log_softmax(dim=1)
        return torch.stack([log_p[:, number], log_p[:, others].logsumexp(dim=1)], dim=1)

    model = Classifier(classifier, logits, Preprocessing(SIZE, mean=(0.0,) * 3, std=(1.0,) * 3), 2)
    model.names = (colour, f"not {colour}")
    return model


@dataclass(frozen=True)
class Bench:
    """What all rows share.

    Attributes:
        network: the demo model.
        model: says whether an image has the attribute.
        plain: [N, 3, 32, 32] plain images.
        count: images of a guided row.
        steps: of every run.
    """

    network: DemoUNet
    model: Classifier
    plain: Tensor
    count: int
    steps: int

    def has(self, pictures: Tensor) -> Tensor:
        """Whether each image is more likely of the colour than of the others, [B] of 0 or 1."""
        logits: Tensor = self.model(pictures)
        return (logits[:, 0] > logits[:, 1]).float()

    def rows(self, name: str, reward: Reward, strength: float) -> list[dict[str, Any]]:
        """Plain, exact and guided with one weight."""
        scores = reward(self.plain)
        shares = tilted_shares(scores, strength).float()
        method, weight = preset("balanced"), Weight.of(reward, strength)
        settings = {"steps": self.steps, "method": method, "weight": weight}
        drawn, _ = draw_pictures(self.network, self.count, seed=0, **settings)
        numbers = {
            "plain": self._numbers(self.plain, scores, torch.ones_like(shares)),
            "exact": self._numbers(self.plain, scores, shares),
            "balanced": self._numbers(drawn, reward(drawn), torch.ones(self.count)),
        }
        about = {"weight": name, "strength": strength}
        return [{**about, "method": method, **row} for method, row in numbers.items()]

    def _numbers(self, pictures: Tensor, scores: Tensor, shares: Tensor) -> dict[str, float]:
        """Rate and mean score of weighted images, with one standard error."""
        shares = shares / shares.sum()
        has, size = self.has(pictures), 1 / float(shares.square().sum())
        rate, mean = float(shares @ has), float(shares @ scores)
        spread = float(shares @ (scores - mean) ** 2) ** 0.5
        return {
            f"{COLOUR} %": 100 * rate,
            "+- %": 100 * math.sqrt(max(0.0, rate * (1 - rate)) / size),
            "mean score": mean,
            "+-": spread / math.sqrt(size),
            "effective pictures": size,
        }


def main(arguments: list[str]) -> None:
    """Print the table."""
    options = parser("attributes", __doc__)
    options.add_argument("--plain", type=int, default=512, help="plain pictures")
    options.add_argument("--guided", type=int, default=256, help="guided pictures of each weight")
    options.add_argument("--steps", type=int, default=30, help="ancestral steps")
    choice = options.parse_args(arguments)
    if min(choice.plain, choice.guided, choice.steps) < 1:
        options.error("--plain, --guided and --steps must be 1 or more")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    network, model = load_network(), one_colour(trained(), COLOUR)
    fair = classifier(FOLDER / "model.safetensors", torch.float32)
    plain, _ = draw_pictures(network, choice.plain, seed=0, steps=choice.steps)
    bench = Bench(network, model, plain, choice.guided, choice.steps)

    hue = ColourReward("hue", hue=HUES[COLOURS.index(COLOUR)])
    rates = among(fair, plain, (0, 1)).exp().mean(dim=0).tolist()
    balance = BalanceReward(fair, (0, 1), rates, (TARGET, 1 - TARGET))
    rows, green, band = [], bench.has(plain), FrequencyReward(*BAND)
    for name, reward in (("classifier (balance)", balance), ("colour (hue)", hue)):
        rows += bench.rows(name, reward, strength_for_rate(reward(plain), green, TARGET))
    for strength in (STRENGTH, -STRENGTH):
        rows += bench.rows("frequency band", band, strength)
    report(rows, choice.json)
