"""The help in the app: a page for every node, in English and Chinese, that says what is there.

The page of ComfyUI asks for docs/<node>/<language>.md, then for docs/<node>.md, and takes both
pages' images from docs/: so English stands in the second place, where every language finds it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lags_pack.tests.derived.help_pages import (
    CODE,
    DOCS,
    SECTIONS,
    begun,
    completed,
    missing,
    named,
    page,
    sections,
)
from lags_pack.tests.published import files

ROOT = Path(__file__).resolve().parents[1]
NODES = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))
CHINESE = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))
EACH = pytest.mark.parametrize("node", NODES)
TEMPLATES = {path.stem for path in (ROOT / "workflows").glob("*.json")}

PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
TEMPLATE = re.compile(r"(?:\w+_demo|sd15_\w+|sdxl_\w+)")
REMEDY = re.compile(r"^- \*\*.+\*\*", re.MULTILINE)
MOST_WORDS = 600
LARGEST, ALL_PICTURES = 60_000, 1_000_000  # bytes


def templates(text: str) -> set[str]:
    """Workflow templates that a text names."""
    return {word for word in CODE.findall(text) if TEMPLATE.fullmatch(word)}


def pictures(text: str) -> list[str]:
    """Images that a page shows, as it names them."""
    return [target for _, target in PICTURE.findall(text)]


def wrong(node: str, text: str, tracked: set[str]) -> list[str]:
    """What is wrong with an English page, in words."""
    found, entry = sections(text), NODES[node]
    first = text.partition("\n")[0]
    said = [] if first == f"# {entry['display_name']}" else [f"begins with {first!r}"]
    if tuple(found)[1:] != SECTIONS["en"]:
        return [*said, f"has sections {list(found)[1:]}, expected {SECTIONS['en']}"]
    said += [f"no input {one}" for one in missing(named(entry["inputs"]), found["Inputs"])]
    said += [f"no output {one}" for one in missing(named(entry["outputs"]), found["Outputs"])]
    said += wrong_links(text, tracked)
    # The page shows help in a column of some 250 pixels, which cuts a table off.
    said += ["a table"] if re.search(r"^\|", text, re.MULTILINE) else []
    example = templates(found["A worked graph"])
    said += [f"no template {one}" for one in templates(text) - TEMPLATES]
    said += [] if example else ["no template in its worked graph"]
    if len(REMEDY.findall(found["When something is wrong"])) < 2:
        said.append("fewer than two remedies")
    if "0" not in re.findall(r"\d+", found["Inputs"]) and "empty" not in found["Inputs"]:
        said.append("does not say what 0 or empty means")
    if not found["Where it comes from"].strip():
        said.append("does not say where it comes from")
    if (words := len(text.split())) > MOST_WORDS:
        said.append(f"{words} words")
    return said


def wrong_links(text: str, tracked: set[str]) -> list[str]:
    """Images and links of a page that lead nowhere."""
    shown = PICTURE.findall(text)
    said = [f"{target} has no words beside it" for words, target in shown if not words.strip()]
    said += [f"no image {one}" for _, one in shown if f"web/docs/{one}" not in tracked]
    said += [f"link to {one}" for one in LINK.findall(text) if not one.startswith("https://")]
    return said if shown else [*said, "no image"]


def numbers(text: str) -> list[Counter[str]]:
    """The numbers before the colon of each entry in the list of inputs: range and default."""
    inputs = sections(text).get("Inputs") or list(sections(text).values())[1]
    entries = [line for line in inputs.splitlines() if line.startswith("- ")]
    heads = [re.split(": |\uff1a", line)[0].rpartition("`")[2] for line in entries]
    return [Counter(re.findall(r"-?\d+(?:\.\d+)?", head)) for head in heads]


def wrong_translation(node: str, english: str, text: str) -> list[str]:
    """What a Chinese page says otherwise than the English one, in words."""
    heading, parts = text.partition("\n")[0], list(sections(text).values())
    said = [] if heading == f"# {CHINESE[node]['display_name']}" else [f"begins with {heading!r}"]
    if tuple(sections(text))[1:] != SECTIONS["zh"]:
        return [*said, f"has sections {list(sections(text))[1:]}, expected {SECTIONS['zh']}"]
    inputs, outputs = NODES[node]["inputs"], NODES[node]["outputs"]
    said += [f"no input {one}" for one in missing(named(inputs), parts[1])]
    said += [f"no output {one}" for one in missing(named(outputs), parts[2])]
    for what in (pictures, templates, LINK.findall, numbers):
        if (here := what(text)) != (there := what(english)):
            said.append(f"{here}, expected {there}")
    said += ["it is English"] if not re.search("[\u4e00-\u9fff]", parts[4]) else []
    return said


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """Files that are published."""
    return set(files())


@EACH
def test_pages(node: str, tracked: set[str]) -> None:
    """Of each node in both languages; sync leaves alone what names all inputs."""
    english, chinese = (page(node, one).read_text("utf-8") for one in ("en", "zh"))
    assert wrong(node, english, tracked) == []
    assert wrong_translation(node, english, chinese) == []
    assert completed(english, "en", NODES[node], NODES[node], {}) == english
    assert completed(chinese, "zh", NODES[node], CHINESE[node], {}) == chinese


def test_no_page_is_of_an_unknown_node_and_every_picture_is_shown_and_small(
    tracked: set[str],
) -> None:
    pages = [Path(name) for name in tracked if re.match(r"web/docs/.*\.md$", name)]
    named = {one.stem if one.parent.name == "docs" else one.parent.name for one in pages}
    assert named == set(NODES)
    assert {one.stem for one in pages if one.parent.name != "docs"} == {"zh"}
    shown = {name for node in NODES for name in pictures(page(node).read_text("utf-8"))}
    there = {name.removeprefix("web/docs/") for name in tracked if "/docs/images/" in name}
    assert shown == there
    sizes = {name: (DOCS / name).stat().st_size for name in there}
    assert max(sizes.values()) <= LARGEST, sizes
    assert sum(sizes.values()) <= ALL_PICTURES


GOOD = page("LAGSWeightColor").read_text("utf-8")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("# Weight: colour", "# Weight: color", "begins with '# Weight: color'"),
        ("`automatic strength`", "automatic strength", "no input automatic strength"),
        ("`weight`, for", "A weight, for", "no output weight"),
        ("images/colour.webp", "images/color.webp", "no image images/color.webp"),
        ("images/colour.webp", "../images/colour.webp", "no image ../images/colour.webp"),
        ("![The node", "[The node", "no image"),
        ("`colour_demo`", "`quick_demo`", "no template quick_demo"),
        ("\n## Outputs\n", "\n### Outputs\n", "has sections"),
        ("- **Nothing happens?**", "- Nothing happens?", "fewer than two remedies"),
        ("rewards/colour.py.", "[there](rewards/colour.py).", "link to rewards/colour.py"),
        ("\n## Outputs\n", "\n## Outputs\n| a | b |\n", "a table"),
        ("\n## Inputs\n", "\n## Inputs\n" + "word " * MOST_WORDS, "words"),
    ],
)
def test_a_wrong_page_is_found(old: str, new: str, complaint: str, tracked: set[str]) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new)
    if complaint.startswith("fewer"):
        text = re.sub(r"^- \*\*It burns.*\n- \*\*A cast.*$", "", text, flags=re.MULTILINE)
    assert any(complaint in one for one in wrong("LAGSWeightColor", text, tracked))
    assert wrong("LAGSWeightColor", GOOD, tracked) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# 权重：颜色", "# Weight: colour"),
        ("`automatic strength`", "automatic strength"),
        ("images/colour.webp", "images/mask.webp"),
        ("`sd15_colour`", "SD1.5"),
        ("0 到 360（0）", "0 到 180（0）"),
        ("\n## 输出\n", "\n"),
    ],
)
def test_a_wrong_translation_is_found(old: str, new: str) -> None:
    chinese = page("LAGSWeightColor", "zh").read_text("utf-8")
    assert old in chinese
    assert wrong_translation("LAGSWeightColor", GOOD, chinese.replace(old, new)) != []


def test_sockets_that_grow_are_named_by_their_ends() -> None:
    growing = {str(i): {"name": f"weight{i}"} for i in range(16)}
    assert named({**growing, "e": {"name": "exponents"}}) == ["weight0", "weight15", "exponents"]
    assert named({"0": {}, "1": {"name": "trace"}}) == ["trace"]


# ---- the lines that `dev.py sync` adds ---------------------------------------------------------

NEW = {"name": "momentum", "tooltip": "Share of the last shift that is kept."}
TOLD = {"momentum": {"min": 0.0, "max": 1.0, "default": 0.5}}
ENGLISH_LINE = "- `momentum` 0 to 1 (0.5): Share of the last shift that is kept"


def with_new_input(entry: dict[str, Any], texts: dict[str, str] = NEW) -> dict[str, Any]:
    """A node's entry with one more input, at the end."""
    return {**entry, "inputs": {**entry["inputs"], "momentum": texts}}


