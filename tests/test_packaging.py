"""What the registry and ComfyUI Manager get: the archive, its description, and the workflows."""

from __future__ import annotations

import ast
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from lags_pack.tests import published
from lags_pack.tests.published import ROOT, source, tree
from PIL import Image

FILES = published.files()
PYTHON = [name for name in FILES if name.endswith(".py")]
PAGES = [name for name in FILES if name.endswith(".md")]
PROJECT = published.pyproject()["project"]
COMFY = published.pyproject()["tool"]["comfy"]
# What the pack consists of; another kind (.pt, .csv, .pyc ...) has to be thought about first.
KINDS = {"", ".py", ".js", ".css", ".json", ".md", ".jpg", ".png", ".safetensors", ".toml", ".txt"}
KINDS |= {".webp"}
NEEDED = ("nodes", "guidance", "rewards", "plots", "web", "workflows", "subgraphs", "locales")
NEEDED += ("demo/weight_functions",)
# The top level of ComfyUI, and what the requirements.txt of 0.8.0 and of 0.33.0 both bring.
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview", "nodes"}
COMFYUI_BRINGS = {"torch", "numpy", "PIL", "safetensors", "transformers", "tokenizers"}
COMFYUI_BRINGS |= {"aiohttp", "tqdm"}
# For HPS only, with an error that says how to get it; and for the tests, which check shapes by it.
OPTIONAL = {"open_clip", "jaxtyping"}
HELP = ROOT / "web" / "docs"
RUNS = ["tests.yml", "weekly.yml"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_archive_is_small_and_holds_no_link(tmp_path: Path) -> None:
    path = published.build(tmp_path / "pack.zip")
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    assert list(sizes) == FILES
    assert path.stat().st_size < 20e6
    assert [name for name, size in sizes.items() if size > 5e6] == []
    assert [name for name in FILES if (ROOT / name).is_symlink()] == []


def test_no_test_training_data_benchmark_or_cache_is_published() -> None:
    folders = {"tests", "benchmarks", ".ci", ".github", "output", "__pycache__", ".venv"}
    assert [name for name in FILES if folders & set(Path(name).parts)] == []
    assert [name for name in FILES if Path(name).name.startswith((".", "test_", "conftest"))] == []
    assert {Path(name).suffix for name in FILES} <= KINDS
    assert not {"dev.py", "demo/train.py", "demo/run.py", "demo/comfy_server.py"} & set(FILES)
    assert [name for name in FILES if name.startswith("docs/") and name.endswith(".json")] == []


def test_what_runs_and_what_the_registry_and_comfyui_read_is_published() -> None:
    """All files that the repository has in these folders are in the archive."""
    for folder in NEEDED:
        tracked = [name for name in published._listed(ROOT) if name.startswith(f"{folder}/")]
        assert tracked
        assert [name for name in tracked if name not in FILES and (ROOT / name).is_file()] == []
    wanted = {"__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", PROJECT["readme"]}
    assert wanted | {"demo/shapes.safetensors", "CHANGELOG.md"} <= set(FILES)


def relative_imports(name: str) -> Iterator[str]:
    """The modules of the pack that a file imports, as paths without their ending."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = Path(name).parents[node.level - 1]
            if node.module:
                yield (base / node.module.replace(".", "/")).as_posix()
            else:
                yield from ((base / alias.name).as_posix() for alias in node.names)


@pytest.mark.parametrize("name", PYTHON)
def test_no_published_file_imports_one_that_is_not(name: str) -> None:
    for module in relative_imports(name):
        assert {f"{module}.py", f"{module}/__init__.py"} & set(FILES), module


def pictures(page: str) -> set[str]:
    """The images that a page shows, as paths in the pack."""
    text = (ROOT / page).read_text("utf-8")
    shown = re.findall(r"!\[[^\]]*\]\(([^)\s]+)", text) + re.findall(r"""src=["']([^"']+)""", text)
    local = [link for link in shown if "://" not in link and not link.startswith("/")]
    # ComfyUI's page reads the links of a node's help from docs/ on, in every language.
    base = HELP if (ROOT / page).is_relative_to(HELP) else (ROOT / page).parent
    return {(base / link).resolve().relative_to(ROOT).as_posix() for link in local}


def test_pages_and_pictures_of_docs_belong_together() -> None:
    shown = set().union(*map(pictures, PAGES))
    assert shown <= set(FILES), "a published page shows an image that is not published"
    folders, endings = ("docs/", "web/docs/"), (".png", ".jpg", ".webp")
    drawn = {name for name in FILES if name.startswith(folders) and name.endswith(endings)}
    assert drawn <= shown, "name it in .comfyignore: no published page shows it"


def test_without_a_checkout_the_same_files_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a downloaded archive of the repository: no .git, and caches lie around."""
    copy = tmp_path / "pack"
    with zipfile.ZipFile(published.build(tmp_path / "pack.zip")) as archive:
        archive.extractall(copy)  # noqa: S202
    for name in (".comfyignore", ".gitignore", "dev.py", "tests/published.py", "demo/train.py"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    (copy / "nodes" / "__pycache__").mkdir()
    (copy / "nodes" / "__pycache__" / "demo.pyc").touch()
    assert sorted(published.files(copy)) == sorted(FILES)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RuntimeError, match="install git"):
        published.files()


# ---- pyproject.toml, requirements.txt, CHANGELOG.md --------------------------------------------


def test_the_project_is_described() -> None:
    name = PROJECT["name"]
    assert re.fullmatch(r"[a-z](?:[a-z0-9]|[-_.](?=[a-z0-9]))*", name) and len(name) < 100
    assert "comfyui" not in name.lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])
    assert len(PROJECT["description"]) > 20
    assert PROJECT["license"] == {"file": "LICENSE"}
    assert "MIT License" in (ROOT / "LICENSE").read_text("utf-8")
    assert PROJECT["requires-python"] == ">=3.10"
    assert "Operating System :: OS Independent" in PROJECT["classifiers"]
    assert COMFY["DisplayName"] and COMFY["requires-comfyui"] == ">=0.8.0"
    assert "web" not in COMFY, "WEB_DIRECTORY says it; both would load the scripts twice"


def test_the_repository_has_one_address_and_pictures_of_the_registrys_shape() -> None:
    base = PROJECT["urls"]["Repository"]
    assert re.fullmatch(r"https://github\.com/[\w-]+/" + PROJECT["name"], base)
    assert {"Repository", "Documentation", "Issues"} <= PROJECT["urls"].keys()
    assert [url for url in PROJECT["urls"].values() if not url.startswith(base)] == []
    raw = base.replace("github.com", "raw.githubusercontent.com") + "/main/"
    assert COMFY["Icon"].startswith(raw) and COMFY["Banner"].startswith(raw)
    assert (ROOT / COMFY["Icon"].removeprefix(raw)).is_file()
    assert (ROOT / COMFY["Banner"].removeprefix(raw)).is_file()
    with Image.open(ROOT / "docs" / "icon.png") as icon:
        assert icon.width == icon.height <= 400
    with Image.open(ROOT / "docs" / "banner.png") as banner:
        assert banner.width * 9 == banner.height * 21 and banner.width >= 1000


def imported_packages() -> set[str]:
    """Packages outside of Python's own that published files import."""
    found = set()
    for name in PYTHON:
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


def test_requirements_are_what_comfyui_lacks() -> None:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    stated = {re.split(r"[>\s]", line)[0] for line in lines if line and not line.startswith("#")}
    needed = imported_packages() - COMFYUI - COMFYUI_BRINGS - OPTIONAL
    assert stated == needed == {re.split(">", entry)[0] for entry in PROJECT["dependencies"]}


def test_version_and_publisher_are_stated_once_and_the_version_heads_the_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## \[?([^\]\s]+)\]?", text, re.MULTILINE)
    assert versions[0] == PROJECT["version"]
    assert versions == sorted(versions, key=lambda v: [int(n) for n in v.split(".")], reverse=True)
    sections = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    stated = [name for name in PYTHON if re.search(r"^__version__", source(name), re.MULTILINE)]
    assert stated == []
    lines = (ROOT / "pyproject.toml").read_text("utf-8").splitlines()
    stated = [line for line in lines if COMFY["PublisherId"] in line and not line.startswith("#")]
    assert stated == [f'PublisherId = "{COMFY["PublisherId"]}"']


# ---- .github/workflows -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dev() -> ModuleType:
    return published.script("dev.py")


def workflow(name: str) -> dict[str, Any]:
    """A workflow, with its triggers under "on": YAML reads that word as true."""
    read = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text("utf-8"))
    return {"on" if key is True else key: value for key, value in read.items()}


def steps(content: dict[str, Any]) -> list[dict[str, Any]]:
    """All steps of all jobs."""
    return [step for job in content["jobs"].values() for step in job["steps"]]


def test_the_promised_workflows_are_there_and_lint_runs_what_developers_run() -> None:
    assert [path.name for path in WORKFLOWS] == ["lint.yml", "publish.yml", *RUNS]
    assert "python dev.py lint" in [step.get("run") for step in steps(workflow("lint.yml"))]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_is_well_formed(path: Path, dev: ModuleType) -> None:
    content = workflow(path.name)
    assert content["on"] and content["permissions"]["contents"] == "read"
    for job in content["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"]
    for step in steps(content):
        assert ("uses" in step) != ("run" in step)
        assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])
        command = re.fullmatch(r"python dev\.py (\w+)((?: \S+)*)", step.get("run", ""))
        assert bool(command) == ("dev.py" in step.get("run", ""))
        if command:
            assert command[1] in dev.COMMANDS
            assert all((ROOT / argument).exists() for argument in command[2].split())


