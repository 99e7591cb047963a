"""The tiny models, the loaders and the server do what the other ComfyUI tests lean on."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler
from comfyui_support import tiny
from comfyui_support.executing import run_node
from comfyui_support.guided import with_lora
from comfyui_support.prompts import Prompt, node
from comfyui_support.server import PromptError

import nodes

BOTH = pytest.mark.parametrize("name", ["sd15", "sdxl"])


@pytest.fixture
def loaded(name, request):
    return request.getfixturevalue(name)


def test_comfyui_is_the_one_that_was_asked_for(comfy_root, comfy_base):
    assert Path(nodes.__file__).resolve().parent == comfy_root
    for folder in (
        folder_paths.get_output_directory(),
        folder_paths.get_temp_directory(),
        folder_paths.get_input_directory(),
        folder_paths.get_user_directory(),
        *folder_paths.get_folder_paths("checkpoints"),
        *folder_paths.get_folder_paths("custom_nodes"),
    ):
        assert Path(folder).resolve().is_relative_to(comfy_base)


def test_pack_is_a_package(pack):
    assert pack.__name__ == pack.__package__ == "lags_pack"
    assert hasattr(pack, "comfy_entrypoint"), "the pack has not noticed ComfyUI"


@pytest.mark.parametrize(
    ("name", "config", "latent_format"), [("sd15", "SD15", "SD15"), ("sdxl", "KOALA_700M", "SDXL")]
)
def test_checkpoint_is_detected(loaded, config, latent_format):
    assert type(loaded.model.model.model_config).__name__ == config
    assert type(loaded.model.model.latent_format).__name__ == latent_format


@BOTH
def test_weights_are_inference_tensors(loaded, kl_vae):
    for net in (loaded.model.model, loaded.vae.first_stage_model, kl_vae.first_stage_model):
        assert all(weight.is_inference() for weight in net.parameters())


def test_executor_mode_covers_the_tests_that_ask_for_it(request):
    assert not torch.is_inference_mode_enabled()
    request.getfixturevalue("executor_mode")
    assert torch.is_inference_mode_enabled()


def test_run_node_runs_nodes_of_the_new_api(sd15):
    inputs = {"model": sd15.model, "scheduler": "karras", "steps": 4, "denoise": 1.0}
    (sigmas,) = run_node(BasicScheduler, **inputs)
    assert sigmas.shape == (5,) and sigmas.is_inference()


@BOTH
def test_samples_are_finite_and_well_scaled(loaded):
    samples = tiny.sample(loaded, latent=loaded.latent(2))
    inside = loaded.model.model.process_latent_in(samples)
    assert samples.shape == (2, 4, 8, 8) and samples.isfinite().all()
    assert 0.3 < inside.std() < 5
    assert (samples[0] - samples[1]).std() > 0.3 * samples.std()


@BOTH
def test_sample_depends_on_the_conditioning(loaded):
    usual = tiny.sample(loaded)
    swapped = tiny.sample(loaded, positive=loaded.negative, negative=loaded.positive)
    assert (swapped - usual).std() > 0.1 * usual.std()


@BOTH
def test_vae_decodes_and_encodes(loaded):
    samples = {"samples": tiny.sample(loaded)}
    (pixels,) = run_node(nodes.VAEDecode, vae=loaded.vae, samples=samples)
    assert pixels.shape == (1, 64, 64, 3) and pixels.isfinite().all()
    assert pixels.std() > 0.01 and 0 < pixels.mean() < 1
    assert ((pixels <= 0) | (pixels >= 1)).float().mean() < 0.5, "most of it is clipped"
    (again,) = run_node(nodes.VAEEncode, vae=loaded.vae, pixels=pixels)
    assert again["samples"].shape == (1, 4, 8, 8) and again["samples"].std() > 0.1


def test_kl_vae_decodes(kl_vae):
    samples = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))}
    (pixels,) = run_node(nodes.VAEDecode, vae=kl_vae, samples=samples)
    assert type(kl_vae.first_stage_model).__name__ == "AutoencoderKL"
    assert pixels.shape == (1, 64, 64, 3) and pixels.std() > 0.01


def test_lora_changes_the_sample(sd15, tiny_files):
    patched = with_lora(sd15.model, tiny_files["lora_sd15"])
    assert len(patched.patches) == 8, "every key of the file finds its layer"
    plain = tiny.sample(sd15)
    changed = tiny.sample(sd15, model=patched)
    assert 0.1 < (changed - plain).std() / plain.std() < 10
    assert torch.equal(tiny.sample(sd15), plain), "the unpatched model is left as it was"


def checkpoint_workflow(file: str, latent_batch: int = 1) -> Prompt:
    """Load a checkpoint and save what its VAE makes of an empty latent: runs without CLIP."""
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=file),
        "2": node("EmptyLatentImage", width=64, height=64, batch_size=latent_batch),
        "3": node("VAEDecode", samples=["2", 0], vae=["1", 2]),
        "4": node("SaveImage", images=["3", 0], filename_prefix="infrastructure"),
    }


def test_server_knows_the_nodes_and_files(server, tiny_files):
    info = server.object_info()
    assert "KSampler" in info
    choices = info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0]
    assert {tiny_files["sd15"], tiny_files["sdxl"]} <= set(choices)


def test_server_has_loaded_the_pack(server):
    folder = str(server.base / "custom_nodes" / "lags")
    log = server.log.read_text("utf-8", "replace")
    imported = [line for line in log.splitlines() if "seconds" in line and folder in line]
    assert len(imported) == 1 and "IMPORT FAILED" not in imported[0], log


@BOTH
def test_server_runs_a_checkpoint_workflow(server, tiny_files, name):
    entry = server.queue(checkpoint_workflow(tiny_files[name], latent_batch=2))
    images = entry["outputs"]["4"]["images"]
    assert len(images) == 2
    picture = server.view(**images[0])
    assert picture.size == (64, 64)
    assert (server.base / "output" / images[0]["filename"]).is_file()


def test_server_says_what_is_wrong_with_a_prompt(server, tiny_files):
    prompt = checkpoint_workflow("no such file")
    with pytest.raises(PromptError, match="no such file"):
        server.queue(prompt)
    prompt = checkpoint_workflow(tiny_files["sd15"])
    prompt["5"] = node("CLIPTextEncode", clip=["1", 1], text="a")
    prompt["6"] = node("PreviewAny", source=["5", 0])
    with pytest.raises(PromptError, match="CLIPTextEncode"):
        server.queue(prompt)
