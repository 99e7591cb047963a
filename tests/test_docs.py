"""What README and docs/ point to is there: files, commands, nodes, templates."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "demo").glob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_commands_are_ones_that_dev_py_has(page: Path) -> None:
    text, source = page.read_text(encoding="utf-8"), (ROOT / "dev.py").read_text(encoding="utf-8")
    targets = [one for one in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in one]
    assert [one for one in targets if not (page.parent / one).resolve().exists()] == []
    commands = re.search(r"for command in \((.+)\)", source)[1].split(", ")
    benchmarks = {file.stem for file in (ROOT / "benchmarks").glob("[a-z]*.py")}
    for command, argument in re.findall(r"python3? dev\.py (\w+)(?: ([\w/]+(?:\.py)?))?", text):
        assert command in commands, command
        if command == "bench" and argument != "NAME":
            assert argument in benchmarks, argument
        if command == "test" and argument:
            assert (ROOT / argument).exists(), argument


def test_readme_names_every_node() -> None:
    texts = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    table = README[README.index("## Nodes") : README.index("## See what it does")]
    each = "Method: DPS Method: FreeDoM Method: LiDAR Method: MPGD"
    methods = table.replace("Method: DPS, FreeDoM, LiDAR, MPGD", each)
    assert [n["display_name"] for n in texts.values() if n["display_name"] not in methods] == []


def test_readme_names_every_template_and_no_other() -> None:
    table = README[README.index("## Templates") : README.index("## Nodes")]
    named = set()
    for name in re.findall(r"`([a-z0-9_.]+)`", table):
        family = name.startswith("...")
        named |= {"sd15" + name[3:], "sdxl" + name[3:]} if family else {name}
    there = {file.stem for file in (ROOT / "workflows").glob("*.json")}
    assert named - {"sd15_", "sdxl_"} == there
