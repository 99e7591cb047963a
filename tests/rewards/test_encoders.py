"""Running networks: recomputed blocks, half-precision gradients, quiet loading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from lags_pack.benchmarks._memory import peak_bytes
from lags_pack.guidance import AutogradLogWeight
from lags_pack.rewards import encoders
from lags_pack.rewards.checkpoint import CheckpointError
from lags_pack.rewards.clip import CosineReward, image_encoder
from lags_pack.rewards.encoders import from_transformers, is_large, layers_kept, recompute
from lags_pack.rewards.preprocessing import Preprocessing
from lags_pack.tests import reward_files
from lags_pack.tests.reward_table import pictures
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

VIT_H = {"width": 1280, "layers": 32, "head_width": 80, "patch_size": 14, "image_size": 224}
VIT_L = {"width": 1024, "layers": 24, "head_width": 64, "patch_size": 14, "image_size": 224}
SO400M = {"width": 1152, "layers": 27, "head_width": 72, "patch_size": 14, "image_size": 384}
NARROW = VIT_H | {"width": 160}  # ViT-H's blocks and patches; a network of this width is fast


def transformers_vision(shape: dict[str, int]) -> nn.Module:
    config = CLIPVisionConfig(
        hidden_size=shape["width"],
        intermediate_size=4 * shape["width"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["width"] // shape["head_width"],
        projection_dim=shape["width"],
        hidden_act="gelu",
        **{name: shape[name] for name in ("patch_size", "image_size")},
    )
    net: nn.Module = CLIPVisionModelWithProjection(config)
    return net.requires_grad_(False).eval()


def open_clip_vision(shape: dict[str, int]) -> nn.Module:
    text = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    net: nn.Module = open_clip.CLIP(shape["width"], shape, text).visual
    return net.requires_grad_(False).eval()


def embed(net: nn.Module, pixels: Tensor) -> Tensor:
    seen = net(pixels)
    features: Tensor = seen if isinstance(seen, Tensor) else seen.image_embeds
    return features


def make_recompute(net: nn.Module) -> None:
    """As image_encoder does it, for each of the two libraries."""
    has_model = hasattr(net, "vision_model")
    recompute(net.vision_model.encoder.layers if has_model else net.transformer.resblocks)


Make = Callable[[dict[str, int]], nn.Module]
MAKES: dict[str, Make] = {"transformers": transformers_vision, "open_clip": open_clip_vision}


@pytest.fixture(params=MAKES)
def make(request: pytest.FixtureRequest) -> Make:
    return MAKES[request.param]


def value_and_grad(net: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    leaf = pixels.clone().requires_grad_()
    features = embed(net, leaf)
    (grad,) = torch.autograd.grad(features.square().sum(), leaf)
    return features.detach(), grad


def bytes_kept(net: nn.Module, pixels: Tensor) -> int:
    """What autograd holds between forward and backward, without the weights; each storage once."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = embed(net, pixels.clone().requires_grad_())
    assert features.requires_grad
    weights = {w.untyped_storage().data_ptr() for w in (*net.parameters(), *net.buffers())}
    return sum(storage.nbytes() for place, storage in kept.items() if place not in weights)


# ---- recomputing ----------------------------------------------------------------------------


def test_recomputing_keeps_a_quarter_or_less(make: Make) -> None:
    torch.manual_seed(0)
    net, pixels = make(NARROW), pictures(1, 224, 224)
    plain, (features, grad) = bytes_kept(net, pixels), value_and_grad(net, pixels)
    make_recompute(net)
    kept, (features_again, grad_again) = bytes_kept(net, pixels), value_and_grad(net, pixels)
    assert torch.equal(features, features_again) and torch.equal(grad, grad_again)
    assert (grad != 0).any()
    # At least the input of each block: fewer would mean that blocks were merged or left out.
    assert 32 * 257 * 160 * 4 <= kept <= plain / 4
    with torch.device("meta"):
        assert is_large(make(VIT_H)) and not is_large(make(VIT_L))


