"""Full-size networks with random weights, loaded by ComfyUI's own loaders, and what they take.

Runs in ComfyUI's Python only; beside ``_comfyui`` the one file of this room that may import it.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..guidance import DPS, MODES, FreeDoM, LiDAR, Method, plan, preset
from ..rewards import ColourReward, Weight
from ._comfyui import KL, UNETS, WAN, image_side

Weights = Mapping[str, Tensor]
Row = dict[str, Any]
GB = 1e9
WIDTHS = {"SD1.5": (768, 0), "SDXL": (2048, 1280)}  # of a prompt's tokens; of its pooled output
TAESD_FILES = {"SD1.5": "taesd_decoder", "SDXL": "taesdxl_decoder"}
OTHERS: dict[str, Method] = {
    "DPS": DPS(),
    "FreeDoM": FreeDoM(),
    "LiDAR, 4 images": LiDAR(count=4, steps=2),
}
DAS, PARTICLES = "DAS, 2 particles", 2
METHODS = (*MODES, *OTHERS, DAS)


# ---- files --------------------------------------------------------------------------------------


def random_weights(shapes: Weights) -> dict[str, Tensor]:
    """Half-precision weights of variance 1 / fan-in, norms of one, biases of zero."""
    found = {}
    for name, like in shapes.items():
        weight = torch.empty(like.shape, dtype=torch.float16)
        if like.ndim < 2:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            reach = math.sqrt(3 / like[0].numel())
            weight.uniform_(-reach, reach)
        found[name] = weight
    return found


def save(path: Path, *parts: tuple[str, Weights]) -> Path:
    """Write weights under their prefixes."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({prefix + k: v for prefix, weights in parts for k, v in weights.items()}, path)
    return path


def make_checkpoint(family: str, folder: Path) -> Path:
    """A checkpoint of a family in its authors' layout, without text encoders."""
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    with torch.device("meta"):
        unet = UNetModel(**UNETS[family]).state_dict()
        vae = AutoencoderKL(ddconfig=KL, embed_dim=4).state_dict()
    parts = ("model.diffusion_model.", unet), ("first_stage_model.", vae)
    made = ((prefix, random_weights(shapes)) for prefix, shapes in parts)
    return save(folder / f"{family}.safetensors", *made)


def make_taesd(family: str, folder: Path) -> Path:
    """A file of TAESD's decoder where ComfyUI looks for it."""
    from comfy.taesd.taesd import TAESD

    weights = random_weights(TAESD().taesd_decoder.state_dict())
    return save(folder / f"{TAESD_FILES[family]}.safetensors", ("", weights))


def make_encoder(name: str, folder: Path) -> Path:
    """CLIP's image side of a size, as transformers saves it."""
    net = image_side(name)
    kept = {k: v for k, v in net.state_dict().items() if not k.endswith("position_ids")}
    path = save(folder / name / "model.safetensors", ("", random_weights(kept)))
    (path.parent / "config.json").write_text(json.dumps(net.config.to_dict()), encoding="utf-8")
    return path


# ---- what is loaded -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """A checkpoint, and a prompt's random tokens."""

    family: str
    model: Any
    vae: Any

    def prompt(self, seed: int) -> list[list[Any]]:
        """A CONDITIONING."""
        width, pooled = WIDTHS[self.family]
        generator = torch.Generator().manual_seed(seed)
        more = {"pooled_output": torch.randn(1, pooled, generator=generator)} if pooled else {}
        return [[torch.randn(1, 77, width, generator=generator), more]]


def load_checkpoint(family: str, path: Path) -> Loaded:
    """By ComfyUI's own loader."""
    import comfy.sd

    model, _, vae, *_ = comfy.sd.load_checkpoint_guess_config(str(path), output_clip=False)
    return Loaded(family, model, vae)


def load_weight(path: Path | None) -> Weight:
    """By an encoder's cosine with a random direction; a hue where there is no file."""
    from ..rewards.clip import image_encoder
    from ..rewards.reference import ReferenceReward
    from ..runtime.models import shared

    if path is None:
        return Weight.of(ColourReward("hue"), 20.0)
    encoder = shared(image_encoder, path, "auto")
    return Weight.of(ReferenceReward(encoder, torch.ones(1, encoder.width)), 20.0)


