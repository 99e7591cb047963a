"""What a network sees: the pixels of its authors' own processor, of the same 8-bit image."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers
from lags_pack.rewards import ClassReward, ReferenceReward, Reward
from lags_pack.rewards import processors as lags_processors
from lags_pack.rewards.checkpoint import CheckpointError
from lags_pack.rewards.classifier import classifier
from lags_pack.rewards.clip import image_encoder
from lags_pack.rewards.encoders import ImageEncoder
from lags_pack.rewards.hps import hps_encoder
from lags_pack.rewards.preprocessing import (
    CLIP_MEAN,
    CLIP_STD,
    Preprocessing,
    clamp_outward,
)
from lags_pack.rewards.processors import from_settings, preprocessing_beside
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

# Family and preprocessor_config.json, as their pages have or had them.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = json.loads(
    Path(__file__).with_name("processors.json").read_text("utf-8")
)


# A model whose processor each family is.
MODELS = {"CLIP": "clip", "ViT": "vit", "ConvNext": "convnext", "Bit": "dinov2", "DeiT": "deit"}
MODELS |= {"Beit": "beit", "MobileNetV2": "mobilenet_v2"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_pixels_are_those_of_the_published_processor(name: str) -> None:
    """Noise of tall pictures aside: what overshoots in it depends on the release of Pillow."""
    family, config = PUBLISHED[name]
    ours, found = from_settings(config, MODELS[family]), processors(family, config)
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
        assert from_settings(written, "") == from_settings(config, MODELS[family])


# Tall ones of CLIP: test_tall_pictures.
SIZES = [*(("CLIP", *size) for size in SQUARE + WIDE)]
SIZES += (("ViT", *size) for size in SQUARE + WIDE + TALL)


@pytest.mark.parametrize(("family", "height", "width"), SIZES)
def test_every_size(make: Make, family: str, height: int, width: int) -> None:
    """ViT's is bilinear: nothing overshoots, and which of rows and columns is first is the same."""
    config = PUBLISHED[family][1]
    for processor in processors(family, config):
        ours = from_settings(config, MODELS[family])(tensor(make(height, width)))
        check_equal(ours, theirs(processor, make(height, width)))


@pytest.mark.parametrize(("height", "width"), SQUARE + WIDE)
def test_open_clip(make: Make, height: int, width: int) -> None:
    transform = open_clip.image_transform(224, is_train=False)
    ours = Preprocessing(224)(tensor(make(height, width)))
    check_equal(ours, transform(make(height, width))[None])


OPEN_CLIP_SETTINGS = {
    "squash": {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3},
    "longest": {"resize_mode": "longest", "interpolation": "bilinear"},
    "shortest": {"resize_mode": "shortest", "interpolation": "bilinear", "size": 64},
    "random": {"resize_mode": "squash", "interpolation": "bicubic", "fill_color": 0, "mode": "RGB"},
    "none": {},
}


def open_clip_file(folder: Path, settings: dict[str, Any]) -> Path:
    path = reward_files.hps(folder)
    config = {"model_cfg": reward_files.OPEN_CLIP, "preprocess_cfg": settings}
    reward_files.write_json(folder / "open_clip_config.json", config)
    return path


@pytest.mark.parametrize("name", OPEN_CLIP_SETTINGS)
def test_settings_of_open_clip(name: str, tmp_path: Path) -> None:
    settings = OPEN_CLIP_SETTINGS[name]
    see = image_encoder(open_clip_file(tmp_path, settings), torch.float32).preprocessing
    known = open_clip.transform.PreprocessCfg(**settings | {"size": 32})
    transform = open_clip.transform.image_transform_v2(known, is_train=False)
    for size in ((60, 60), (120, 161), (161, 120), (20, 31)):
        check_equal(see(tensor(smooth(*size))), transform(smooth(*size))[None])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"resize_mode": "tile"}, "resize_mode 'tile'; expected one of .*'squash'"),
        ({"interpolation": "lanczos"}, "interpolation 'lanczos'; expected one of .*'bilinear'"),
        ({"resize_mode": "longest", "fill_color": 128}, "fill_color 128; expected one of"),
        ({"mode": "L"}, "mode 'L'; expected one of"),
    ],
)
def test_what_open_clip_has_not_is_refused(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"open_clip_config.json has {said}"):
        image_encoder(open_clip_file(tmp_path, settings), torch.float32)


