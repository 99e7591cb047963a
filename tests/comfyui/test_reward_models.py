"""Reward models in memory: read once, shared, moved whole, gone when nobody needs them."""

from __future__ import annotations

import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import folder_paths
import pytest
import torch
from comfyui_support.executing import Executor, run_node
from comfyui_support.guided import spied
from comfyui_support.weighing import VIT, case_of, load_weight, noise, reference, scores
from lags_pack.nodes import NODES
from lags_pack.nodes.tools.score import LAGSScoreImages
from lags_pack.rewards import Weight, clip
from lags_pack.runtime import models
from lags_pack.runtime.decoders import VAEDecoder
from lags_pack.runtime.model_files import FOLDER
from lags_pack.runtime.models import WholePatcher
from lags_pack.tests import reward_files

CPU, META = torch.device("cpu"), torch.device("meta")
INSTALL = "pip install open_clip_torch"


@pytest.fixture
def alone(tmp_path, weight_files, monkeypatch, nothing_loaded) -> Path:
    """A weight_functions of its own with a PickScore in it, and no model loaded."""
    shutil.copytree(weight_files / "PickScore_v1", tmp_path / "PickScore_v1")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, FOLDER, ([str(tmp_path)], set()))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path / "PickScore_v1" / "model.safetensors"


def unload() -> None:
    """The button 'Unload models', as the server runs it."""
    with torch.inference_mode():
        mm.unload_all_models()
    gc.collect()


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    return spied(monkeypatch, clip, "read_weights", lambda path: path)


def network(weight: Weight) -> torch.nn.Module:
    (module,) = weight.modules
    return module


# ---- sharing ----------------------------------------------------------------------------------


def test_one_file_and_precision_is_one_module(alone, reads):
    first = load_weight("PickScore", prompt="a cat")
    assert reads == [alone, alone], "once for the images, once for the prompt"
    file = "PickScore_v1/model.safetensors"
    second = load_weight("PickScore", prompt="a dog", file=file)
    content = reference(noise(1), file=file)
    assert network(first) is network(second)
    assert network(content) is not network(first), "read as another kind of encoder"
    assert reads == [alone, alone, alone]
    exact = load_weight("PickScore", precision="float32")
    assert network(exact) is network(first), "auto is float32 on this device"
    half = load_weight("PickScore", precision="float16")
    assert network(half) is not network(first)
    assert len(reads) == 5


def test_a_changed_file_is_read_again(alone):
    before = load_weight("PickScore")
    reward_files.pickscore(alone.parents[1], seed=99)
    later = alone.stat().st_mtime_ns + 10**9
    os.utime(alone, ns=(later, later))
    after = load_weight("PickScore")
    assert network(after) is not network(before)
    assert not torch.allclose(scores(after, noise(2)), scores(before, noise(2)))


@pytest.mark.parametrize(
    "name",
    [
        *("preprocessor_config.json", "config.json", "tokenizer_config.json", "merges.txt"),
        "model.safetensors.index.json",
    ],
)
def test_what_lies_beside_the_weights_counts(alone, name):
    """A file that is put there later, or corrected; the sizes of this model need its config."""
    beside = alone.with_name(name)
    whole = beside.read_bytes() if beside.is_file() else b"{}"
    beside.write_bytes(whole + b"\n\n") if name == "config.json" else beside.unlink(missing_ok=True)
    plain = models.shared(clip.early_layers, alone, "float32")
    assert models.shared(clip.early_layers, alone, "float32") is plain
    beside.write_bytes(whole)
    added = models.shared(clip.early_layers, alone, "float32")
    assert added is not plain
    beside.write_bytes(whole + b"\n")
    assert models.shared(clip.early_layers, alone, "float32") is not added


def test_a_corrected_preprocessor_changes_the_score(alone):
    before = scores(load_weight("PickScore"), noise(2))
    look = json.loads(alone.with_name("preprocessor_config.json").read_text("utf-8"))
    look["image_mean"] = [0.9, 0.1, 0.1]
    reward_files.write_json(alone.with_name("preprocessor_config.json"), look)
    assert not torch.allclose(scores(load_weight("PickScore"), noise(2)), before)


USUAL = {"precision": "auto", "strength": 1.0, "auto_nats": 0.0}
PICK = "PickScore_v1/model.safetensors"
OF_FILES = {
    "LAGSLoadWeight": ("reward", {"reward": "PickScore", "prompt": "a cat", "file": "auto"}),
    "LAGSWeightReference": ("like", {"like": "content", "file": PICK}),
    "LAGSWeightClassifier": ("", {"file": VIT, "goal": "towards", "goal.classes": "red"}),
}


