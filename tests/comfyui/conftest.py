"""What tests inside ComfyUI need: ComfyUI itself, this pack, tiny models, a server.

Importing this file makes ComfyUI importable (on the CPU, with folders of its own) and loads the
pack as `lags_pack`, so test modules may import both at their top. Where there is no ComfyUI, the
test functions of this folder are counted, not imported, and one line at the end says so.

Helper modules of this folder are found under `comfyui_support` (a `server.py` on sys.path would
be mistaken for ComfyUI's own).
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve tiny models

HERE = Path(__file__).resolve().parent
PACK, PACKAGE = HERE.parents[1], "lags_pack"
_scratch = tempfile.TemporaryDirectory(prefix="lags-comfyui-", ignore_cleanup_errors=True)
BASE = Path(_scratch.name).resolve()


class NoComfyUI(Exception):
    """There is no ComfyUI that these tests could use; the message says why."""


def find_comfyui() -> Path:
    """ComfyUI's folder: COMFYUI_PATH, else the one this pack lies in, else ~/ComfyUI."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        root = Path(named).expanduser().resolve()
        if not _is_comfyui(root):
            raise pytest.UsageError(f"COMFYUI_PATH={named}: no main.py and comfy/ in that folder")
        return root
    around, home = PACK.parent.parent, Path.home() / "ComfyUI"
    for root in (around, home):
        if _is_comfyui(root):
            return root.resolve()
    raise NoComfyUI(f"no ComfyUI around this pack or at {home}; set COMFYUI_PATH to one")


def _is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def import_comfyui(root: Path) -> None:
    """Make `import nodes`, `import comfy...` give ComfyUI's own, on the CPU, writing to BASE."""
    unwanted = {str(root), str(PACK), ""}
    sys.path[:] = [str(root)] + [entry for entry in sys.path if entry not in unwanted]
    importlib.import_module("comfyui_support.launch").ensure_torchvision()
    importlib.import_module("comfy.options")
    args = importlib.import_module("comfy.cli_args").args
    args.cpu = True
    args.base_directory = str(BASE)
    (BASE / "custom_nodes").mkdir(parents=True, exist_ok=True)
    found = Path(importlib.import_module("nodes").__file__).resolve()
    if found.parent != root:
        raise pytest.UsageError(f"`import nodes` gave {found}, not ComfyUI's: mind sys.path")


