"""Each score against its authors' formula, written out in plain torch and on their own model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lags_pack import rewards
from lags_pack.rewards import ClassReward, clip
from lags_pack.rewards.aesthetic import aesthetic_head
from lags_pack.rewards.checkpoint import below
from lags_pack.rewards.classifier import Classifier, classifier
from lags_pack.rewards.hps import hps_encoder
from lags_pack.rewards.perceptual import perceptual_encoder, perceptual_heads
from lags_pack.rewards.preprocessing import Preprocessing
from lags_pack.rewards.reference import reference_encoder, reference_features
from lags_pack.rewards.siglip import siglip_encoder
from lags_pack.tests import reward_files
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

PROMPT = "a red cat, sitting"
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5,) * 3, (0.5,) * 3
Weights = dict[str, Tensor]


def pictures(count: int = 3, height: int = 32, width: int = 32, seed: int = 1) -> Tensor:
    """At the networks' own size, so that normalising is all that is done to them."""
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def normalised(images: Tensor, look: tuple[tuple[float, ...], ...] = CLIP) -> Tensor:
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in look)
    return (images - mean) / deviation


def unit(features: Tensor) -> Tensor:
    return features / features.norm(dim=-1, keepdim=True)


def assert_scores(
    reward: rewards.Reward, images: Tensor, expected: Tensor, spread: float = 1e-3
) -> None:
    """The same to float32's accuracy, of scores that do differ from image to image."""
    with torch.no_grad():
        scores = reward(images)
    assert scores.shape == expected.shape and scores.dtype == torch.float32
    assert expected.std() > spread * expected.abs().max()
    torch.testing.assert_close(scores, expected.float(), rtol=2e-5, atol=1e-5)


# ---- CLIP's ---------------------------------------------------------------------------------


