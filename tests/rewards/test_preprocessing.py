"""What a network sees: the pixels of its authors' own processor, of the same 8-bit image."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers
from lags_pack.rewards import ClassReward, ReferenceReward, Reward
from lags_pack.rewards.classifier import classifier
from lags_pack.rewards.clip import image_encoder
from lags_pack.rewards.encoders import ImageEncoder
from lags_pack.rewards.hps import hps_encoder
from lags_pack.rewards.preprocessing import (
    CLIP_MEAN,
    CLIP_STD,
    Preprocessing,
    clamp_outward,
    from_processor_config,
)
from lags_pack.rewards.reference import reference_encoder, reference_features
from lags_pack.tests import reward_files
from PIL import Image
from torch import Tensor

# Their resize rounds to 8 bits after the rows and again after the columns: up to 1.1 grey levels,
# which is 0.016 of a normalised pixel. Ours does not round.
TOLERANCE = 2e-2
SQUARE = [(300, 300), (224, 224), (40, 40), (223, 223)]
WIDE = [(300, 900), (301, 402), (100, 151), (224, 227), (448, 459), (40, 400)]
TALL = [(900, 300), (402, 301), (151, 100), (227, 224), (459, 448), (400, 40)]
# Release 5 of transformers has two of each processor. Release 4 has a fast one too, which rounds
# odd margins differently from the slow one that was published; only what it writes is read here.
PUBLISHED_ONES = ("{}ImageProcessor", "{}ImageProcessorPil")
ALL_ONES = (*PUBLISHED_ONES, "{}ImageProcessorFast")


@cache
def smooth(height: int, width: int) -> Image.Image:
    """Waves; none of their pixels is black or white."""
    rows, columns = np.linspace(0, 4, height)[:, None, None], np.linspace(0, 5, width)[:, None]
    waves = np.sin(rows + 2 * columns + np.arange(3)) * np.cos(3 * rows - np.arange(3))
    return Image.fromarray(np.uint8(np.round(127.5 + 115 * waves)))


@cache
def noise(height: int, width: int) -> Image.Image:
    """Whatever overshoots in a resize does so here."""
    generator = np.random.default_rng(height * 1000 + width)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


Make = Callable[[int, int], Image.Image]
MAKES: dict[str, Make] = {"smooth": smooth, "noise": noise}


@pytest.fixture(params=MAKES)
def make(request: pytest.FixtureRequest) -> Make:
    return MAKES[request.param]


def tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def processors(
    family: str, config: dict[str, Any], names: tuple[str, ...] = PUBLISHED_ONES
) -> list[Any]:
    """The processor of a family, in every variant that the installed transformers has."""
    kinds = [getattr(transformers, name.format(family), None) for name in names]
    return [kind.from_dict(dict(config)) for kind in dict.fromkeys(kinds) if kind is not None]


def theirs(processor: Any, picture: Image.Image) -> Tensor:
    pixels: Tensor = processor(images=picture, return_tensors="pt")["pixel_values"]
    return pixels.float()


def rows_first(picture: Image.Image, height: int, width: int) -> Image.Image:
    """A resize in Pillow's order up to release 12; 13 takes the columns first in tall images."""
    rows = picture.resize((width, picture.height), Image.Resampling.BICUBIC)
    return rows.resize((width, height), Image.Resampling.BICUBIC)


def between_bars(picture: Image.Image, side: int) -> Image.Image:
    """HPSv2's rule: the long side becomes the network's, the rest is black, the image centred."""
    scale = side / max(picture.size)
    small = rows_first(picture, round(picture.height * scale), round(picture.width * scale))
    canvas = Image.new("RGB", (side, side))
    canvas.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return canvas


def normalised(picture: Image.Image) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (tensor(picture) - mean) / std


def check_equal(ours: Tensor, expected: Tensor) -> None:
    assert ours.shape == expected.shape and ours.dtype == torch.float32
    assert (ours - expected).abs().max() < TOLERANCE


# ---- published processors -------------------------------------------------------------------

