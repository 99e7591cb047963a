"""The words that users read: the field's, not the house's; tooltips begin with what to do."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from lags_pack.tests.derived import locales as i18n
from lags_pack.tests.published import ROOT

# House words, and what the field says.
HOUSE_WORDS = {
    r"(?<!\ba )pictures?": "image",  # "a picture of" is the text model's own wording
    r"asks? for more|weights? asks?": "favours",
    r"(the )?whole way": "full step",
    r"held (gradient|shift|step)s?": "cached",
    r"first noise|tilted start": "tilted initial noise",
    r"trust(?!-region)\w*": "alpha, confidence",
    r"caution\w*|kappa": "damping",
    r"doubt\w*": "uncertainty",
    r"promised?|promises": "predicted gain",
    r"realised": "actual gain",
    r"effective (size|number)": "ESS",
    r"kernel share": "step correction",
    r"drowned": "below the rounding floor",
    r"further forwards?": "second evaluation",
    r"foreign": "third-party",
    r"gone past": "bypassed",
}
FOUND = re.compile(rf"\b({'|'.join(HOUSE_WORDS)})\b", re.IGNORECASE)

# Tooltips of inputs say within six words what to do.
TO_DO = set("change choose connect disable enable keep leave lower raise set start write".split())
ROOMS = ("nodes", "runtime", "guidance", "rewards", "plots", "demo")
PAGES = ("*.md", "docs/*.md", "demo/**/*.md", "web/docs/*.md")
TEXTS = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))


def of_python() -> Iterator[tuple[str, str]]:
    """Texts in the code that can be shown: all with a space in them but docstrings."""
    for file in chain.from_iterable((ROOT / room).rglob("*.py") for room in ROOMS):
        tree = ast.parse(file.read_text("utf-8"))
        alone = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
        for one in ast.walk(tree):
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                if " " in one.value and id(one) not in alone:
                    yield f"{file.relative_to(ROOT)}:{one.lineno}", one.value


def of_workflows() -> Iterator[tuple[str, str]]:
    """Notes, and titles of nodes, groups and subgraphs."""
    for file in sorted(ROOT.glob("workflows/*.json")):
        graph = json.loads(file.read_text("utf-8"))
        for one in [graph, *graph.get("definitions", {}).get("subgraphs", [])]:
            for node in one["nodes"]:
                yield file.name, node.get("title") or ""
                if node["type"] in ("MarkdownNote", "Note"):
                    yield file.name, node["widgets_values"][0]
            yield from ((file.name, group["title"]) for group in one.get("groups", []))
            yield file.name, one.get("name") or ""


def of_files() -> Iterator[tuple[str, str]]:
    """Pages line by line, the nodes' English texts, and those of the panel."""
    for file in chain.from_iterable(ROOT.glob(pattern) for pattern in PAGES):
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            yield f"{file.relative_to(ROOT)}:{number}", line
    yield from i18n.flat(i18n.read("en")).items()
    yield from i18n.flat(json.loads((ROOT / "web/texts/en.json").read_text("utf-8"))).items()


def test_users_read_no_house_words() -> None:
    shown = [*of_python(), *of_workflows(), *of_files()]
    assert len(shown) > 3000
    assert [(at, found[0]) for at, text in shown if (found := FOUND.search(text))] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("All pictures: ", "pictures"),
        ("a picture of a cat", None),
        ("The weight asks for more blue.", "weight asks"),
        ("red, if the prompt asks for red", None),
        ("as in trust-region methods", None),
        ("Trust of a step", "Trust"),
        ("the held gradient", "held gradient"),
        ("held-out scenes", None),
    ],
)
def test_the_check_finds_house_words(text: str, found: str | None) -> None:
    match = FOUND.search(text)
    assert (match and match[0]) == found


def undecided(tooltip: str) -> list[str]:
    """The lines of a tooltip whose first six words do not say what to do.

    A line of several is of an option, whose name stands before the colon.
    """
    lines = tooltip.split("\n")
    if len(lines) > 1:
        lines = [line.partition(": ")[2] for line in lines]
    return [line for line in lines if not TO_DO & set(re.findall(r"\w+", line.lower())[:6])]


def inputs() -> Iterator[tuple[str, dict[str, Any]]]:
    for node, texts in TEXTS.items():
        yield from ((f"{node}.{name}", one) for name, one in texts["inputs"].items())


def test_tooltips_begin_with_what_to_do() -> None:
    tooltips = {name: one["tooltip"] for name, one in inputs()}
    assert len(tooltips) > 200
    assert {name: left for name, text in tooltips.items() if (left := undecided(text))} == {}


def test_the_check_finds_tooltips_that_only_describe() -> None:
    assert undecided("Number of denoising steps.") == ["Number of denoising steps."]
    assert undecided("one: Choose a file.\ntwo: A file.") == ["A file."]


def test_the_glossary_has_what_the_pages_use() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    rows = re.findall(r"^\| (?!term|-)(.+?) \| (.+) \|$", page, re.MULTILINE)
    terms = {term for cell, _ in rows for term in re.split(r",? \(?|\)", cell)}
    words = {"score", "strength", "nat", "log", "w", "ESS", "alpha", "particle", "shift", "plain"}
    assert words <= terms
    assert [meaning for _, meaning in rows if ". " in meaning] == [], "one sentence each"
    for name in ("README.md", "docs/method.md", "docs/weights.md"):
        assert "glossary.md" in Path(ROOT / name).read_text("utf-8")
