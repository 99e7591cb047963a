"""The help pages on a running server: all of them are served, and their numbers are the nodes'."""

from __future__ import annotations

import http.client
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "web" / "docs"
ALL = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*") if path.is_file())
PAGES = sorted(DOCS.glob("*.md"))
ENTRY = re.compile(r"^- `([^`]+)`(?: (.*?))?: ", re.MULTILINE)
DEFAULT = re.compile(r"\(([^()]+)\)$")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def ranges(text: str) -> dict[str, str]:
    """Range and default as the list of inputs has them, of each input with an entry of its own."""
    listed = text.partition("\n## Inputs\n")[2].partition("\n## ")[0]
    return dict(ENTRY.findall(listed))


def widgets(info: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Type and settings of a node's widgets, by the names that the page shows."""
    found = {}
    for group in ("required", "optional"):
        for name, spec in info["input"].get(group, {}).items():
            settings = spec[1] if len(spec) > 1 else {}
            if isinstance(spec[0], list):  # 0.8's way to write a list of options
                settings = {"options": spec[0], **settings}
            kind = spec[0] if isinstance(spec[0], str) else "COMBO"
            found[settings.get("display_name", name)] = kind, settings
    return found


def said_wrongly(said: str, kind: str, settings: dict[str, Any]) -> str:
    """What is wrong in a text such as '0.3 to 3 (1)'; empty where nothing is."""
    default = DEFAULT.search(said)
    if kind in ("INT", "FLOAT"):
        if default is None or float(default[1]) != settings["default"]:
            return f"{said!r}: the default is {settings['default']}"
        numbers = [float(one) for one in NUMBER.findall(said[: default.start()])]
        if any(not settings["min"] <= one <= settings["max"] for one in numbers):
            return f"{said!r}: allowed are {settings['min']} to {settings['max']}"
    elif kind == "COMBO" and default is not None:
        wanted = settings.get("default", settings["options"][0])
        if default[1] != wanted:
            return f"{said!r}: the default is {wanted}"
    return ""


@pytest.mark.parametrize("name", ALL)
def test_is_served(server, name):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", f"/extensions/lags/docs/{name}")
    answer = connection.getresponse()
    assert answer.status == 200
    # The page takes what comes as text/html for its own start page, and no help.
    assert "text/html" not in answer.headers["Content-Type"]
    assert answer.read() == (DOCS / name).read_bytes()
    connection.close()


def test_the_folder_is_that_of_the_module(server):
    """The page finds the folder by the second part of the node's python_module."""
    modules = {server.object_info()[path.stem]["python_module"] for path in PAGES}
    assert modules == {"custom_nodes.lags"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_numbers_are_the_nodes(server, path):
    found = ranges(path.read_text("utf-8"))
    known = widgets(server.object_info(path.stem)[path.stem])
    wrong = {
        name: said
        for name, (kind, settings) in known.items()
        if name in found and (said := said_wrongly(found[name], kind, settings))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("0.3 to 3 (1)", ""),
        ("(1)", ""),
        ("0.3 to 3", "default"),
        ("0.3 to 3 (2)", "default"),
        ("0.3 to 30 (1)", "allowed"),
    ],
)
def test_a_wrong_number_is_found(said, fault):
    said = said_wrongly(said, "FLOAT", {"default": 1.0, "min": -5.0, "max": 5.0})
    assert fault in said and bool(said) == bool(fault)