class Wave(nn.Module):
    """A block that notes its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[float] = []

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        self.runs.append(scale)
        return (scale * x).sin()


def test_recomputing_runs_a_block_again_only_where_there_is_a_gradient() -> None:
    wave, leaf = Wave(), torch.ones(3, requires_grad=True)
    blocks = nn.ModuleList([wave])
    recompute(blocks)
    with torch.no_grad():
        blocks[0](leaf, scale=2.0)
    assert wave.runs == [2.0]
    blocks[0](leaf, scale=3.0).sum().backward()
    assert wave.runs == [2.0, 3.0, 3.0]
    assert torch.equal(leaf.grad, 3 * torch.cos(3 * torch.ones(3)))


def test_where_there_is_room_nothing_is_recomputed() -> None:
    wave, leaf = Wave(), torch.ones(3, requires_grad=True)
    blocks = nn.ModuleList([wave])
    recompute(blocks)
    with layers_kept(True):
        with layers_kept(False):
            blocks[0](leaf, scale=2.0).sum().backward()
        blocks[0](leaf, scale=3.0).sum().backward()
    blocks[0](leaf, scale=4.0).sum().backward()
    assert wave.runs == [2.0, 2.0, 3.0, 4.0, 4.0]


@pytest.mark.parametrize(("shape", "large"), [(VIT_H, True), (VIT_L, False), (SO400M, True)])
def test_what_is_reserved_for_layers_is_what_they_take(
    make: Make, shape: dict[str, int], large: bool
) -> None:
    """Alive at one time, kept and recomputed, with an attention that keeps no matrices."""
    shapes_alone = FakeTensorMode()
    with shapes_alone:
        net, pixels = make(shape), torch.empty(1, 3, shape["image_size"], shape["image_size"])
    look, more = Preprocessing(shape["image_size"]), {"recomputes": large}
    encoder = encoders.ImageEncoder(net, embed, look, shape["width"], **more)
    around = nn.Sequential(encoder)  # as ImageReward has it

    def gradient() -> None:
        leaf = pixels.clone().requires_grad_()
        torch.autograd.grad(embed(net, leaf).sum(), leaf)

    def alive() -> int:
        with shapes_alone:
            return peak_bytes(gradient)

    kept = alive()
    assert kept < encoders.layers_bytes([around, nn.Identity()], True) < 1.15 * kept
    if not large:
        assert encoders.layers_bytes([encoder], False) == encoders.layers_bytes([encoder], True)
        return
    make_recompute(net)
    recomputed = alive()
    assert recomputed < encoders.layers_bytes([around], False) < 1.15 * recomputed


def test_a_network_that_narrows_is_not_taken_for_blocks_of_one_size() -> None:
    """By its first layer's width and tokens VGG16 was to take 57 GB an image, of 0.16."""
    widths = [3, 16, 16, 32, 64, 64]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*layers, nn.Conv2d(64, 512, 3))
    encoder = encoders.ImageEncoder(
        net, lambda net, x: net(x).mean(dim=(2, 3)), Preprocessing(128), 512
    )
    shapes_alone = FakeTensorMode(allow_non_fake_inputs=True)

    def gradient() -> None:
        leaf = torch.empty(1, 3, 128, 128).requires_grad_()
        torch.autograd.grad(encoder.features(net, leaf).sum(), leaf)

    with shapes_alone:
        peak = peak_bytes(gradient)
    assert peak < encoders.layers_bytes([encoder], True) < 3 * peak


def encoder_of(layout: str, folder: Path) -> encoders.ImageEncoder:
    write = reward_files.clip_folder if layout == "transformers" else reward_files.hps
    return image_encoder(write(folder), torch.float32)