def load_pack() -> None:
    """Load the pack's root by path as the package `lags_pack`, as ComfyUI does under its path.

    Other tests may have loaded it before ComfyUI was there: then its root is run once more.
    """
    spec = importlib.util.spec_from_file_location(
        PACKAGE, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    module = sys.modules.setdefault(PACKAGE, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)


def _prepare() -> tuple[Path | None, str]:
    """ComfyUI's folder with everything imported, or None and the reason."""
    support = types.ModuleType("comfyui_support", "Helper modules of tests/comfyui.")
    support.__path__ = [str(HERE)]
    sys.modules["comfyui_support"] = support
    try:
        root = find_comfyui()
        import_comfyui(root)
    except NoComfyUI as reason:
        return None, str(reason)
    except ImportError as error:
        if "COMFYUI_PATH" in os.environ:
            raise
        why = f"{root} can't be imported by {sys.executable} ({error})"
        return None, f"{why}; run them with the interpreter that has ComfyUI's packages"
    load_pack()
    return root, ""


ROOT, _why_not = _prepare()
_not_run: list[str] = []


class _NotRun(pytest.File):
    """A test module that can't be imported: counted, not collected."""

    def collect(self) -> list[pytest.Item]:
        tree = ast.parse(self.path.read_text("utf-8"))
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        functions = [node.name for node in ast.walk(tree) if isinstance(node, kinds)]
        _not_run.extend(name for name in functions if name.startswith("test_"))
        return []


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.File | None:
    """Keep pytest from importing test modules where there is no ComfyUI to import."""
    return _NotRun.from_parent(parent, path=module_path) if ROOT is None else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say in one line what was not run and why."""
    if _not_run:
        count = len(_not_run)
        terminalreporter.write_line(f"{count} ComfyUI test functions were not run: {_why_not}")


@pytest.fixture
def executor_mode() -> Iterator[None]:
    """Run the whole test under torch.inference_mode(), the mode in which nodes are executed."""
    import torch

    with torch.inference_mode():
        yield


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The memory manager without any model, before and after.

    It keeps entries of models whose clones are gone; those of other tests stay out of sight.
    """
    import comfy.model_management as mm
    import torch

    def unload() -> None:
        with torch.inference_mode():
            mm.unload_all_models()

    unload()
    monkeypatch.setattr(mm, "current_loaded_models", [])
    yield
    unload()


@pytest.fixture(autouse=True)
def _no_lookahead_of_another_test() -> None:
    """LiDAR's quick images are kept for the next run of the same, whichever test that is in."""
    sys.modules[f"{PACKAGE}.runtime.lookahead"].cached.clear()


@pytest.fixture(scope="session")
def comfy_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def comfy_base() -> Path:
    """The session's base directory: models/, output/, temp/, input/, user/, custom_nodes/."""
    return BASE


@pytest.fixture(scope="session")
def pack() -> types.ModuleType:
    """This pack as the package `lags_pack`."""
    return sys.modules[PACKAGE]


@pytest.fixture(scope="session")
def tiny_files() -> dict[str, str]:
    """The tiny model files, all made, as the names that ComfyUI's loaders take."""
    from comfyui_support import tiny

    makers = {
        "sd15": ("checkpoints", tiny.make_sd15),
        "sdxl": ("checkpoints", tiny.make_sdxl),
        "controlnet_sd15": ("controlnet", tiny.make_controlnet),
        "controlnet_sdxl": ("controlnet", lambda path: tiny.make_controlnet(path, for_sd15=False)),
        "lora_sd15": ("loras", tiny.make_lora),
    }
    for name, (folder, make) in makers.items():
        make(BASE / "models" / folder / f"tiny_{name}.safetensors")
    return {name: f"tiny_{name}.safetensors" for name in makers}


@pytest.fixture(scope="session")
def sd15(tiny_files: dict[str, str]) -> Any:
    """The tiny SD1.5 (comfyui_support.tiny.TinyModel), its weights inference tensors."""
    return _load(tiny_files["sd15"], width=768, pooled=None)


@pytest.fixture(scope="session")
def sdxl(tiny_files: dict[str, str]) -> Any:
    """The tiny SDXL (comfyui_support.tiny.TinyModel), its weights inference tensors."""
    return _load(tiny_files["sdxl"], width=2048, pooled=1280)


@pytest.fixture
def case(request: pytest.FixtureRequest, cases: dict[str, Any]) -> Any:
    """One of the module's `cases`: the tiny SD1.5, or what comfyui_support.guided.on names."""
    return cases[getattr(request, "param", "sd15")]


@pytest.fixture(scope="session")
def kl_vae() -> Any:
    """A small AutoencoderKL as a VAE object, its weights inference tensors."""
    import torch
    from comfyui_support import tiny

    with torch.inference_mode():
        return tiny.make_kl_vae()


@pytest.fixture(scope="session")
def qwen() -> Any:
    """A narrow Qwen-Image with its VAE (comfyui_support.tiny.TinyModel): a video's shape."""
    import torch
    from comfyui_support import tiny

    with torch.inference_mode():
        return tiny.make_qwen()


@pytest.fixture(scope="session")
def controlnet_sd15(tiny_files: dict[str, str]) -> Any:
    return _control_net(tiny_files["controlnet_sd15"])


@pytest.fixture(scope="session")
def controlnet_sdxl(tiny_files: dict[str, str]) -> Any:
    return _control_net(tiny_files["controlnet_sdxl"])


@pytest.fixture(scope="session")
def weight_files() -> Path:
    """models/weight_functions with a small file for every weight; one more in clip_vision."""
    from lags_pack.tests import reward_files

    folder = BASE / "models" / "weight_functions"
    reward_files.pickscore(folder)
    reward_files.hps(folder)
    reward_files.hps(folder, "2", seed=8)
    reward_files.image_reward(folder)
    reward_files.clip_folder(folder / "clip-vit-large-patch14", seed=7)
    reward_files.aesthetic(folder)
    reward_files.classifier(folder)
    reward_files.dinov2(folder)
    reward_files.siglip(folder)
    reward_files.aesthetic_25(folder)
    reward_files.vgg16(folder)
    reward_files.lpips(folder)
    reward_files.clip_vision(BASE / "models" / "clip_vision")
    return folder


@pytest.fixture(scope="session")
def server(tiny_files: dict[str, str], weight_files: Path) -> Iterator[Any]:
    """A running ComfyUI server (comfyui_support.server.Server) with this pack and the files."""
    from comfyui_support.server import Server

    with Server(ROOT, BASE).running() as running:
        yield running


@pytest.fixture(scope="module")
def runs(sd15: Any) -> Iterator[Any]:
    """Runs with faults (faults.Runs), of two images of 32 pixels in three steps, both branches."""
    faults = importlib.import_module("lags_pack.tests.comfyui.faults")
    weighing = importlib.import_module("lags_pack.tests.comfyui.weighing")
    case = weighing.case_of(sd15, batch=2, steps=3)
    with faults.tapped(case) as places:
        yield faults.Runs(case, places)


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What ComfyUI's progress bar is told, (value, total) each; `act`, if set, is called after."""
    import comfy.utils

    seen = types.SimpleNamespace(told=[], act=None)

    def hook(value: int, total: int, *_: Any, **__: Any) -> None:
        seen.told.append((value, total))
        if seen.act is not None:
            seen.act(value)

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0, raising=False)
    return seen


@pytest.fixture(scope="module")
def info(server: Any) -> dict[str, Any]:
    """What the module's server says of all nodes."""
    return server.object_info()


def _load(file: str, width: int, pooled: int | None) -> Any:
    """Load a checkpoint as the executor does, and give it two random conditionings."""
    from comfyui_support import tiny
    from comfyui_support.executing import run_node

    import nodes

    model, _, vae = run_node(nodes.CheckpointLoaderSimple, ckpt_name=file)
    positive, negative = (tiny.make_conditioning(width, pooled, seed) for seed in (1, 2))
    return tiny.TinyModel(file, model, vae, positive, negative)


def _control_net(file: str) -> Any:
    from comfyui_support.executing import run_node

    import nodes

    return run_node(nodes.ControlNetLoader, control_net_name=file)[0]