def test_a_new_page_lacks_only_what_is_written_by_hand(tracked: set[str]) -> None:
    entry, told = NODES["LAGSWeightColor"], {"hue": {"min": 0.0, "max": 360.0, "default": 0.0}}
    english = completed(begun("en", entry, entry), "en", entry, entry, told)
    assert wrong("LAGSWeightColor", english, tracked) == [
        "no image",
        "no template in its worked graph",
        "fewer than two remedies",
        "does not say where it comes from",
    ]
    own = CHINESE["LAGSWeightColor"]
    chinese = completed(begun("zh", entry, own), "zh", entry, own, told)
    assert wrong_translation("LAGSWeightColor", english, chinese) == ["it is English"]
    assert completed(begun("zh", entry, {}), "zh", entry, {}, told).startswith("# Weight: colour")


def test_a_new_input_gets_a_line_behind_its_neighbour() -> None:
    entry = with_new_input(NODES["LAGSWeightColor"])
    text = completed(GOOD, "en", entry, entry, TOLD)
    before, after = GOOD.splitlines(), text.splitlines()
    place = after.index(ENGLISH_LINE)
    assert before == after[:place] + after[place + 1 :]
    assert f"`{list(NODES['LAGSWeightColor']['inputs'].values())[-1]['name']}`" in after[place - 1]
    assert completed(text, "en", entry, entry, TOLD) == text


def test_a_chinese_line_is_english_until_it_is_translated() -> None:
    english, own = with_new_input(NODES["LAGSWeightColor"]), CHINESE["LAGSWeightColor"]
    text = page("LAGSWeightColor", "zh").read_text("utf-8")
    lent = completed(text, "zh", english, own, TOLD)
    assert "- `momentum` 0 到 1（0.5）：Share of the last shift that is kept" in lent
    assert completed(lent, "zh", english, own, TOLD) == lent
    translated = with_new_input(own, {"name": "动量", "tooltip": "保留上一次位移的比例。"})
    for before in (text, lent):
        after = completed(before, "zh", english, translated, TOLD)
        assert "- 动量 `momentum` 0 到 1（0.5）：保留上一次位移的比例" in after
        assert "Share of" not in after
    rewritten = lent.replace("Share of the last shift that is kept", "由人改写")
    assert completed(rewritten, "zh", english, translated, TOLD) == rewritten