def test_the_matrix_is_the_supported_one(dev: ModuleType) -> None:
    jobs = workflow("tests.yml")["jobs"]
    assert jobs["plain"]["strategy"]["matrix"] == {"python": ["3.10", "3.12", "3.13"]}
    oldest = COMFY["requires-comfyui"].removeprefix(">=")
    matrix = jobs["comfyui"]["strategy"]["matrix"]
    assert matrix == {"comfyui": [f"v{oldest}", "v0.33.0"], "transformers": ["<5", ">=5"]}
    settings = jobs["comfyui"]["env"].keys()
    assert {"COMFYUI_PATH", "COMFYUI_PYTHON"} <= settings
    assert all(name in dev.__doc__ for name in settings)


def test_windows_and_macos_run_the_demo_and_the_tests_without_comfyui() -> None:
    job = workflow("tests.yml")["jobs"]["systems"]
    assert job["runs-on"] == "${{ matrix.system }}" and "env" not in job
    assert job["strategy"]["matrix"] == {"system": ["windows-latest", "macos-latest"]}
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["python dev.py demo", "python dev.py test"]


def test_every_week_the_newest_release_and_master_are_tried_as_the_supported_ones_are() -> None:
    content = workflow("weekly.yml")
    (when,) = content["on"]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* \d", when["cron"])
    job = content["jobs"]["comfyui"]
    assert job["strategy"]["matrix"] == {"comfyui": ["newest", "master"]}
    assert job["env"] == workflow("tests.yml")["jobs"]["comfyui"]["env"]
    (comfyui,) = [s["with"] for s in job["steps"] if "repository" in s.get("with", {})]
    assert comfyui["repository"] == "Comfy-Org/ComfyUI"
    assert comfyui["ref"] == "${{ steps.newest.outputs.ref || matrix.comfyui }}"
    (asked,) = [step for step in job["steps"] if step.get("id") == "newest"]
    assert asked["if"] == "matrix.comfyui == 'newest'" and "--sort=-version" in asked["run"]
    assert job["steps"][-1]["run"] == "python dev.py test tests/comfyui"


