"""The workflows for SDXL are those for SD 1.5 at another size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lags_pack.demo.make_workflows import MADE, make_sdxl, write_workflows

FOLDER = Path(__file__).resolve().parents[2] / "workflows"


def text(name: str) -> str:
    return (FOLDER / f"{name}.json").read_text("utf-8")


def values(workflow: dict[str, Any], kind: str) -> list[list[Any]]:
    return [node["widgets_values"] for node in workflow["nodes"] if node["type"] == kind]


@pytest.mark.parametrize("name", MADE)
def test_files_do_not_drift_apart(name):
    assert make_sdxl(name, text(f"sd15_{name}")) == text(f"sdxl_{name}")


def test_command_writes_the_same(tmp_path):
    for name in MADE:
        (tmp_path / f"sd15_{name}.json").write_text(text(f"sd15_{name}"), "utf-8")
    write_workflows(tmp_path)
    written = {file.stem: file.read_text("utf-8") for file in tmp_path.glob("sdxl_*.json")}
    assert written == {f"sdxl_{name}": text(f"sdxl_{name}") for name in MADE}


def test_only_what_depends_on_the_size_changes():
    sd15 = json.loads(text("sd15_fairness"))
    sd15["nodes"][-1]["properties"]["x"] = 28  # neither a widget nor pixels
    sdxl = json.loads(make_sdxl("fairness", json.dumps(sd15)))
    assert values(sdxl, "EmptyLatentImage") == [[1024, 1024, 4]]
    assert values(sdxl, "KSampler")[0][:4] == [1, "fixed", 30, 6]
    assert values(sdxl, "CheckpointLoaderSimple") == [["sd_xl_base_1.0.safetensors"]]
    assert sdxl["nodes"][-1]["properties"]["x"] == 28
    assert sdxl["links"] == sd15["links"]
    assert "SD 1.5" not in json.dumps(sdxl)