@pytest.mark.parametrize("node", OF_FILES)
def test_comfyui_runs_a_weight_again_when_a_file_has_changed(alone, node, monkeypatch):
    """It keeps what a node put out, by the node's widgets."""
    reward_files.classifier(alone.parents[1])
    executed, (group, own) = Executor(monkeypatch), OF_FILES[node]
    chosen = {name if name == group else f"{group}.{name}": own[name] for name in own}
    usual = {f"{group}.{name}": value for name, value in USUAL.items()}
    inputs = {name.lstrip("."): value for name, value in (chosen | usual).items()}
    if node == "LAGSWeightReference":
        inputs["image"] = ["1", 0]
    picture = {"width": 32, "height": 32, "batch_size": 1, "color": 0x804020}
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": picture},
        "2": {"class_type": node, "inputs": inputs},
        "3": {"class_type": "LAGSScoreImages", "inputs": {"images": ["1", 0], "top_k": 0}},
    }
    prompt["3"]["inputs"]["weight"] = ["2", 0]

    def weight() -> Weight:
        assert executed(json.loads(json.dumps(prompt))), executed.error
        return executed.outputs("2")[0][0]

    first = weight()
    assert weight() is first
    for beside in alone.parents[1].glob("*/preprocessor_config.json"):
        look = json.loads(beside.read_text("utf-8"))
        reward_files.write_json(beside, look | {"image_mean": [0.9, 0.1, 0.1]})
    second = weight()
    assert second is not first and weight() is second


def test_a_loaded_model_outlives_its_weight(alone, reads):
    """A prompt that is edited over and over reads no file again."""
    for prompt in ("a cat", "a black cat", "a black cat on a sofa"):
        weight = load_weight("PickScore", prompt=prompt)
        score(weight)
        module = weakref.ref(network(weight))
        del weight
        gc.collect()
        assert module() is not None
    assert reads == [alone, alone]


def score(weight: Weight) -> list[float]:
    """By Score Images, which loads the networks through the memory manager."""
    return run_node(LAGSScoreImages, images=noise(2), weight=weight, top_k=0)[3]


def test_unloaded_and_dropped_is_gone(alone):
    weight = load_weight("PickScore")
    score(weight)
    module = weakref.ref(network(weight))
    (patcher,) = (weakref.ref(p) for p in models.patchers_of(weight.modules))
    del weight
    unload()
    assert module() is None and patcher() is None
    assert not [entry for entry in mm.current_loaded_models if entry.model is None]


def test_unloaded_but_in_the_graph_is_kept(alone, reads):
    weight = load_weight("PickScore")
    before = score(weight)
    unload()
    entries = mm.current_loaded_models
    assert not any(e.model is None or e.model.model is network(weight) for e in entries)
    assert score(weight) == before
    assert any(entry.model.model is network(weight) for entry in mm.current_loaded_models)
    assert len(reads) == 2


# ---- moved by the memory manager --------------------------------------------------------------


def moved_in_inference_mode(module: torch.nn.Module) -> None:
    """What a move to another device and back leaves: new tensors, made in inference mode."""
    with torch.inference_mode():
        module._apply(torch.clone)
    assert all(part.is_inference() for part in [*module.parameters(), *module.buffers()])


def test_weights_that_were_moved_serve_again(sd15, alone):
    case = case_of(sd15, batch=1, steps=2)
    weight = load_weight("PickScore", strength=0.3)
    read, _ = case.lags(weight=weight)
    unload()
    moved_in_inference_mode(network(weight))
    before, _ = case.lags(weight=weight)
    unload()
    moved_in_inference_mode(network(weight))
    again, _ = case.lags(weight=weight)
    assert torch.equal(again, before)
    # As read, weights begin where a file's header ends (here 20 bytes past a multiple of 64, once
    # moved at one), and a processor's sums hang on that: 6e-5 apart, of latents up to 44.
    torch.testing.assert_close(before, read, rtol=0, atol=5e-4)
    assert not any(p.is_inference() for p in network(weight).parameters())
    moved_in_inference_mode(network(weight))
    assert score(weight) and not torch.equal(again, case.ksampler())


def test_make_normal_is_enough_for_a_backward():
    """A BatchNorm's too, which asks more of its buffers than others do."""
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    pixels = torch.rand(2, 3, 8, 8, requires_grad=True)
    (expected,) = torch.autograd.grad(module(pixels).square().sum(), pixels)
    parameters = [id(p) for p in module.parameters()]
    moved_in_inference_mode(module)
    models.make_normal(module)
    assert [id(p) for p in module.parameters()] == parameters
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    (found,) = torch.autograd.grad(module(pixels).square().sum(), pixels)
    assert torch.equal(found, expected)


