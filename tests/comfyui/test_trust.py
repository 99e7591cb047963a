"""The import of the pack changes nothing around it, and the watch over runs sees what it must.

What whole runs do is watched in test_archive.py, and what the source says in tests/test_trust.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from lags_pack.tests import published

HERE = Path(__file__).resolve().parent
# ComfyUI's own folder for our model files, made when it is missing, and what the pack brings.
FOLDERS = {"folder_paths.folder_names_and_paths": ["'lags_demo'", "'weight_functions'"]}


def run_watched(folder: Path, pack: Path, script: Path, *arguments: Path) -> list[dict[str, Any]]:
    """Run a script under the watch; the lines of its report, and what it printed last."""
    report = folder / "report.jsonl"
    command = [sys.executable, HERE / "watch.py", report, pack, script, *arguments]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    told = {"capture_output": True, "text": True, "check": False}
    done = subprocess.run([*map(str, command)], env=environment, cwd=folder, **told)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in report.read_text("utf-8").splitlines()]
    return [*lines, {"kind": "printed", "what": done.stdout.splitlines()[-1:], "ours": False}]


@pytest.fixture(scope="module")
def imported(tmp_path_factory, comfy_root) -> tuple[Path, list]:
    """ComfyUI's base folder, and the report on an import of the published archive."""
    folder = tmp_path_factory.mktemp("import")
    base, pack = folder / "base", folder / "pack"
    base.mkdir()
    with zipfile.ZipFile(published.build(folder / "pack.zip")) as archive:
        archive.extractall(pack)
    script = HERE / "import_state.py"
    return base, run_watched(folder, pack, script, comfy_root, base, pack)


@pytest.fixture(scope="module")
def state(imported) -> dict[str, Any]:
    return json.loads(imported[1][-1]["what"][0])


def test_the_import_changes_no_setting_of_the_process(state):
    """torch's defaults, warnings, logging, sys.path, the environment, threads, random state ..."""
    assert state["settings"] == []


def test_the_import_patches_nothing(state):
    """No attribute of ComfyUI, torch, transformers and others is replaced, removed or added."""
    assert state["watched"] > 50_000
    assert state["replaced"] == state["added"] == []


def test_the_import_adds_two_folders_of_models_and_nothing_else(state):
    assert state["containers"] > 300
    assert state["contents"] == FOLDERS


def test_the_import_writes_one_folder_and_asks_nobody(imported):
    base, lines = imported
    marks = [place for place, line in enumerate(lines) if line["kind"] == "mark"]
    during = [(line["kind"], line["what"]) for line in lines[marks[0] + 1 : marks[1]]]
    folder = base / "models" / "weight_functions"
    assert during == [("write", str(folder.parent)), ("write", str(folder))]
    assert list(folder.iterdir()) == []
    assert [line for line in lines if line["kind"] == "network"] == []


# ---- what import_state.py and watch.py must see ------------------------------------------------

CULPRIT = """
import logging, os, sys, warnings
import comfy.samplers, folder_paths, nodes, torch
torch.set_num_threads(torch.get_num_threads() + 1)
warnings.filterwarnings("ignore", "something")
logging.getLogger().setLevel(logging.ERROR)
sys.path.append("elsewhere")
os.environ["LAGS_TEST"] = "1"
comfy.samplers.calc_cond_batch = print
comfy.samplers.CFGGuider.sample = print
torch.Tensor.surprise = print
nodes.NODE_CLASS_MAPPINGS["KSampler"] = print
nodes.EXTENSION_WEB_DIRS["x"] = "y"
open(os.path.join(os.path.dirname(__file__), "left behind"), "w").close()
"""


def test_what_an_import_may_not_do_is_seen(tmp_path, comfy_root):
    base, pack = tmp_path / "base", tmp_path / "pack"
    base.mkdir()
    pack.mkdir()
    (pack / "__init__.py").write_text(CULPRIT)
    lines = run_watched(tmp_path, pack, HERE / "import_state.py", comfy_root, base, pack)
    found = json.loads(lines[-1]["what"][0])
    seen = {"environment", "loggers", "sys.path", "torch: threads", "warnings"}
    assert set(found["settings"]) == seen
    patched = ["comfy.samplers.CFGGuider.sample", "comfy.samplers.calc_cond_batch"]
    classes = [name for name in found["replaced"] if name.startswith("comfy.samplers.C")]
    assert classes == patched[:1]
    assert set(patched) <= set(found["replaced"])
    assert "torch.Tensor.surprise" in " ".join(found["added"])
    assert found["contents"]["nodes.NODE_CLASS_MAPPINGS"] == ["'KSampler'", "'KSampler'"]
    assert found["contents"]["nodes.EXTENSION_WEB_DIRS"] == ["'x'"]
    assert {"kind": "write", "what": str(pack / "left behind"), "ours": True} in lines


TRESPASSER = """
import http.client, os, pickle, socket, subprocess, sys, tempfile
folder = sys.argv[1]
def evaluate(what):
    try:
        what()
    except OSError as error:
        assert "refused by the test" in str(error), error
    else:
        raise AssertionError("it was let through")
evaluate(lambda: socket.create_connection(("192.0.2.1", 80), 1))
evaluate(lambda: socket.getaddrinfo("example.invalid", 80))
evaluate(lambda: http.client.HTTPConnection("198.51.100.7", timeout=1).request("GET", "/"))
evaluate(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"", ("203.0.113.5", 53)))
with socket.create_server(("127.0.0.1", 0)) as here:
    socket.create_connection(here.getsockname()).close()
os.makedirs(folder + "/new")
with open(folder + "/new/a", "w") as target:
    target.write("a")
os.rename(folder + "/new/a", folder + "/new/b")
open(folder + "/new/b").close()
os.remove(folder + "/new/b")
pickle.loads(pickle.dumps(tempfile.gettempdir))
subprocess.run([sys.executable, "-c", ""])
"""


def test_what_a_run_may_not_do_is_seen_and_refused(tmp_path):
    script, folder = tmp_path / "culprit.py", tmp_path / "folder"
    script.write_text(TRESPASSER)
    lines = run_watched(tmp_path, tmp_path, script, folder)[:-1]
    assert all(line["ours"] for line in lines)
    found = [(line["kind"], line["what"]) for line in lines]
    hosts = ["192.0.2.1", "example.invalid", "198.51.100.7", "203.0.113.5"]
    assert [what for kind, what in found if kind == "network"] == hosts
    a, b = f"{folder}/new/a", f"{folder}/new/b"
    written = [what for kind, what in found if kind == "write" and what.startswith(f"{folder}/")]
    assert written == [f"{folder}/new", a, a, b, b]
    assert ("unpickle", "tempfile.gettempdir") in found
    assert [kind for kind, _ in found].count("process") >= 1