def clip_by_transformers(folder: Path, images: Tensor, prompt: str) -> tuple[Tensor, Tensor, Any]:
    """Normalised features of images and prompt: transformers itself loads and runs the file."""
    from transformers import CLIPModel, CLIPTokenizer

    model, reader = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    tokens = reader(prompt, padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        found = model(pixel_values=normalised(images), **tokens)
    return unit(found.image_embeds), unit(found.text_embeds), model.logit_scale.detach()


def both_sides(path: Path) -> tuple[Any, Tensor]:
    """The file's image side, and the features of the prompt."""
    return clip.image_encoder(path, torch.float32), clip.text_encoder(path, torch.float32)(PROMPT)


def test_pickscore(tmp_path: Path) -> None:
    """exp(logit_scale) * <normalised text, normalised image>."""
    path = reward_files.pickscore(tmp_path, logit_scale=math.log(37.0))
    image, text, scale = clip_by_transformers(path.parent, pictures(), PROMPT)
    reward = rewards.PickScore(*both_sides(path))
    assert_scores(reward, pictures(), scale.exp() * (text @ image.T)[0])
    assert reward.preference_scale == 1  # softmax of the scores themselves


def test_pickscore_through_its_authors_processor(tmp_path: Path) -> None:
    """Which rounds to 8 bits after its resize; ours does not."""
    import numpy as np
    from transformers import CLIPImageProcessor, CLIPModel

    path = reward_files.pickscore(tmp_path)
    coarse = F.interpolate(pictures(2, 6, 7), (60, 70), mode="bilinear")
    levels = (coarse * 255).round().to(torch.uint8)
    processor = CLIPImageProcessor.from_pretrained(str(path.parent))
    files = [Image.fromarray(np.asarray(picture.permute(1, 2, 0))) for picture in levels]
    pixels = processor(files, return_tensors="pt")["pixel_values"]
    model, words = CLIPModel.from_pretrained(path.parent).eval(), torch.tensor([[512, 513]])
    with torch.no_grad():
        features = unit(model(pixel_values=pixels, input_ids=words).image_embeds)
        eye, text = both_sides(path)
        expected = 100 * (features @ unit(text)[0])
        assert (expected[0] - expected[1]).abs() > 5
        scores = rewards.PickScore(eye, text)(levels / 255)
        torch.testing.assert_close(scores, expected, atol=0.3, rtol=0)


@pytest.mark.parametrize("layout", ["transformers", "open_clip"])
def test_clip_score(layout: str, tmp_path: Path) -> None:
    if layout == "transformers":
        path = reward_files.clip_folder(tmp_path)
        image, text, _ = clip_by_transformers(tmp_path, pictures(), PROMPT)
    else:
        path = reward_files.hps(tmp_path)
        image, text = open_clip_features(path, normalised(pictures()))
    assert_scores(rewards.ClipScore(*both_sides(path)), pictures(), (image @ text.T)[:, 0])


def test_clip_text_without_a_config_reads_its_last_token(tmp_path: Path) -> None:
    """A published width, no config.json: activation and place of the features are deduced."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    path = reward_files.pickscore(tmp_path)
    path.with_name("config.json").unlink()
    settings = {**reward_files.CLIP_TEXT, "hidden_size": 64, "intermediate_size": 256}
    settings |= {"num_attention_heads": 1, "hidden_act": "quick_gelu"}
    model = CLIPTextModelWithProjection(CLIPTextConfig(**settings)).eval()
    reward_files.sharpen(model, 9)
    text = {key: value for key, value in model.state_dict().items() if "position_ids" not in key}
    vision = {
        "vision_model.embeddings.patch_embedding.weight": torch.zeros(768, 3, 32, 32),
        "vision_model.embeddings.position_embedding.weight": torch.zeros(50, 768),
        "vision_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(3072, 768),
        "visual_projection.weight": torch.zeros(24, 768),
    }
    reward_files.save(path, text | vision)
    encoder = clip.text_encoder(path, torch.float32)
    tokens = encoder.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(encoder(PROMPT), model(input_ids=tokens).text_embeds)


def open_clip_features(path: Path, pixels: Tensor, prompt: str = PROMPT) -> tuple[Tensor, Tensor]:
    """Features of open_clip's own forward, which normalises them."""
    import open_clip

    sizes = reward_files.OPEN_CLIP
    model = open_clip.CLIP(sizes["embed_dim"], sizes["vision_cfg"], sizes["text_cfg"]).eval()
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    with torch.no_grad():
        image, text, _ = model(pixels, open_clip.SimpleTokenizer()([prompt]))
    return image, text


@pytest.mark.parametrize(("kind", "version"), [(rewards.HPSv2, "2"), (rewards.HPSv21, "2.1")])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 21), (18, 32)])
def test_hps(
    kind: type[rewards.HPSv2], version: str, height: int, width: int, tmp_path: Path
) -> None:
    """image_features @ text_features.T, the image padded to a square with black."""
    path = reward_files.hps(tmp_path, version)
    images = pictures(3, height, width)
    square = torch.zeros(3, 3, 32, 32)
    top, left = (32 - height) // 2, (32 - width) // 2
    square[:, :, top : top + height, left : left + width] = images
    image, text = open_clip_features(path, normalised(square))
    reward = kind(hps_encoder(path, torch.float32), clip.text_encoder(path, torch.float32)(PROMPT))
    assert_scores(reward, images, (image @ text.T)[:, 0])


# ---- aesthetic --------------------------------------------------------------------------------


def clip_vision_model(path: Path) -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**reward_files.CLIP_VISION)).eval()
    model.load_state_dict(load_file(path))
    return model


def linear(weights: Weights, key: str, x: Tensor) -> Tensor:
    return x @ weights[f"{key}.weight"].T + weights[f"{key}.bias"]


def linear_layers(
    weights: Weights, prefix: str, features: Tensor, last: int = 7, name: str = "layers"
) -> Tensor:
    for number in (0, 2, 4, 6, last):
        features = linear(weights, f"{prefix}{name}.{number}", features)
    return features[:, 0]