# ---- measuring ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What a run took.

    Attributes:
        seconds: by the GPU's events; without one, the user time of this process.
        peak: GB of memory at most, weights included.
        more: of these, beyond what was there before.
    """

    seconds: float
    peak: float
    more: float


def measured(run: Callable[[], object]) -> Measured:
    """Seconds and memory of a run."""
    if not torch.cuda.is_available():
        before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
        began = _user_time()
        run()
        seconds, peak = _user_time() - began, _resident("VmHWM")
        return Measured(seconds, peak, peak - before)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() / GB
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / GB
    return Measured(start.elapsed_time(end) / 1000, peak, peak - held)


def warm_up(run: Callable[[], object]) -> None:
    """Once for what a GPU does only the first time: load, choose kernels. A CPU has none of it."""
    if torch.cuda.is_available():
        run()


def _user_time() -> float:
    """Seconds of this process, all its threads; finer than ``os.times``."""
    import resource  # not on Windows, as little as /proc

    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def _resident(name: str) -> float:
    """GB of this process' memory, from Linux."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    (kilobytes,) = (line.split()[1] for line in text.splitlines() if line.startswith(name))
    return int(kilobytes) * 1024 / GB


def free() -> None:
    """Let go of the models that nobody holds any more, before larger ones come."""
    import comfy.model_management as mm

    mm.unload_all_models()
    gc.collect()
    mm.soft_empty_cache()


# ---- rows ---------------------------------------------------------------------------------------


def vaes(loaded: Loaded, path: Path) -> dict[str, Any]:
    """Decoders of the parts: the checkpoint's VAE and TAESD; on a GPU also others' VAEs.

    Those are the checkpoint's in float32, which it has on a CPU anyway, and Qwen-Image's.

    Args:
        loaded: of the checkpoint.
        path: its file.
    """
    import comfy.sd
    import comfy.utils
    from comfy.ldm.wan.vae import WanVAE

    from ..runtime.decoders import Decoding, VAEDecoder, decoder_of

    found: dict[str, Any] = {
        name: decoder_of(Decoding(name), loaded.vae, loaded.model) for name in ("vae", "taesd")
    }
    if not torch.cuda.is_available():
        return found
    prefix = "first_stage_model."
    own = comfy.utils.load_torch_file(str(path))
    own = {k.removeprefix(prefix): v for k, v in own.items() if k.startswith(prefix)}
    with torch.device("meta"):
        shapes = WanVAE(**WAN).state_dict()
    full = comfy.sd.VAE(sd=own, dtype=torch.float32)
    qwen = comfy.sd.VAE(sd=random_weights(shapes))
    others = {"vae, float32": full, "vae of Qwen-Image": qwen}
    return found | {name: VAEDecoder(one, torch.Tensor.clone) for name, one in others.items()}