CLIP = {"image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD), "resample": 3}
EDGE = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
# Family and preprocessor_config.json, as their pages have or had them.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = json.loads(
    Path(__file__).with_name("processors.json").read_text("utf-8")
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_pixels_are_those_of_the_published_processor(name: str) -> None:
    """Noise of tall pictures aside: what overshoots in it depends on the release of Pillow."""
    family, config = PUBLISHED[name]
    ours, found = from_processor_config(config, 1), processors(family, config)
    assert found
    for processor in found:
        for size in ((300, 300), (301, 402), (402, 301), (100, 151), (400, 40)):
            check_equal(ours(tensor(smooth(*size))), theirs(processor, smooth(*size)))
            if size[0] <= size[1]:
                check_equal(ours(tensor(noise(*size))), theirs(processor, noise(*size)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_reads_what_the_installed_transformers_writes(name: str, tmp_path: Path) -> None:
    """Some releases write null for what a processor does not use."""
    family, config = PUBLISHED[name]
    for number, processor in enumerate(processors(family, config, ALL_ONES)):
        processor.save_pretrained(tmp_path / str(number))
        file = tmp_path / str(number) / "preprocessor_config.json"
        written = json.loads(file.read_text(encoding="utf-8"))
        assert from_processor_config(written, 1) == from_processor_config(config, 1)


# Tall ones of CLIP: test_tall_pictures.
SIZES = [*(("CLIP", *size) for size in SQUARE + WIDE)]
SIZES += (("ViT", *size) for size in SQUARE + WIDE + TALL)


@pytest.mark.parametrize(("family", "height", "width"), SIZES)
def test_every_size(make: Make, family: str, height: int, width: int) -> None:
    """ViT's is bilinear: nothing overshoots, and which of rows and columns is first is the same."""
    config = PUBLISHED[family][1]
    for processor in processors(family, config):
        ours = from_processor_config(config, 1)(tensor(make(height, width)))
        check_equal(ours, theirs(processor, make(height, width)))


@pytest.mark.parametrize(("height", "width"), SQUARE + WIDE)
def test_open_clip(make: Make, height: int, width: int) -> None:
    transform = open_clip.image_transform(224, is_train=False)
    ours = Preprocessing(224)(tensor(make(height, width)))
    check_equal(ours, transform(make(height, width))[None])


@pytest.mark.parametrize(("height", "width"), TALL)
def test_tall_pictures(make: Make, height: int, width: int) -> None:
    """Restated, because what overshoots in noise depends on the release of Pillow."""
    picture, long = make(height, width), height * 224 // width
    resized = rows_first(picture, long, 224)
    for rounds_down, top in ((True, (long - 224) // 2), (False, round((long - 224) / 2))):
        ours = Preprocessing(224, crop_rounds_down=rounds_down)(tensor(picture))
        check_equal(ours, normalised(resized.crop((0, top, 224, top + 224))))


@pytest.mark.parametrize(("height", "width"), SQUARE + WIDE + TALL)
def test_hps_sees_all_between_black_bars(make: Make, height: int, width: int) -> None:
    ours = Preprocessing(224, fit="pad")(tensor(make(height, width)))
    check_equal(ours, normalised(between_bars(make(height, width), 224)))


def test_odd_margins_and_strips() -> None:
    """Three columns too many: transformers cuts one to the left, torchvision two."""
    picture = tensor(noise(224, 227))
    down, even = (Preprocessing(224, crop_rounds_down=down)(picture) for down in (True, False))
    assert torch.equal(down[..., 1:], even[..., :-1]) and not torch.equal(down, even)
    # A strip still covers a pixel between black bars.
    seen = Preprocessing(32, fit="pad", mean=(0.0,) * 3, std=(1.0,) * 3)(torch.ones(1, 3, 1, 700))
    assert seen.shape == (1, 3, 32, 32) and (seen > 0.99).sum() == 3 * 32


# ---- scores ---------------------------------------------------------------------------------

See = Callable[[Image.Image], Tensor]
FLOAT = torch.float32


def check_scores(reward: Reward, see: See) -> None:
    """The score of our pixels is that of theirs.

    Smooth images: to 1 %. Noise, where rounding weighs most: to 2 % of a usual score, and to
    5 % of what images differ by.
    """
    sizes = ((40, 40), (32, 32), (20, 20), (64, 192), (50, 71))
    pictures = [make(*size) for make in MAKES.values() for size in sizes]
    ours = torch.cat([reward(tensor(picture)) for picture in pictures])
    (encoder,) = reward.modules
    encoder.preprocessing = lambda pixels: pixels
    expected = reward(torch.cat([see(picture) for picture in pictures]))
    error = (ours - expected).abs()
    assert (error < 0.01 * expected.abs())[: len(sizes)].all()
    assert error.max() < 0.02 * expected.abs().mean() and error.max() < 0.05 * expected.std()


def likeness(encoder: ImageEncoder) -> Reward:
    """Cosines far from 0, as those of real networks are."""
    both = torch.cat([tensor(make(35, 33)) for make in MAKES.values()])
    return ReferenceReward(encoder, reference_features(encoder, both))


def seen_by(family: str, path: Path) -> See:
    config = json.loads((path.parent / "preprocessor_config.json").read_text(encoding="utf-8"))
    processor = processors(family, config)[0]
    return lambda picture: theirs(processor, picture)


@pytest.mark.parametrize(
    ("make_file", "reward_of", "see"),
    [
        (reward_files.clip_folder, lambda path: likeness(image_encoder(path, FLOAT)), "CLIP"),
        (reward_files.dinov2, lambda path: likeness(reference_encoder(path, FLOAT)), "Bit"),
        (reward_files.classifier, lambda path: ClassReward(classifier(path, FLOAT), [0]), "ViT"),
        (
            reward_files.hps,
            lambda path: likeness(image_encoder(path, FLOAT)),
            lambda picture: open_clip.image_transform(32, is_train=False)(picture)[None],
        ),
        (
            reward_files.hps,
            lambda path: likeness(hps_encoder(path, FLOAT)),
            lambda picture: normalised(between_bars(picture, 32)),
        ),
    ],
    ids=["CLIP", "DINOv2", "classifier", "open_clip", "HPS"],
)
def test_score_of_a_network(make_file, reward_of, see, tmp_path: Path) -> None:
    path = make_file(tmp_path)
    check_scores(reward_of(path), seen_by(see, path) if isinstance(see, str) else see)


# ---- reading preprocessor_config.json -------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fit"),
    [("", "crop"), ("CLIP", "crop"), ("ConvNext", "crop"), ("ViT", "squash"), ("Beit", "squash")],
)
def test_a_size_of_one_number_means_what_its_processor_takes_it_for(kind: str, fit: str) -> None:
    for suffix in ("FeatureExtractor", "ImageProcessor", "ImageProcessorFast"):
        config = {"size": 96, "image_processor_type": kind + suffix} if kind else {"size": 96}
        found = from_processor_config(config, 1)
        assert (found.size, found.fit) == (96, fit)


def test_without_a_centre_crop_the_short_side_is_the_size() -> None:
    """And without a config it is CLIP's at the model's size."""
    assert from_processor_config({}, 336) == Preprocessing(336, crop_rounds_down=True)
    config = {**CLIP, **EDGE, "size": {"shortest_edge": 256}}
    assert from_processor_config(config, 1).size == 224
    ours = from_processor_config(config | {"do_center_crop": False}, 1)
    assert (ours.size, ours.fit, ours.short_side) == (256, "crop", 256)
    for processor in processors("CLIP", config | {"do_center_crop": False}):
        check_equal(ours(tensor(noise(300, 300))), theirs(processor, noise(300, 300)))


RULE = r"resizes to \{.*expected 'shortest_edge', or 'height'"
SQUARED = {"size": {"height": 224, "width": 224}}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"size": {"longest_edge": 224}}, RULE),
        ({"size": {"max_height": 9, "max_width": 9}}, RULE),
        ({"size": {"width": 224}}, RULE),
        ({"size": {"height": 224, "width": 112}}, "'height': 224, 'width': 112.*expected a square"),
        ({"image_processor_type": "EfficientNetImageProcessor", **SQUARED}, "EfficientNetImagePro"),
        ({"feature_extractor_type": "LevitFeatureExtractor", **SQUARED}, "LevitFeatureExtractor"),
    ],
)
def test_another_rule_of_resizing_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_processor_config(config, 224)