def test_aesthetic(tmp_path: Path) -> None:
    """Five linear layers on the normalised features of CLIP."""
    vision, head = reward_files.clip_vision(tmp_path), reward_files.aesthetic(tmp_path)
    with torch.no_grad():
        features = unit(clip_vision_model(vision)(normalised(pictures())).image_embeds)
    expected = linear_layers(torch.load(head, weights_only=True), "", features)
    reward = rewards.Aesthetic(clip.image_encoder(vision, torch.float32), aesthetic_head(head))
    assert_scores(reward, pictures(), expected)


def test_aesthetic_of_version_25(tmp_path: Path) -> None:
    """Five linear layers on the normalised pooled features of SigLIP; the file is in bfloat16."""
    path, head = reward_files.siglip(tmp_path), reward_files.aesthetic_25(tmp_path)
    features = unit(siglip_features(path, pictures()))
    weights = {key: value.float() for key, value in torch.load(head, weights_only=True).items()}
    expected = linear_layers(weights, "", features, 8, "scoring_head")
    reward = rewards.Aesthetic(siglip_encoder(path, torch.float32), aesthetic_head(head))
    assert_scores(reward, pictures(), expected)


# ---- ImageReward --------------------------------------------------------------------------------


def layer_norm(weights: Weights, key: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    return scaled * weights[f"{key}.weight"] + weights[f"{key}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, kept: Tensor) -> Tensor:
    """Softmax attention head by head; kept [keys] is which keys count."""
    mixed = []
    for q, k, v in zip(*(x.chunk(heads, dim=-1) for x in (query, key, value)), strict=True):
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        mixed.append(scores.masked_fill(~kept, -math.inf).softmax(dim=-1) @ v)
    return torch.cat(mixed, dim=-1)


def blip_sees(weights: Weights, pixels: Tensor, layers: int, heads: int) -> Tensor:
    """BLIP's image network: a ViT that normalises first, and once more at its end."""
    eye = below(weights, "blip.visual_encoder.")
    kernel = eye["patch_embed.proj.weight"]
    patches = F.conv2d(pixels, kernel, eye["patch_embed.proj.bias"], stride=kernel.shape[-1])
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([eye["cls_token"].expand(len(x), -1, -1), x], dim=1) + eye["pos_embed"]
    everything = torch.ones(x.shape[1], dtype=torch.bool)
    for i in range(layers):
        block = f"blocks.{i}."
        seen = linear(eye, block + "attn.qkv", layer_norm(eye, block + "norm1", x, 1e-6))
        mixed = attention(*seen.chunk(3, dim=-1), heads, everything)
        x = x + linear(eye, block + "attn.proj", mixed)
        inner = gelu(linear(eye, block + "mlp.fc1", layer_norm(eye, block + "norm2", x, 1e-6)))
        x = x + linear(eye, block + "mlp.fc2", inner)
    return layer_norm(eye, "norm", x, 1e-6)


def bert_attends(
    weights: Weights, key: str, x: Tensor, source: Tensor, heads: int, kept: Tensor
) -> Tensor:
    query = linear(weights, f"{key}.self.query", x)
    keys, values = (linear(weights, f"{key}.self.{name}", source) for name in ("key", "value"))
    x = x + linear(weights, f"{key}.output.dense", attention(query, keys, values, heads, kept))
    return layer_norm(weights, f"{key}.output.LayerNorm", x, 1e-12)


def blip_reads(weights: Weights, tokens: Tensor, seen: Tensor, layers: int, heads: int) -> Tensor:
    """BLIP's text network: a BERT that normalises last, with attention to the image."""
    read = "blip.text_encoder."
    places = weights[read + "embeddings.position_embeddings.weight"][: len(tokens)]
    x = weights[read + "embeddings.word_embeddings.weight"][tokens] + places
    x = layer_norm(weights, read + "embeddings.LayerNorm", x, 1e-12).expand(len(seen), -1, -1)
    words, patches = tokens != 0, torch.ones(seen.shape[1], dtype=torch.bool)
    for i in range(layers):
        layer = f"{read}encoder.layer.{i}."
        x = bert_attends(weights, layer + "attention", x, x, heads, words)
        x = bert_attends(weights, layer + "crossattention", x, seen, heads, patches)
        inner = gelu(linear(weights, layer + "intermediate.dense", x))
        x = x + linear(weights, layer + "output.dense", inner)
        x = layer_norm(weights, layer + "output.LayerNorm", x, 1e-12)
    return x


def blip_file(folder: Path) -> Path:
    """Two heads on both sides, three and two layers, and norms that do something."""
    sizes = {"width": 128, "layers": 3, "text": 48, "text_layers": 2, "side": 32, "patch": 8}
    path, generator = reward_files.image_reward(folder, **sizes), torch.Generator().manual_seed(2)
    weights = torch.load(path, weights_only=True)
    for key, value in weights.items():
        if "norm" in key.lower() and key.endswith("weight"):
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
    torch.save(weights, path)
    return path


def words_of(prompt: list[str]) -> list[int]:
    """[CLS] words [SEP], padded to 35."""
    numbers = [reward_files.bert_words().index(word) for word in ["[CLS]", *prompt, "[SEP]"]]
    return numbers + [0] * (35 - len(numbers))


PROMPTS = {
    "A cat!": ["a", "c", "##a", "##t", "!"],
    "": [],
    "ca 猫红": ["c", "##a", "猫", "红"],  # Chinese characters are words of their own
    "Café": ["c", "##a", "##f", "##e"],  # accents go
    "€": ["[UNK]"],
    "x y " * 40: ["x", "y"] * 16 + ["x"],  # cut, with [SEP] as the 35th
}


@pytest.mark.parametrize(("prompt", "words"), PROMPTS.items())
def test_image_reward(prompt: str, words: list[str], tmp_path: Path) -> None:
    path = blip_file(tmp_path)
    tokens, mask = rewards.image_reward.encode(prompt, path.with_name("vocab.txt"))
    assert tokens.tolist() == [words_of(words)]
    assert mask.tolist() == [[1] * (len(words) + 2) + [0] * (33 - len(words))]
    weights = torch.load(path, weights_only=True)
    seen = blip_sees(weights, normalised(pictures()), layers=3, heads=2)
    first = blip_reads(weights, torch.tensor(words_of(words)), seen, layers=2, heads=2)[:, 0]
    raw = linear_layers(weights, "mlp.", first)
    model = rewards.image_reward.image_reward_model(path, torch.float32)
    reward = rewards.ImageReward(model, path.with_name("vocab.txt"), prompt)
    assert_scores(reward, pictures(), (raw - 0.16717362830052426) / 1.0333394966054072)
    # Its authors trained softmax(raw scores); ours are shifted and divided.
    preferences = (reward.preference_scale * reward(pictures())).softmax(dim=0)
    torch.testing.assert_close(preferences, raw.softmax(dim=0), rtol=1e-4, atol=1e-5)


# ---- classifiers --------------------------------------------------------------------------------


def class_logits(path: Path, images: Tensor) -> Tensor:
    from transformers import ViTForImageClassification

    model = ViTForImageClassification.from_pretrained(str(path.parent)).eval()
    with torch.no_grad():
        logits: Tensor = model(pixel_values=normalised(images, HALF)).logits
    return logits


def test_class_and_balance_scores(tmp_path: Path) -> None:
    path = reward_files.classifier(tmp_path)
    model, odds = classifier(path, torch.float32), class_logits(path, pictures()).exp()
    share = odds / odds.sum(dim=1, keepdim=True)
    assert_scores(ClassReward(model, [2]), pictures(), share[:, 2].log())
    assert_scores(ClassReward(model, [0, 3]), pictures(), (share[:, 0] + share[:, 3]).log())
    assert_scores(ClassReward(model, [2], away=True), pictures(), (1 - share[:, 2]).log())
    both = 1 - share[:, 0] - share[:, 1]
    assert_scores(ClassReward(model, [0, 1], away=True), pictures(), both.log())
    share = odds[:, [3, 1]] / odds[:, [3, 1]].sum(dim=1, keepdim=True)
    expected = (share[:, 0] * 0.5 / 0.8 + share[:, 1] * 0.5 / 0.2).log()
    assert_scores(rewards.BalanceReward(model, [3, 1], [8.0, 2.0]), pictures(), expected)


def sure_classifier(classes: int) -> Classifier:
    """Images of one pixel, whose red says the class: class c at (c + 0.5) / classes."""
    edges = (torch.arange(classes) + 0.5) / classes

    class Nearest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sharpness = nn.Parameter(torch.tensor(1e4), requires_grad=False)

        def forward(self, pixels: Tensor) -> Tensor:
            return -self.sharpness * (pixels[:, 0].mean(dim=(1, 2))[:, None] - edges).square()

    plain = Preprocessing(1, mean=(0.0,) * 3, std=(1.0,) * 3)
    model = Classifier(Nearest(), lambda net, pixels: net(pixels), plain, classes)
    model.names = tuple(f"class {i}" for i in range(classes))
    return model


@pytest.mark.parametrize("targets", [None, [1.0, 2.0, 5.0]])
def test_balancing_turns_the_rates_into_the_targets(targets: list[float] | None) -> None:
    """E over what the model draws of exp(score) * [class is c] is proportional to target c."""
    rates, classes = [0.7, 0.2, 0.1], [4, 0, 2]
    reward = rewards.BalanceReward(sure_classifier(5), classes, rates, targets)
    drawn = torch.tensor(classes).repeat_interleave(torch.tensor([70, 20, 10]))
    images = ((drawn + 0.5) / 5).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    weights = reward(images).exp()
    shares = torch.stack([weights[drawn == c].sum() for c in classes]) / len(drawn)
    wanted = torch.tensor(targets or [1.0] * 3)
    torch.testing.assert_close(shares, wanted / wanted.sum())


# ---- references -------------------------------------------------------------------------------


def test_a_clip_reference(tmp_path: Path) -> None:
    """Cosine with the mean of the references' normalised features."""
    path, references = reward_files.clip_vision(tmp_path), pictures(2, seed=5)
    with torch.no_grad():
        features = clip_vision_model(path)(normalised(pictures())).image_embeds
        targets = unit(clip_vision_model(path)(normalised(references)).image_embeds)
    expected = unit(features) @ unit(targets[0] / 2 + targets[1] / 2)
    encoder = reference_encoder(path, torch.float32)
    reward = rewards.ReferenceReward(encoder, reference_features(encoder, references))
    assert_scores(reward, pictures(), expected)


def test_a_dinov2_reference(tmp_path: Path) -> None:
    """Cosine of the class tokens; its processor resizes to 36 and keeps the middle 32."""
    from transformers import Dinov2Model

    path = reward_files.dinov2(tmp_path)
    model = Dinov2Model.from_pretrained(str(path.parent)).eval()
    images = pictures(4, 36, 36)
    middle = normalised(images[:, :, 2:34, 2:34], IMAGENET)
    with torch.no_grad():
        tokens = unit(model(pixel_values=middle).last_hidden_state[:, 0])
    encoder = reference_encoder(path, torch.float32)
    reward = rewards.ReferenceReward(encoder, reference_features(encoder, images[3:]))
    assert_scores(reward, images[:3], tokens[:3] @ tokens[3])
    assert reward(images[3:]).item() == pytest.approx(1, abs=1e-5)


def siglip_features(path: Path, images: Tensor) -> Tensor:
    from transformers import SiglipModel

    model = SiglipModel.from_pretrained(str(path.parent)).eval()
    with torch.no_grad():
        seen: Tensor = model.vision_model(pixel_values=normalised(images, HALF)).pooler_output
    return seen


def test_a_siglip_reference(tmp_path: Path) -> None:
    """Cosine of the pooled features, which a whole SigLIP compares with its texts'."""
    path = reward_files.siglip(tmp_path)
    seen = siglip_features(path, pictures(4))
    encoder = reference_encoder(path, torch.float32)
    reward = rewards.ReferenceReward(encoder, reference_features(encoder, pictures(4)[3:]))
    assert_scores(reward, pictures(4)[:3], unit(seen)[:3] @ unit(seen)[3])


def test_style(tmp_path: Path) -> None:
    """FreeDoM's energy: Gram matrices of the third block's features without the class token."""
    path, wanted = reward_files.clip_vision(tmp_path), pictures(1, seed=6)
    pixels = normalised(torch.cat([pictures(), wanted]))
    with torch.no_grad():
        found = clip_vision_model(path)(pixels, output_hidden_states=True)
    features = found.hidden_states[3][:, 1:]  # 0 are the embeddings
    grams = torch.stack([sum(torch.outer(patch, patch) for patch in one) for one in features])
    expected = -torch.linalg.matrix_norm(grams[:3] - grams[3], ord="fro")
    reward = rewards.StyleReward(clip.early_layers(path, torch.float32), wanted)
    assert_scores(reward, pictures(), expected)
    assert reward(wanted).item() == pytest.approx(0, abs=2e-4)


# Convolutions (with a ReLU) and pools of the networks; * ends a layer that LPIPS compares.
VGG16, ALEXNET = "c c* p c c* p c c c* p c c c* p c c c*", "c* p c* p c* c* c*"


def lpips_layers(weights: Weights, network: str, images: Tensor) -> list[Tensor]:
    """As published: of images in -1..1, with LPIPS's own shift and scale."""
    shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]])[..., None, None]
    x, layers, convolutions = (2 * images - 1 - shift) / scale, [], iter(weights)
    for part in network.split():
        if part == "p":
            x = F.max_pool2d(x, 3 if network is ALEXNET else 2, 2)
            continue
        kernel, bias = weights[next(convolutions)], weights[next(convolutions)]
        stride, padding = {11: (4, 2), 5: (1, 2), 3: (1, 1)}[kernel.shape[-1]]
        x = F.conv2d(x, kernel, bias, stride, padding).clamp(min=0)
        layers += [x] if part.endswith("*") else []
    return layers


