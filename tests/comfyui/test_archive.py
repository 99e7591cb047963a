"""The archive that would be published, in the custom_nodes of a fresh ComfyUI, runs, and behaves.

The server is kept off the network and watched (watch.py): where the pack is among the callers, it
may write into ComfyUI's output, temp and user folders only.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from comfyui_support.server import Server
from lags_pack.demo import comfy_server
from lags_pack.demo.comfy import to_tensor
from lags_pack.demo.workflow import to_prompt
from lags_pack.nodes import NODES
from lags_pack.rewards import ColourReward
from lags_pack.tests import published, reward_files

HERE = Path(__file__).resolve().parent
NAME = published.pyproject()["project"]["name"]  # ComfyUI Manager's name for the folder
BLUE = ColourReward("hue", 240.0)
CACHES = ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "MPLCONFIGDIR")
# matplotlib lists the machine's fonts once for all programs of a user, in the user's own cache: it
# asks fontconfig for them, and makes its two folders. Nothing else is let pass.
FONTCONFIG = "subprocess.Popen fc-list"
CACHES_OF_MATPLOTLIB = (".cache", ".config")


class Watched(Server):
    """A server whose process is watched from its first line on."""

    def script(self) -> list[str]:
        pack = self.base / "custom_nodes" / NAME
        return [str(HERE / "watch.py"), str(self.report), str(pack), *super().script()]

    @property
    def report(self) -> Path:
        return self.base.parent / "report.jsonl"


@dataclass
class Visit:
    """What a stay of the archive in a ComfyUI has left behind."""

    base: Path  # ComfyUI's folder for all that it reads and writes
    home: Path  # the user's folder
    published: dict[str, bytes]  # contents of the archive by name
    answers: dict[str, Any]  # what the server said, by path
    quickstart: dict[str, list[Any]]  # images of its two branches
    judged: dict[str, Any]  # history entry of a run steered by a PickScore, with its scores
    models: set[str]  # the files of that model, by name
    lines: list[dict[str, Any]]  # the watch's report


@pytest.fixture(scope="module")
def visit(tmp_path_factory, comfy_root) -> Iterator[Visit]:
    """Unpack the archive, start ComfyUI, run the quickstart and a reward model, and stop."""
    folder = tmp_path_factory.mktemp("archive")
    base, home, pack = folder / "base", folder / "home", folder / "unpacked"
    (base / "custom_nodes").mkdir(parents=True)
    (home / "tmp").mkdir(parents=True)
    with zipfile.ZipFile(published.build(folder / "pack.zip")) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
        archive.extractall(pack)
    reward_files.pickscore(base / "models" / "weight_functions")
    models = files_below(base / "models")
    server = Watched(comfy_root, base, pack)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy_server, "PACK_FOLDER", NAME)
        for name in CACHES:
            patch.delenv(name, raising=False)
        for name in ("HOME", "USERPROFILE"):
            patch.setenv(name, str(home))
        patch.setenv("TMPDIR", str(home / "tmp"))
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        with server.running():
            answers = {path: server._json(path) for path in PATHS}
            quickstart = run_quickstart(server, answers["/object_info"])
            judged = json.loads((HERE / "judged_prompt.json").read_text("utf-8"))
            judged = server.queue(judged, timeout=300)
    lines = [json.loads(line) for line in server.report.read_text("utf-8").splitlines()]
    yield Visit(base, home, contents, answers, quickstart, judged, models, lines)


PATHS = ("/object_info", "/workflow_templates", "/extensions", "/i18n")


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def run_quickstart(server: Server, info: dict[str, Any]) -> dict[str, list[Any]]:
    """Run the whole of the bundled workflow; the images that each of its nodes has saved."""
    file = server.base / "custom_nodes" / NAME / "workflows" / "colour_demo.json"
    prompt = to_prompt(json.loads(file.read_text("utf-8")), info)
    outputs = server.queue(prompt, timeout=300)["outputs"]
    saving = [key for key, node in prompt.items() if node["class_type"] == "SaveImage"]
    return {
        prompt[key]["inputs"]["filename_prefix"].split("/")[-1]: [
            server.view(**image) for image in outputs[key]["images"]
        ]
        for key in saving
    }


# ---- it works ----------------------------------------------------------------------------------


def test_all_nodes_are_there(visit):
    info = visit.answers["/object_info"]
    brought = {name for name, node in info.items() if node["python_module"].endswith(NAME)}
    assert brought == {node.define_schema().node_id for node in NODES}


def test_the_page_gets_templates_scripts_and_translations(visit):
    stems = {Path(n).stem for n in visit.published if n.startswith("workflows/")}
    assert set(visit.answers["/workflow_templates"][NAME]) == stems
    scripts = {f"/extensions/{NAME}/{n[4:]}" for n in visit.published if n.endswith(".js")}
    assert scripts and scripts <= set(visit.answers["/extensions"])
    languages = {n.split("/")[1] for n in visit.published if n.startswith("locales/")}
    assert languages <= visit.answers["/i18n"].keys()
    assert all("LAGSKSampler" in visit.answers["/i18n"][lang]["nodeDefs"] for lang in languages)


def test_the_quickstart_turns_blue(visit):
    scores = {
        name: [float(BLUE(to_tensor(image)[None])) for image in images]
        for name, images in visit.quickstart.items()
    }
    plain, guided = (sum(scores[name]) / len(scores[name]) for name in ("plain", "guided"))
    assert len(scores["plain"]) == len(scores["guided"]) > 3
    assert guided > plain + 0.05


def test_a_reward_model_judges_and_the_run_is_written_down(visit):
    assert "PickScore" in visit.judged["outputs"]["score"]["text"][0]
    (table,) = (visit.base / "output" / "lags").glob("trace*.csv")
    assert len(table.read_text("utf-8").splitlines()) > 3


# ---- it behaves --------------------------------------------------------------------------------


def test_nobody_is_asked(visit):
    assert [line for line in visit.lines if line["kind"] == "network"] == []


def test_no_process_is_started_and_nothing_is_unpickled(visit):
    ours = [line for line in visit.lines if line["ours"]]
    found = {line["what"] for line in ours if line["kind"] in ("process", "unpickle")}
    assert found <= {FONTCONFIG}


def test_only_comfyuis_folders_are_written(visit):
    ours = {Path(line["what"]) for line in visit.lines if line["ours"] and line["kind"] == "write"}
    assert any(path.suffix == ".csv" for path in ours), "the watch has seen nothing"
    allowed = [visit.base / name for name in ("output", "temp", "server", "user")]
    outside = {p for p in ours if not any(p.is_relative_to(folder) for folder in allowed)}
    caches = [visit.home / name for name in CACHES_OF_MATPLOTLIB]
    fonts = {p for p in outside if p in caches or p.parent in [c / "matplotlib" for c in caches]}
    fonts |= {cache / "matplotlib" for cache in caches}
    assert outside - fonts == {visit.base / "models" / "weight_functions"}, "made if missing"


def test_no_compiled_library_has_left_a_file_either(visit):
    """In the user's folder, in ComfyUI's models and custom_nodes, and in the pack itself."""
    left = {name for name in files_below(visit.home) if not name.startswith("tmp/")}
    assert all("/matplotlib/fontlist-" in name for name in left)
    assert files_below(visit.base / "models") == visit.models
    pack = visit.base / "custom_nodes" / NAME
    assert files_below(visit.base / "custom_nodes") == {f"{NAME}/{n}" for n in visit.published}
    assert {n: (pack / n).read_bytes() for n in visit.published} == visit.published