# ---- clamping -------------------------------------------------------------------------------

VALUES = torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_clamp_outward_is_a_clamp_whose_gradients_lead_inward_only(dtype: torch.dtype) -> None:
    """What ascent would push further out is stopped; exactly 0 and 1 are inside."""
    result = clamp_outward(VALUES.to(dtype))
    assert torch.equal(result, VALUES.to(dtype).clamp(0, 1)) and result.dtype == dtype
    for slope, passed in ((1.0, [1, 1, 1, 1, 0]), (-1.0, [0, 1, 1, 1, 1])):
        leaf = VALUES.clone().requires_grad_()
        clamp_outward(leaf).backward(torch.full_like(VALUES, slope))
        assert torch.equal(leaf.grad, slope * torch.tensor(passed).float())


def test_a_picture_beyond_the_range_comes_back_by_ascent() -> None:
    """And stays in: the reward wants mid-grey, and the image starts at -0.5 and 1.5."""
    picture = torch.stack([torch.full((3, 24, 24), -0.5), torch.full((3, 24, 24), 1.5)])
    see = Preprocessing(32, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
    for _ in range(60):
        leaf = picture.clone().requires_grad_()
        (grad,) = torch.autograd.grad(-see(leaf).square().sum(), leaf)
        picture = picture + 0.05 * grad
    assert (picture - 0.5).abs().max() < 0.05


def test_what_overshoots_in_a_resize_is_black_or_white_and_not_pushed_further() -> None:
    step = torch.zeros(1, 3, 20, 20)
    step[..., 7:] = 1
    plain = torch.nn.functional.interpolate(step, (32, 32), mode="bicubic", antialias=True)
    see = Preprocessing(32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert plain.min() < -0.03 and plain.max() > 1.03
    assert see(step).min() == 0 and see(step).max() == 1
    slopes = []
    for pixels in (plain > 1.03, plain < -0.03):  # brighter where white: stopped; where black: not
        leaf = step.clone().requires_grad_()
        slopes.append(torch.autograd.grad(see(leaf)[pixels].sum(), leaf)[0].abs().max())
    assert slopes[0] == 0 and slopes[1] > 0.1