@pytest.mark.parametrize("layout", MAKES)
def test_the_loader_makes_large_networks_recompute(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same scores and gradients, in ComfyUI's inference mode too.

    Not by open_clip's own checkpointing, which was a reentrant one until 2.31.
    """
    monkeypatch.setattr("open_clip.transformer.checkpoint", None)
    small = encoder_of(layout, tmp_path)
    monkeypatch.setattr(encoders, "LARGE", 0)
    large = encoder_of(layout, tmp_path)
    assert large.recomputes and not small.recomputes
    rewards = [CosineReward(encoder, torch.ones(1, small.width)) for encoder in (small, large)]
    with torch.inference_mode():
        (expected, found), images = (AutogradLogWeight(r, "cosine") for r in rewards), pictures(2)
        expected, found = expected.value_and_grad(images), found.value_and_grad(images)
    assert torch.equal(expected[0], found[0]) and torch.equal(expected[1], found[1])
    plain, sparing = (bytes_kept(net, pictures(1, 32, 32)) for net in (small, large))
    with layers_kept(True):
        assert bytes_kept(large, pictures(1, 32, 32)) == plain > sparing


# ---- loading --------------------------------------------------------------------------------


class Fake:
    """A model class of transformers: notes how loud it is while loading."""

    def __init__(self, error: BaseException | None = None, missing: tuple[str, ...] = ()) -> None:
        self.error, self.missing, self.loudness = error, missing, (0, True)

    def from_pretrained(self, *_: Any, **__: Any) -> tuple[nn.Module, dict[str, Any]]:
        self.loudness = loudness()
        if self.error is not None:
            raise self.error
        found = dict.fromkeys(("mismatched_keys", "unexpected_keys"), ())
        return nn.Linear(1, 1), found | {"missing_keys": self.missing}

    def load(self) -> nn.Module:
        return from_transformers(self, CLIPVisionConfig(), {}, Path("file"), torch.float16)


def loudness() -> tuple[int, bool]:
    log = transformers.logging
    return log.get_verbosity(), log.is_progress_bar_enabled()


@pytest.fixture(params=[True, False], ids=["bars", "no bars"])
def bars(request: pytest.FixtureRequest) -> Iterator[bool]:
    """transformers at an unusual verbosity, with and without bars; as before afterwards."""
    log = transformers.logging
    level, shown = loudness()
    log.set_verbosity_info()
    log.enable_progress_bar() if request.param else log.disable_progress_bar()
    yield request.param
    log.set_verbosity(level)
    log.enable_progress_bar() if shown else log.disable_progress_bar()


def test_loading_is_quiet_and_leaves_transformers_as_loud_as_it_was(
    bars: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fake = Fake()
    net = fake.load()
    assert fake.loudness == (transformers.logging.ERROR, False)
    assert loudness() == (transformers.logging.INFO, bars)
    assert net.weight.dtype == torch.float16
    assert not net.weight.requires_grad and not net.training
    image_encoder(reward_files.clip_folder(tmp_path), torch.float32)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("fake", "error"),
    [
        (Fake(error=RuntimeError("no")), CheckpointError),
        (Fake(error=KeyboardInterrupt()), KeyboardInterrupt),
        (Fake(missing=("weight",)), CheckpointError),
    ],
    ids=["failed", "interrupted", "misfit"],
)
def test_also_after_an_error(bars: bool, fake: Fake, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fake.load()
    assert loudness() == (transformers.logging.INFO, bars)


# ---- buffers --------------------------------------------------------------------------------


def swin() -> Any:
    """A small Swin, whose table of positions is computed."""
    from transformers import SwinConfig, SwinForImageClassification

    sizes = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "window_size": 4}
    net = SwinForImageClassification(SwinConfig(**sizes, depths=[1, 1], num_heads=[1, 2]))
    reward_files.sharpen(net, 9)
    return net.eval()


@pytest.mark.parametrize("saved", [False, True], ids=["transformers 5", "transformers 4"])
def test_buffers_that_a_network_computes_may_be_in_a_file_or_not(
    saved: bool, tmp_path: Path
) -> None:
    """As each release writes it, read by the one that is installed."""
    net, pixels = swin(), pictures(2, 32, 32)
    buffers = dict(net.named_buffers())
    assert len(buffers) == 2 and all("relative_position_index" in name for name in buffers)
    weights = {k: v.clone() for k, v in net.state_dict().items() if k not in buffers}
    if saved:
        weights |= {key: value.clone() for key, value in buffers.items()}
    with torch.no_grad():
        expected = net(pixels).logits
        read = from_transformers(type(net), net.config, weights, tmp_path / "swin", torch.float32)
        torch.testing.assert_close(read(pixels).logits, expected)
    for key, buffer in read.named_buffers():
        assert torch.equal(buffer, buffers[key])
    weights.pop("classifier.bias")
    with pytest.raises(CheckpointError, match="missing: classifier.bias"):
        from_transformers(type(net), net.config, weights, tmp_path / "swin", torch.float32)


def test_buffers_that_were_learned_are_missed(tmp_path: Path) -> None:
    """The means of a BatchNorm."""
    from transformers import ResNetConfig, ResNetModel

    net = ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1]))
    weights = net.state_dict()
    name = next(key for key in weights if key.endswith("running_mean"))
    del weights[name]
    with pytest.raises(CheckpointError, match=f"missing: {name}"):
        from_transformers(ResNetModel, net.config, weights, tmp_path / "resnet", torch.float32)