def test_the_registry_is_told_what_is_new() -> None:
    script = published.script("tests/changelog.py")
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    entry = script.newest(text)
    assert entry.startswith("### ") and entry in text and "\n## " not in entry
    assert script.newest("# C\n\n## [2.0.0]\n\nnew\n\n## [1.0.0]\n\nold\n") == "new"
    name, *lines, end = script.variable(entry).splitlines()
    assert name == f"COMFY_NODE_CHANGELOG<<{end}" and "\n".join(lines) == entry
    for wrong in ("# C\n", "# C\n\n## [1.0.0]\n", "# C\n\n## [2.0.0]\n## [1.0.0]\nold"):
        with pytest.raises(ValueError, match="no entry"):
            script.newest(wrong)
    with pytest.raises(ValueError, match="reword"):
        script.variable(f"new\n{script.END}")
    listed = steps(workflow("publish.yml"))
    told = [i for i, step in enumerate(listed) if "changelog.py" in step.get("run", "")]
    action = [i for i, step in enumerate(listed) if "publish-node-action" in step.get("uses", "")]
    assert told[0] == action[0] - 1 and "GITHUB_ENV" in listed[told[0]]["run"]
    assert listed[told[0]]["if"] == listed[action[0]]["if"]


def test_publishing_follows_a_new_version_with_the_token() -> None:
    content = workflow("publish.yml")
    assert content["on"]["push"] == {"branches": ["main"], "paths": ["pyproject.toml"]}
    (action,) = [s for s in steps(content) if "publish-node-action" in s.get("uses", "")]
    token = "${{ secrets.REGISTRY_ACCESS_TOKEN }}"  # noqa: S105
    assert action["with"] == {"personal_access_token": token}
    assert "changed == 'true'" in action["if"]
    checks = "\n".join(step.get("run", "") for step in steps(content))
    assert "publisher-id" in checks and "repository-owner" in checks
