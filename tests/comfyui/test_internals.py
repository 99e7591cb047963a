"""What the pack asks of ComfyUI's own code is there, takes what it is given, and is looked at."""

from __future__ import annotations

import ast
import logging
from pathlib import Path
from typing import Any

import comfy.samplers
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.model import ResnetBlock
from comfyui_support.calls import Source, Use, misfit, uses
from comfyui_support.faults import RIVALS
from comfyui_support.weighing import case_of
from lags_pack.runtime.decoders import VAEDecoder
from lags_pack.runtime.internals import NAMES, TESTED, probe
from torch import nn

PACK = Path(__file__).resolve().parents[2]
FILES = [*PACK.glob("runtime/*.py"), *PACK.glob("nodes/**/*.py"), *PACK.glob("benchmarks/*.py")]
ASSIGNED = (ast.Assign, ast.AnnAssign)  # objects, whose methods are their own
USES = [use for file in FILES for use in uses(file)]


@pytest.fixture(scope="module")
def source(comfy_root) -> Source:
    return Source(comfy_root)


def faults(found: list[Use], source: Source) -> list[str]:
    """What a ComfyUI's source does not have, or does not take."""
    told = []
    for use in found:
        if not use.name.endswith("__file__") and source.find(use.name) is None:
            told.append(f"{use.file}:{use.line} {use.name} is not there")
        parameters = None if use.call is None else source.arguments(use.name)
        if parameters is not None and (why := misfit(use.call, parameters)):
            told.append(f"{use.file}:{use.line} {use.name} {why}")
    return told


def test_every_name_and_call_of_comfyui_fits_its_source(source):
    assert faults(USES, source) == []
    bound = [use for use in USES if use.call and source.arguments(use.name) is not None]
    assert len(bound) > 80, "they are read, not passed over"


FAKE = """
from .other import elsewhere

class Base:
    def __init__(self, a, *, b):
        self.a = a

class Child(Base):
    @staticmethod
    def still(x): ...
    @classmethod
    def of(cls, x, y=1): ...

if True:
    def here(x, y=2, *args): ...
"""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("m.here(1)", None),
        ("m.here()", "asks for x"),
        ("m.here(1, 2, 3, 4)", None),
        ("m.here(1, z=2)", "no parameter z"),
        ("m.here(*several)", None),
        ("m.gone", "comfy.part.gone is not there"),
        ("m.Child(1, b=2)", None),
        ("m.Child(1)", "asks for b"),
        ("m.Child(1, 2, b=3)", "takes 1 positional"),
        ("m.Child.still(1, 2)", "takes 1 positional"),
        ("m.Child.of(1)", None),
        ("m.Child.of()", "asks for x"),
        ("m.elsewhere(1)", "takes 0 positional"),
        ("getattr(m, 'gone', None)", None),
    ],
)
def test_the_reading_of_sources_tells_what_does_not_fit(tmp_path, line, told):
    folder = tmp_path / "ComfyUI" / "comfy"
    folder.mkdir(parents=True)
    (folder / "part.py").write_text(FAKE)
    (folder / "other.py").write_text("def elsewhere(): ...")
    pack = tmp_path / "pack.py"
    pack.write_text(f"import comfy.part as m\n{line}\n")
    found = faults(list(uses(pack)), Source(folder.parent))
    assert found == [] if told is None else told in found[0]


def test_the_probe_looks_at_every_name_that_the_pack_mentions(source):
    published = [use.name for use in USES if (PACK / "benchmarks" / use.file).is_file() is False]
    found = {name for name in published if not name.endswith("__file__")}
    owners = {name: source.find(name.rsplit(".", 1)[0]) for name in found}
    objects = {name for name in found if isinstance(owners[name], ASSIGNED)}
    wanted = {name for name in found if not isinstance(source.find(name), ast.Module)} - objects
    listed = {f"{module}.{name}" for module, names in NAMES.items() for name in names.split()}
    assert listed == wanted


def test_nothing_has_changed_in_this_comfyui(caplog):
    assert probe() == []
    assert not caplog.records


def test_the_probe_says_what_changed_and_in_which_version(caplog, monkeypatch):
    monkeypatch.setattr("comfyui_version.__version__", "9.9.9")
    monkeypatch.delattr("comfy.sampler_helpers.estimate_memory")
    monkeypatch.delattr("comfy.samplers.CFGGuider.outer_predict_noise")

    def outer_sample(self: Any, latent_image: Any, noise: Any) -> None: ...

    monkeypatch.setattr(comfy.samplers.CFGGuider, "outer_sample", outer_sample)
    with caplog.at_level(logging.WARNING):
        changed = probe()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "ComfyUI 9.9.9" in said and TESTED in said
    assert changed == [
        "comfy.sampler_helpers.estimate_memory is gone",
        "comfy.samplers.CFGGuider.outer_predict_noise is gone",
        "comfy.samplers.CFGGuider.outer_sample takes (latent_image, noise) and took (noise "
        "latent_image sampler sigmas)",
    ]
    assert all(one in said for one in changed)


# ---- what a later ComfyUI does ------------------------------------------------------------------


def write_in_place(net: nn.Module, in_place: bool, patches: pytest.MonkeyPatch) -> int:
    """Let the SiLUs behind a network's norms write into their input, or not; how many there are."""
    after_norms = [part[1] for part in net.modules() if isinstance(part, nn.Sequential)
                   and len(part) > 1 and isinstance(part[0], nn.GroupNorm)]  # fmt: skip
    blocks = [block.swish for block in net.modules() if isinstance(block, ResnetBlock)]
    for silu in (*after_norms, *blocks):
        patches.setattr(silu, "inplace", in_place)
    return len(after_norms) + len(blocks)


def test_a_vae_that_writes_in_place_has_the_same_gradient(kl_vae, monkeypatch):
    """ResnetBlock's SiLU does in later ComfyUIs."""
    decoder = VAEDecoder(kl_vae, torch.Tensor.clone)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for in_place in (False, True):
        assert write_in_place(decoder.net, in_place, monkeypatch) > 4
        leaf = latents.clone().requires_grad_()
        with torch.inference_mode(False), torch.enable_grad(), decoder.differentiable():
            gradients += torch.autograd.grad(decoder.images(leaf).square().sum(), leaf)
    torch.testing.assert_close(*gradients)


def test_a_model_that_writes_in_place_is_gone_back_through_alike(sd15, monkeypatch):
    case = case_of(sd15, batch=1, steps=2, strength=20.0, cfg=1.0)
    done = []
    for in_place in (False, True):
        assert write_in_place(case.model.model.diffusion_model, in_place, monkeypatch) > 2
        done.append(case.lags(method=RIVALS["DPS"]())[0])
    torch.testing.assert_close(*done, rtol=1e-4, atol=1e-4)