def parts(family: str, decoders: dict[str, Any], side: int, decode_side: int) -> Iterator[Row]:
    """Each decoder's gradient and value for one image, with a weight without a network.

    Args:
        family: whose decoders these are.
        decoders: by name.
        side: of the image in pixels.
        decode_side: of what is decoded; 0 for full size.
    """
    from ..runtime.decoded_weight import DecodedLogWeight
    from ..runtime.models import load
    from ..runtime.price import decoder_flop

    for name, decoder in decoders.items():
        looked = DecodedLogWeight(decoder, load_weight(None), decode_side)
        channels = getattr(getattr(decoder, "vae", None), "latent_channels", 4)
        latents = torch.randn(1, channels, side // 8, side // 8)
        needed, counted = looked.bytes_per_image(latents.shape), decoder_flop(looked, latents.shape)
        load(decoder.modules, decoder.patchers, needed)
        about = {"model": family, "part": name, "side": side, "decoded at": decode_side or side}
        yield from _both_ways(looked, latents, {**about, "dtype": str(decoder.dtype)}, counted)


def encoder_parts(weights: dict[str, Weight]) -> Iterator[Row]:
    """Each encoder's gradient and value for one image of 448 pixels, its layers kept."""
    from ..guidance import AutogradLogWeight
    from ..rewards.encoders import layers_kept
    from ..runtime.models import load
    from ..runtime.price import weight_flop

    for name, weight in weights.items():
        if weight.modules:
            load(weight.modules)
            (place,) = {p.device for m in weight.modules for p in m.parameters()}
            images = torch.rand(1, 3, 448, 448, device=place)
            about = {"part": name, "GB of weights": _size(weight), "side": 448}
            counted = weight_flop(weight, (448, 448))
            for kept in (True, False):
                with layers_kept(kept):
                    looked, how = AutogradLogWeight(weight, name), {"layers kept": kept}
                    yield from _both_ways(looked, images, {**about, **how}, counted)


def _size(weight: Weight) -> float:
    return sum(p.nbytes for m in weight.modules for p in m.parameters()) / GB


def _both_ways(looked: Any, given: Tensor, about: Row, counted: Any) -> Iterator[Row]:
    """A row for the gradient, and one for the value."""
    for what, run, flop in (
        ("gradient", looked.value_and_grad, counted.both),
        ("value", looked, counted.forward),
    ):
        warm_up(partial(run, given))
        took = measured(partial(run, given))
        numbers = {"seconds": took.seconds, "TFLOP": flop / 1e12, "GB beside weights": took.more}
        asks = getattr(looked, "bytes_per_image", None)
        if asks is not None:
            numbers["GB asked for"] = asks(given.shape, what == "gradient") / GB
        yield {**about, "what": what, **numbers}


def runs(
    loaded: Loaded,
    side: int,
    steps: int,
    weights: dict[str, Weight],
    decoders: list[str],
    methods: list[str],
) -> Iterator[Row]:
    """Every method, with each weight through each decoder; the plain run first."""
    import comfy.model_management as mm

    from ..runtime.sampling import SamplerInputs, sample_as_ksampler

    given = {
        **{"model": loaded.model, "vae": loaded.vae, "seed": 1, "steps": steps, "cfg": 7.0},
        **{"sampler_name": "euler_ancestral", "scheduler": "karras", "weight": None},
        **{"positive": loaded.prompt(1), "negative": loaded.prompt(2), "options": None},
        "latent_image": {"samples": torch.zeros(1, 4, side // 8, side // 8)},
    }
    about = {"model": loaded.family, "side": side, "steps": steps}
    plain_inputs = SamplerInputs(**given)
    sample_as_ksampler(replace(plain_inputs, steps=1))  # loads the model
    plain = measured(lambda: sample_as_ksampler(plain_inputs))
    yield {**about, "method": "plain", "seconds": plain.seconds, "GB": plain.peak}
    for weight, of in weights.items():
        for decoder in decoders:
            if decoder == "latent-rgb" and of.modules:
                continue  # its images are too small for a network
            for method in methods:
                inputs = replace(plain_inputs, weight=of)
                took, cost = _run(inputs, method, decoder)
                yield {
                    **{**about, "method": method, "decoder": decoder, "weight": weight},
                    **{"seconds": took.seconds, "seconds / plain": took.seconds / plain.seconds},
                    **{"counted / plain": cost, "GB": took.peak},
                }
                mm.soft_empty_cache()


def _run(inputs: Any, name: str, decoder: str) -> tuple[Measured, float | None]:
    """A run, after a short one that loads what it needs; and what was counted before it."""
    from ..runtime.decoders import Decoding
    from ..runtime.options import Options, decoding_of
    from ..runtime.particle_run import Choices
    from ..runtime.particles import sample_particles
    from ..runtime.run import difference_step
    from ..runtime.sampling import ksampler_levels, prices_before, sample_guided

    options, other = Options(decoding=Decoding(decoder)), OTHERS.get(name)
    mode = name if name in MODES else MODES[0]
    given = replace(inputs, options=options, mode=mode, method=other)
    looks = given.vae, given.weight, given.latent_image, options
    price = prices_before(given.model, *looks)[decoding_of(options, mode, other is not None)]

    def sample(given: Any) -> object:
        if name == DAS:
            return sample_particles(given, Choices("das", PARTICLES), None)
        return sample_guided(given, None)

    warm_up(lambda: sample(replace(given, steps=1)))
    took = measured(lambda: sample(given))
    if name == DAS:
        return took, None
    method = other or preset(mode, 10.0, difference_step(given.model))
    levels = ksampler_levels(given.model, given.steps, given.sampler_name, given.scheduler, 1.0)
    return took, priced(method, given.model, levels, price).relative_cost


def priced(method: Method, model: Any, levels: Tensor, price: Any) -> Any:
    """The plan of a run with classifier-free guidance, its weight counted."""
    from ..runtime.lookahead import PlannedRun

    scaling = model.get_model_object("model_sampling").noise_scaling
    bound = method.in_steps(len(levels) - 1, 2).bind(PlannedRun(levels))
    return price.of(plan(bound, levels, scaling))
