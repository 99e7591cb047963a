"""Methods that go back through the model: what they cannot follow is explained, by one text."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import comfy.cli_args
import comfy.hooks
import comfy.model_management as mm
import pytest
import torch
from comfyui_support.executing import run_node
from comfyui_support.faults import RIVALS, leftovers
from comfyui_support.guided import Case, with_hook_lora
from comfyui_support.weighing import case_of
from lags_pack.guidance.particles import PRESETS
from lags_pack.runtime import gradient
from lags_pack.runtime.autograd_safe import autograd_safe
from torch import Tensor

BACKWARD = [name for name, preset in PRESETS.items() if preset.needs_vjp]
ENGINES = {name: {"method": name, "particles": PRESETS[name].particles} for name in BACKWARD}


@pytest.fixture(scope="module")
def case(sd15) -> Case:
    case = case_of(sd15, batch=1, steps=2, strength=20.0, cfg=1.0)
    case.lags()  # ComfyUI notes of its loading on the layers
    return case


class _Raising(torch.autograd.Function):
    """As a compiler of ComfyUI's may be: it evaluates, and raises something in the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise NotImplementedError("no graph of this was kept")


def with_patch(model: Any, change: Callable[[Tensor], Tensor]) -> Any:
    clone = model.clone()
    clone.set_model_attn1_output_patch(lambda out, extra: change(out))
    return clone


def inference_tensor(model: Any) -> Any:
    with torch.inference_mode():
        held = torch.full((1, 1, 1), 1.01)
    return with_patch(model, lambda out: out * held)


PATCHES: dict[str, Callable[[Any], Any]] = {
    "inference tensor": inference_tensor,
    "raises in backward": lambda model: with_patch(model, _Raising.apply),
}


def run(case: Case, way: str, model: Any, **inputs: Any) -> Tensor:
    if way in RIVALS:
        return case.lags(model=model, method=RIVALS[way](), **inputs)[0]
    return case.particles(model=model, **ENGINES[way], **inputs)


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("way", ["DPS", "FreeDoM", *BACKWARD])
def test_what_autograd_cannot_follow_is_explained(case, way, patch):
    before, model = leftovers(case), PATCHES[patch](case.model)
    with pytest.raises(ValueError, match="cannot be differentiated") as caught:
        run(case, way, model)
    message = str(caught.value)
    assert "torch.compile" in message and "TorchCompileModel" in message
    remedies = ("without a method", "LiDAR") if way in RIVALS else ("'lags'", "'smc'", "'fk'")
    assert all(remedy in message for remedy in remedies)
    assert leftovers(case) == before
    assert torch.isfinite(run(case, way, case.model)).all()


def test_particles_on_a_compiled_model(case):
    module = importlib.import_module("comfy_extras.nodes_torch_compile")
    (model,) = run_node(module.TorchCompileModel, model=case.model, backend="eager")
    with pytest.raises(ValueError, match=r"TorchCompileModel .* 'lags', 'smc' or 'fk'"):
        run(case, "tds", model)


@pytest.mark.parametrize("way", ["DPS", "tds"])
def test_a_fault_of_the_evaluation_itself_stays_what_it_is(case, way):
    def fails(out: Tensor) -> Tensor:
        raise RuntimeError("The size of tensor a (4) must match")

    with pytest.raises(RuntimeError, match="must match"):
        run(case, way, with_patch(case.model, fails))


def test_the_stop_button_is_no_such_fault(case):
    def stops(out: Tensor) -> Tensor:
        if out.requires_grad:
            raise mm.InterruptProcessingException
        return out

    with pytest.raises(mm.InterruptProcessingException):
        run(case, "tds", with_patch(case.model, stops))


@pytest.mark.parametrize("way", ["DPS", "tds", "balanced"])
@pytest.mark.parametrize("usual", [False, True])
def test_comfyuis_own_compiler_is_off_where_a_gradient_passes_and_then_as_it_was(
    case, monkeypatch, way, usual
):
    """A later ComfyUI compiles by default, and reads this switch at every call of a model."""
    monkeypatch.setattr(comfy.cli_args.args, "disable_comfy_compiler", usual, raising=False)
    off: list[tuple[bool, bool]] = []
    note = lambda out: (off.append((out.requires_grad, switch())), out)[1]  # noqa: E731
    model = with_patch(case.model, note)
    decoder = case.vae.first_stage_model.taesd_decoder
    hook = decoder.register_forward_hook(lambda *a: off.append((a[-1].requires_grad, switch())))
    try:
        case.lags(model=model) if way == "balanced" else run(case, way, model)
    finally:
        hook.remove()
    assert all(is_off for with_gradient, is_off in off if with_gradient)
    assert any(with_gradient for with_gradient, _ in off)
    assert (
        usual
        or way == "DPS"
        or any(not is_off for with_gradient, is_off in off if not with_gradient)
    )
    assert switch() == usual


def switch() -> bool:
    return comfy.cli_args.args.disable_comfy_compiler


@pytest.mark.parametrize("usual", [False, True])
def test_kernels_without_a_derivative_are_off_and_then_as_they_were(monkeypatch, usual):
    monkeypatch.setattr(mm, "in_training", usual, raising=False)
    with pytest.raises(ZeroDivisionError), autograd_safe(torch.nn.Linear(1, 1)):
        assert mm.in_training
        raise ZeroDivisionError
    assert mm.in_training is usual


@pytest.mark.parametrize("way", ["DPS", "FreeDoM", "tds"])
def test_a_lora_on_one_prompt_alone_is_refused_and_on_both_it_serves(case, way):
    """The weights of the last prompt were those of every gradient."""
    hung = {
        name: with_hook_lora(case.model, case.settings[name]) for name in ("positive", "negative")
    }
    both = hung["positive"][0][1]["hooks"]
    same = comfy.hooks.set_hooks_for_conditioning(case.settings["negative"], both)
    ours = {"cfg": 3.0, "positive": hung["positive"]}
    with pytest.raises(ValueError, match="LoRA hangs on some of the prompts only"):
        run(case, way, case.model, **ours)
    assert torch.isfinite(run(case, way, case.model, **ours, negative=same)).all()
    assert torch.isfinite(case.lags(**ours)[0]).all(), "LAGS goes back through no model"


def test_blocks_draw_the_same_random_numbers_when_they_are_computed_again(case, monkeypatch):
    """Token Merging draws some inside of a block."""
    model = with_patch(case.model, lambda out: out * (1 + torch.rand_like(out)))
    torch.manual_seed(5)
    again = run(case, "DPS", model)
    monkeypatch.setattr(gradient, "blocks", lambda network: [])
    torch.manual_seed(5)
    assert torch.allclose(again, run(case, "DPS", model), atol=1e-4)
