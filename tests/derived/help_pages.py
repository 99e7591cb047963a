"""The help in the app: a page for every node, a line for every input that a page does not name yet.

web/docs/NODE.md          English
web/docs/NODE/zh.md       Chinese

A new page has its headings, inputs and outputs; the rest is written by hand. A line is made of the
input's label, range, default and tooltip. It may be written anew by hand; one that a Chinese page
still has in English becomes Chinese once the tooltip is translated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).resolve().parents[2] / "web" / "docs"
CODE = re.compile(r"`([^`\n]+)`")
NUMBERED = re.compile(r"(.*?)(\d+)")

Json = dict[str, Any]


class Words(NamedTuple):
    """How a language writes a line of the list of inputs."""

    until: str
    default: str
    colon: str


SECTIONS = {
    "en": (
        "Inputs",
        "Outputs",
        "A worked graph",
        "When something is wrong",
        "Where it comes from",
    ),
    "zh": ("输入", "输出", "完整示例", "出现问题时", "出处"),
}
WORDS = {"en": Words("{} to {}", " ({})", ": "), "zh": Words("{} 到 {}", "（{}）", "：")}  # noqa: RUF001


def page(node: str, language: str = "en") -> Path:
    """Where a node's page has to be."""
    return DOCS / f"{node}.md" if language == "en" else DOCS / node / f"{language}.md"


def sections(text: str) -> dict[str, str]:
    """What stands below each heading of the second level; the beginning below ''."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def named(entries: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Names of inputs or outputs as the page of ComfyUI shows them.

    Of sockets that grow by number (weight0, weight1, ...) the first and the last.
    """
    names = [entry["name"] for entry in entries.values() if entry.get("name")]
    rows: dict[str, list[int]] = {}
    for name in names:
        if found := NUMBERED.fullmatch(name):
            rows.setdefault(found[1], []).append(int(found[2]))
    between = {
        f"{stem}{number}"
        for stem, numbers in rows.items()
        for number in range(min(numbers) + 1, max(numbers))
    }
    return [name for name in names if name not in between]


def missing(names: Iterable[str], text: str) -> list[str]:
    """Names that do not stand in a text as code."""
    said = set(CODE.findall(text))
    return [name for name in names if name not in said]


def begun(language: str, english: Json, texts: Json) -> str:
    """A new page: title, description, the headings, and the outputs.

    Args:
        language: of the page.
        english: the node's entry in locales/en.
        texts: its entry in the language's own; what it lacks is English.
    """
    own = english | texts
    inputs, outputs, *others = SECTIONS[language]
    lines = [f"# {own['display_name']}", own["description"], f"## {inputs}\n", f"## {outputs}"]
    for key, entry in english["outputs"].items():
        tooltip = own["outputs"].get(key, entry)["tooltip"]
        # An output under its type's own name, such as MODEL, has no other.
        label = f"`{entry['name']}`{WORDS[language].colon}" if "name" in entry else ""
        lines.append(f"{label}{tooltip}")
    return "\n\n".join([*lines, *(f"## {heading}" for heading in others)]) + "\n"


def completed(text: str, language: str, english: Json, texts: Json, told: Json) -> str:
    """A page's text with a line for every input.

    Args:
        text: of the page.
        language: of the page.
        english: the node's entry in locales/en.
        texts: its entry in the language's own.
        told: what the node says of each input, by the input's key.
    """
    lines, labels = text.splitlines(), named(english["inputs"])
    for key, entry in english["inputs"].items():
        label, told_here = entry["name"], told.get(key, {})
        if label not in labels:
            continue
        own = texts.get("inputs", {}).get(key, {})
        stub = _line(WORDS[language], label, told_here, own or entry)
        borrowed = _line(WORDS[language], label, told_here, entry)
        if borrowed in lines:
            lines[lines.index(borrowed)] = stub
        elif missing([label], list(sections("\n".join(lines)).values())[1]):
            before = labels[: labels.index(label)]
            lines.insert(_place(lines, before), stub)
    return "\n".join(lines) + "\n"


def _line(words: Words, label: str, told: Json, texts: Json) -> str:
    """A line of the list of inputs."""
    name = "" if texts["name"] == label else f"{texts['name']} "
    span, default = "", told.get("default")
    if {"min", "max"} <= told.keys():
        span = f" {words.until.format(_said(told['min']), _said(told['max']))}"
    told_default = "" if default in (None, "") else words.default.format(_said(default))
    tooltip = texts["tooltip"].replace("\n", " ").rstrip(".。")
    return f"- {name}`{label}`{span}{told_default}{words.colon}{tooltip}"


def _said(value: Any) -> str:
    """A value as a page writes it: 0.0 is 0."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _place(lines: list[str], before: list[str]) -> int:
    """Where in the list of inputs a new line goes: behind the last that names one of these."""
    first = next(i for i, line in enumerate(lines) if line.startswith("## ")) + 1
    items = []
    for i, line in enumerate(lines[first:], first):
        if line.startswith("## "):
            break
        if line.startswith("- "):
            items.append(i)
    for label in reversed(before):
        for i in items:
            if label in CODE.findall(lines[i]):
                return i + 1
    return items[-1] + 1 if items else first + 1