@pytest.mark.parametrize(
    ("network", "make"), [(VGG16, reward_files.vgg16), (ALEXNET, reward_files.alexnet)]
)
@pytest.mark.parametrize("trained", [True, False])
def test_perceptual(network: str, make: Any, trained: bool, tmp_path: Path) -> None:
    """LPIPS: unit vectors' squared differences, weighted by channel, averaged over the places."""
    path, images = make(tmp_path), pictures(4, 64, 64)
    weights = torch.load(path, weights_only=True)
    layers, distances = lpips_layers(weights, network, images), torch.zeros(3)
    counts = tuple(layer.shape[1] for layer in layers)
    heads_file = reward_files.lpips(tmp_path, counts)
    heads = [value[0, :, 0, 0] for value in torch.load(heads_file, weights_only=True).values()]
    for layer, head in zip(layers, heads, strict=True):
        lengths = layer.square().sum(dim=1, keepdim=True).sqrt()
        for i in range(3):
            difference = (layer / lengths)[i] - (layer / lengths)[3]
            factor = head if trained else torch.ones_like(head)
            distances[i] += (difference.square() * factor[:, None, None]).sum(dim=0).mean()
    encoder = perceptual_encoder(path, torch.float32, 64)
    reward = rewards.PerceptualReward(
        encoder, images[3:], perceptual_heads(heads_file) if trained else None
    )
    assert_scores(reward, images[:3], -distances)
    assert reward(images[3:]).item() == pytest.approx(0, abs=1e-6)