def hugging_face(weight_files: Path) -> torch.nn.Module:
    """An image encoder around a PreTrainedModel, whose `device` has no setter."""
    return clip.image_encoder(weight_files / "PickScore_v1" / "model.safetensors", torch.float32)


@pytest.mark.parametrize("part", [100, 30_000])
def test_a_part_is_the_whole(weight_files, part):
    """Asked to load a little, it loads all; asked to unload a little, it says that it cannot."""
    module = hugging_face(weight_files)
    patcher = WholePatcher(module, META, CPU)
    assert patcher.model_size() > 2 * part
    assert {p.device for p in module.parameters()} == {CPU}
    patcher.partially_load(META, part)
    assert {p.device for p in [*module.parameters(), *module.buffers()]} == {META}
    assert patcher.loaded_size() == patcher.model_size()
    assert patcher.partially_unload(CPU, 100) == 0
    assert {p.device for p in module.parameters()} == {META}


def test_a_plain_patcher_would_split_it(weight_files):
    """Why there is a WholePatcher at all: without it the layers end up on two devices."""
    from comfy.model_patcher import ModelPatcher

    module = hugging_face(weight_files)
    patcher = ModelPatcher(module, META, CPU)
    patcher.partially_load(META, patcher.model_size() // 2)
    assert {p.device for p in module.parameters()} == {META, CPU}


def test_the_manager_unloads_all_of_it(weight_files):
    """Where the manager wants a few bytes, the whole model goes."""
    patcher = WholePatcher(hugging_face(weight_files), CPU, CPU)
    entry = mm.LoadedModel(patcher)
    entry.model_load(100)
    assert patcher.loaded_size() == patcher.model_size()
    assert entry.model_unload(memory_to_free=100) is True
    assert patcher.loaded_size() == 0


def test_model_vae_and_reward_are_loaded_in_one_call(sd15, kl_vae, alone, monkeypatch):
    """So that none evicts another, with room for the larger of two needs."""
    case = replace(case_of(sd15, batch=1, steps=1), vae=kl_vae)
    weight = load_weight("PickScore", strength=0.3)
    (patcher,) = models.patchers_of(weight.modules)

    def note(wanted: Any, memory_required: float = 0, **_: Any) -> tuple[list[Any], float]:
        return list(wanted), memory_required

    calls = spied(monkeypatch, mm, "load_models_gpu", note)
    case.lags(weight=weight, mode="paper")  # at full size, through the VAE
    ((wanted, memory),) = [(wanted, memory) for wanted, memory in calls if patcher in wanted]
    assert case.vae.patcher in wanted
    assert any(other.model is case.model.model for other in wanted)
    height, width = case.settings["latent_image"]["samples"].shape[-2:]
    decoder = VAEDecoder(case.vae, lambda latents: latents)
    assert memory >= decoder.bytes_per_image(height, width, gradient=True)


# ---- what is imported -------------------------------------------------------------------------


def test_open_clip_is_needed_for_hps_only(alone, weight_files, monkeypatch):
    for name in ("HPS_v2.1_compressed.pt", "HPS_v2_compressed.pt", "open_clip_config.json"):
        shutil.copy(weight_files / name, alone.parents[1])
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "open_clip", None)
        for name in ("HPSv2.1", "HPSv2"):
            with pytest.raises(ImportError, match=INSTALL):
                load_weight(name)
        assert torch.isfinite(scores(load_weight("PickScore"), noise(1))).all()
    assert torch.isfinite(scores(load_weight("HPSv2.1"), noise(1))).all()


@pytest.fixture(scope="module")
def process(comfy_root, comfy_base, weight_files) -> Any:
    """A process that imports ComfyUI, then the pack, loads a PickScore, and ends."""
    here = Path(__file__).resolve().parent
    command = [sys.executable, here / "import_cost.py", comfy_root, comfy_base, here.parents[1]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def cost(process) -> dict[str, Any]:
    return json.loads(process.stdout.splitlines()[-1])


def test_the_pack_is_imported_in_half_a_second(cost):
    assert 0 < statistics.median(cost["seconds"]) < 0.5, cost
    assert cost["first start"] < 2, cost


def test_no_schema_loads_a_library_of_models(cost):
    """Nothing of open_clip or transformers that ComfyUI has not loaded itself."""
    assert cost["schemas"] == [node.__name__ for node in NODES]
    for kind in ("by import", "by schemas"):
        heavy = {"open_clip", "timm", "transformers", "torchvision", "matplotlib"}
        assert [name for name in cost[kind] if name.split(".")[0] in heavy] == []


def test_a_process_with_a_loaded_model_ends_quietly(process):
    assert "WholePatcher" in json.loads(process.stdout.splitlines()[-1])["loaded"]
    assert "Exception ignored" not in process.stderr