def test_a_clip_whose_processor_has_another_size_is_refused(tmp_path: Path) -> None:
    path = reward_files.clip_folder(tmp_path)
    settings = reward_files.CLIP_PROCESSOR | {"crop_size": 48, "size": 48}
    reward_files.write_json(tmp_path / "preprocessor_config.json", settings)
    with pytest.raises(
        CheckpointError, match="makes images of 48 pixels, and the network reads 32"
    ):
        image_encoder(path, torch.float32)


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
        (reward_files.siglip, lambda path: likeness(reference_encoder(path, FLOAT)), "Siglip"),
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
    ids=["CLIP", "DINOv2", "SigLIP", "classifier", "open_clip", "HPS"],
)
def test_score_of_a_network(make_file, reward_of, see, tmp_path: Path) -> None:
    path = make_file(tmp_path)
    check_scores(reward_of(path), seen_by(see, path) if isinstance(see, str) else see)


# ---- settings ---------------------------------------------------------------------------------

# A class without its ending, and what its file has beside the class. Smooth images, in grey levels:
# a normalised pixel is as large as rescale_factor and image_std make it.
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "all defaults": ("ViT", {}),
    "CLIP's defaults": ("CLIP", {}),
    "ConvNeXt's defaults": ("ConvNext", {}),
    "BEiT's defaults": ("Beit", {}),
    "Pvt's defaults": ("Pvt", {}),
    "PoolFormer's defaults": ("PoolFormer", {}),
    "no mean and std": ("ViT", {"size": 64}),
    "one number for all channels": ("ViT", {"image_mean": 0.3, "image_std": 0.2}),
    "not normalised": ("ViT", {"do_normalize": False, "image_mean": [0.1] * 3}),
    "not rescaled": ("ViT", {"do_rescale": False}),
    "neither": ("ViT", {"do_rescale": False, "do_normalize": False}),
    "from -1 to 1 by the factor": ("Beit", {"rescale_factor": 1 / 127.5, "do_normalize": False}),
    "another factor": ("ConvNext", {"rescale_factor": 1 / 127.5, "size": 224}),
    "bilinear": ("CLIP", {"resample": 2}),
    "bicubic": ("ViT", {"resample": 3}),
    "numbers for both sides": ("Siglip", {"size": {"height": 96, "width": 96}}),
    "both sides, and a crop": ("Beit", {"size": 96, "crop_size": 64, "do_center_crop": True}),
    "both sides of CLIP": ("CLIP", {"size": {"height": 300, "width": 300}}),
    "a crop with black around": ("CLIP", {"size": 200, "crop_size": 224}),
    "an odd margin": ("Bit", {"size": 225, "crop_size": {"height": 224, "width": 224}}),
    "ConvNeXt without its share": ("ConvNext", {"size": {"shortest_edge": 224}}),
    "ConvNeXt, all of it": ("ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 1.0}),
    "PoolFormer's share": ("PoolFormer", {"size": 224, "crop_pct": 0.95}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_the_processor_s(name: str) -> None:
    family, settings = SETTINGS[name]
    for ending in ("ImageProcessor", "ImageProcessorFast", "FeatureExtractor"):
        key = "feature_extractor_type" if ending[0] == "F" else "image_processor_type"
        ours = from_settings({key: family + ending, **settings}, "")
        (processor, *_) = processors(family, settings, PUBLISHED_ONES[::-1])
        level = torch.tensor(ours.std).max() * 255
        for size in ((300, 300), (120, 161), (161, 120)):
            expected = theirs(processor, smooth(*size))
            seen = ours(tensor(smooth(*size)))
            assert seen.shape == expected.shape
            assert (seen - expected).abs().max() * level < 1.5


@pytest.mark.parametrize("model", ["vit", "convnext", "dinov2", "deit", "swin", "resnet", "beit"])
def test_without_a_file_the_class_s_defaults_are_taken_and_that_is_said(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "model.safetensors"
    ours = preprocessing_beside(file, model)
    assert f"no preprocessor_config.json beside {file}" in caplog.text and model in caplog.text
    kind = transformers.models.auto.image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES[model]
    kind = kind["torchvision"] if isinstance(kind, dict) else kind[0]
    for processor in processors(kind.removesuffix("ImageProcessor"), {}):
        check_equal(ours(tensor(smooth(120, 161))), theirs(processor, smooth(120, 161)))


def test_settings_may_lie_in_a_processor_s_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As transformers 5 writes the processor of a model that reads texts too."""
    settings = {"image_processor_type": "CLIPImageProcessor", "size": 48, "crop_size": 32}
    reward_files.write_json(tmp_path / "processor_config.json", {"image_processor": settings})
    found = preprocessing_beside(tmp_path / "model.safetensors", "clip")
    assert found == Preprocessing(32, short_side=48, crop_rounds_down=True)
    assert not caplog.records


@pytest.mark.parametrize(
    ("kind", "fit"), [("CLIP", "crop"), ("ConvNext", "crop"), ("ViT", "squash"), ("Beit", "squash")]
)
def test_a_size_of_one_number_means_what_its_processor_takes_it_for(kind: str, fit: str) -> None:
    """Named by the file, or by the model that it lies beside."""
    for settings in ({"image_processor_type": f"{kind}ImageProcessor"}, {}):
        found = from_settings({"size": 96, "crop_size": 96, **settings}, MODELS[kind])
        assert (found.size, found.fit) == (96, fit)


SQUARE_ONLY = "expected the same square of every image: do_resize true, a square size"
OWN_RULES = "follows rules of its own: ours would be .* grey levels off. Choose another model"
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no resize": ("ViT", {"do_resize": False}, rf"150 x 211 or 211 x 150 pixels.*{SQUARE_ONLY}"),
    "no crop": ("CLIP", {"size": 64, "do_center_crop": False}, rf"64 x 90 or.*{SQUARE_ONLY}"),
    "oblong": ("ViT", {"size": {"height": 64, "width": 32}}, rf"64 x 32 pixels.*{SQUARE_ONLY}"),
    "oblong crop": ("CLIP", {"crop_size": {"height": 9, "width": 8}}, rf"9 x 8.*{SQUARE_ONLY}"),
    "longest": ("CLIP", {"size": {"longest_edge": 64}}, "prepares no image by CLIPImageProcessor"),
    "short and long": (
        *("CLIP", {"size": {"shortest_edge": 300, "longest_edge": 310}, "crop_size": 64}),
        r"resizes to \{.*expected 'shortest_edge', or 'height' and 'width'",
    ),
    "lanczos": ("ViT", {"resample": 1}, "ViTImageProcessor has resample 1; expected 2 .*3"),
    "nothing": ("ViT", {"size": 0}, "prepares no image by ViTImageProcessor"),
    "enormous": ("ViT", {"size": 10**6}, "'width': 1000000}, above 4096 pixels"),
    "a word": ("ViT", {"image_mean": "grey"}, "prepares no image by ViTImageProcessor"),
    "no deviation": ("ViT", {"image_std": [0.0] * 3}, OWN_RULES),
    "EfficientNet": ("EfficientNet", {"resample": 3}, OWN_RULES),
    "LeViT": ("Levit", {}, OWN_RULES),
    "MobileViT": ("MobileViT", {}, OWN_RULES),
    "Perceiver": ("Perceiver", {}, OWN_RULES),
    "ImageGPT": ("ImageGPT", {}, "prepares no image by ImageGPTImageProcessor"),
    "NaFlex": ("Siglip2", {}, "does not make one image of an image. Choose another model"),
    "unknown": ("Future", {}, "by FutureImageProcessor .*no such class"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_rule_is_refused_by_the_file_s_name(name: str, tmp_path: Path) -> None:
    family, settings, said = REFUSED[name]
    settings = {"image_processor_type": family + "ImageProcessor", **settings}
    reward_files.write_json(tmp_path / "preprocessor_config.json", settings)
    with pytest.raises(CheckpointError, match=f"preprocessor_config.json: .*{said}"):
        preprocessing_beside(tmp_path / "model.safetensors", "vit")


def test_a_class_that_is_no_processor_is_not_made(tmp_path: Path) -> None:
    for name in ("AutoModel", "pipeline", "Trainer", "utils"):
        with pytest.raises(ValueError, match=f"by {name} .*no such class"):
            from_settings({"image_processor_type": name}, "vit")
    with pytest.raises(CheckpointError, match="no image processor of its own for 'hgnet_v2': put"):
        preprocessing_beside(tmp_path / "model.safetensors", "hgnet_v2")


@pytest.mark.parametrize("crop_rounds_down", [True, False])
def test_a_crop_one_pixel_beside_would_be_seen(
    crop_rounds_down: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the comparison with the processor is for: an odd margin cut to the other side."""

    def other(*args: Any, **settings: Any) -> Preprocessing:
        return Preprocessing(*args, **settings | {"crop_rounds_down": crop_rounds_down})

    monkeypatch.setattr(lags_processors, "Preprocessing", other)
    settings = {"image_processor_type": "CLIPImageProcessor", "size": 224}
    with nullcontext() if crop_rounds_down else pytest.raises(ValueError, match=OWN_RULES):
        from_settings(settings, "clip")


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
