"""What tests in a browser need: a ComfyUI server with this pack, Chromium, ComfyUI's page.

COMFYUI_PATH      ComfyUI's folder; else ~/ComfyUI
COMFYUI_PYTHON    an interpreter with its packages; else the one that runs pytest
LAGS_CHROMIUM     the browser's executable; else chromium on PATH
LAGS_PLAYWRIGHT   a folder whose node_modules hold playwright-core; else this one or one above
LAGS_FRONTEND     another frontend than the interpreter's, as ComfyUI's --front-end-root takes it

Where one of them is missing the tests are skipped, and a line at the end says how many and why.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]


def _load(name: str) -> Any:
    """A helper module of this folder, under a name that clashes with nobody's."""
    full = f"lags_browser_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, HERE / f"{name}.py")
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


chromium = _load("chromium")


def comfyui() -> Path:
    return Path(os.environ.get("COMFYUI_PATH") or Path.home() / "ComfyUI").expanduser()


def python() -> str:
    """The interpreter that runs ComfyUI."""
    return os.environ.get("COMFYUI_PYTHON") or sys.executable


def why_not() -> str:
    """What is missing; empty where the tests can run."""
    if not (comfyui() / "main.py").is_file():
        return f"there is no ComfyUI at {comfyui()} (COMFYUI_PATH names another)"
    code = "import torch, aiohttp, comfyui_frontend_package"
    if os.environ.get("LAGS_FRONTEND"):
        code = "import torch, aiohttp"
    if subprocess.run([python(), "-c", code], capture_output=True, check=False).returncode:
        return f"{python()} lacks ComfyUI's packages (COMFYUI_PYTHON names another)"
    return chromium.missing()


_not_run: list[str] = []
_reason = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip this folder's tests where something is missing."""
    global _reason
    ours = [item for item in items if HERE in item.path.parents]
    _reason = why_not() if ours else ""
    if _reason:
        _not_run.extend(item.name for item in ours)
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=_reason))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say in one line what was not run and why."""
    if _not_run:
        terminalreporter.write_line(f"{len(_not_run)} browser tests were not run: {_reason}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A ComfyUI server with this pack and nothing else."""
    from lags_pack.demo import comfy_server

    class Server(comfy_server.Server):
        def script(self) -> list[str]:
            return [str(PACK / "tests" / "comfyui" / "launch.py"), str(self.root / "main.py")]

    base = tmp_path_factory.mktemp("browser")
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"Comfy.TutorialCompleted": True}))
    put_models(base / "models")
    flags = ["--cpu"]
    if os.environ.get("LAGS_FRONTEND"):
        flags += ["--front-end-root", os.environ["LAGS_FRONTEND"]]
    made = Server(comfyui(), base, PACK, python(), flags)
    made.start()
    yield made
    made.stop()


def put_models(folder: Path) -> None:
    """Empty files in place of the models that workflows name, so that their loaders list them."""
    for name in WORKFLOWS:
        for node in read_workflow(name)["nodes"]:
            for model in node.get("properties", {}).get("models", []):
                file = folder / model["directory"] / model["name"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()


@pytest.fixture(scope="session")
def sends_cached_curves() -> bool:
    """Whether this ComfyUI tells the page of cached nodes that nothing asked for; 0.8 does not."""
    return "HAS_INTERMEDIATE_OUTPUT" in (comfyui() / "execution.py").read_text("utf-8")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, behind Node."""
    made = chromium.Chromium()
    yield made
    made.close()


@pytest.fixture(scope="session", params=["litegraph", "nodes 2.0"])
def page(request: pytest.FixtureRequest, server: Any, browser: Any) -> Iterator[Any]:
    """ComfyUI's page, in each of its two ways to draw nodes."""
    made = chromium.Page(browser, server.url)
    made.set("Comfy.VueNodes.Enabled", request.param == "nodes 2.0")
    yield made
    made.close()


@pytest.fixture
def another_page(server: Any, browser: Any) -> Iterator[Any]:
    """A page for one test alone."""
    made = chromium.Page(browser, server.url)
    yield made
    made.close()


WORKFLOWS = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take `workflow_name` run for every workflow, `demo_name` for the demo model's."""
    if "workflow_name" in metafunc.fixturenames:
        metafunc.parametrize("workflow_name", WORKFLOWS)
    if "demo_name" in metafunc.fixturenames:
        demos = [name for name in WORKFLOWS if name.endswith("_demo")]
        metafunc.parametrize("demo_name", demos)


def read_workflow(name: str) -> dict[str, Any]:
    return json.loads((PACK / "workflows" / f"{name}.json").read_text("utf-8"))


@pytest.fixture(name="read_workflow")
def _read_workflow() -> Any:
    return read_workflow


def open_quickstart(page: Any, steps: int = 8) -> Any:
    """Open the colour graph, shortened: node 5 is our sampler, 3 its weight, 9 scales its image.

    Every call makes another seed, so that nothing is cached.
    """
    page.load(read_workflow("colour_demo"))
    page.dial(2, "batch_size", 2)
    page.dial(4, "steps", 1)
    page.dial(5, "steps", steps)
    page.dial(5, "seed", next(_seeds))
    planned = "[data-node='5'] [data-lags=plan]"
    code = "([place, steps]) => document.querySelector(place)?.textContent.includes(steps)"
    page.wait(code, [planned, f"of {steps} steps"])
    return page


_seeds = itertools.count(1000)


@pytest.fixture(name="open_quickstart")
def _open_quickstart() -> Any:
    return open_quickstart


@pytest.fixture
def quickstart(page: Any) -> Any:
    return open_quickstart(page)


@pytest.fixture(autouse=True)
def no_complaints(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: the page's console holds nothing of ours."""
    names = {"page", "another_page"}.intersection(request.fixturenames)
    pages = [request.getfixturevalue(name) for name in names]
    before = [len(made.complaints()) for made in pages]
    yield
    for made, count in zip(pages, before, strict=True):
        assert made.complaints()[count:] == []
