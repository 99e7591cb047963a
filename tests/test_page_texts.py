"""Our texts on the page: every language has all, and scripts or server know each."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from lags_pack.tests.derived import locales as i18n
from lags_pack.tests.published import ROOT

FOLDER = ROOT / "web" / "texts"
SCRIPTS = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "web/js").glob("*.js")))
TEXTS = {path.stem: json.loads(path.read_text("utf-8")) for path in FOLDER.glob("*.json")}
ENGLISH = TEXTS["en"]
PLURALS = {"de": {"one", "other"}, "en": {"one", "other"}, "fr": {"one", "other"}}  # CLDR
NARROW = 14  # letters of a chart's title, or of its unit: both stand in 84 pixels


def columns(text: str) -> int:
    """Width in Latin letters; a Chinese character is twice as wide."""
    return sum(1 if one.isascii() or one in "éèàâêîôûüöäß" else 2 for one in text)


def holes(text: str | dict[str, str]) -> list[Counter[str]]:
    """What is put into each form of a text."""
    forms = text.values() if isinstance(text, dict) else [text]
    return [Counter(re.findall(r"\{(\w+)\}", form)) for form in forms]


def test_the_languages_are_those_of_the_nodes() -> None:
    assert sorted(TEXTS) == i18n.languages()
    (listed,) = re.findall(r"LANGUAGES = new Set\((\[.*?\])\)", SCRIPTS)
    assert sorted(TEXTS) == json.loads(listed)


@pytest.mark.parametrize("language", sorted(TEXTS))
def test_a_language_says_what_english_says(language: str) -> None:
    texts = TEXTS[language]
    assert list(texts) == list(ENGLISH)
    for key, text in texts.items():
        if isinstance(ENGLISH[key], dict):
            assert set(text) == PLURALS.get(language, {"other"}), key
        assert all(form == holes(ENGLISH[key])[0] for form in holes(text)), (key, text)
        if language != "en" and len(re.sub(r"\{\w+\}", "", str(ENGLISH[key]))) > 20:
            assert text != ENGLISH[key], f"{key} is English"


@pytest.mark.parametrize("language", sorted(TEXTS))
def test_titles_and_units_are_narrow(language: str) -> None:
    charts = [key.removesuffix("_unit") for key in ENGLISH if key.endswith("_unit")]
    widths = {k: columns(TEXTS[language][k] + TEXTS[language][f"{k}_unit"]) for k in charts}
    assert {key: width for key, width in widths.items() if width > NARROW + 4} == {}


def test_scripts_use_all_texts_and_no_other() -> None:
    asked = set(re.findall(r'"([a-z_]+)"', SCRIPTS)) | set(_of_charts())
    assert set(ENGLISH) - asked - {key for key, _, _ in messages()} == set()
    calls = set(re.findall(r'\btext\(\s*"([a-z_]+)"', SCRIPTS))
    assert len(calls) > 15 and calls <= set(ENGLISH)


def test_messages_of_the_server_are_the_english_texts() -> None:
    found = list(messages())
    assert len(found) > 8
    for key, english, values in found:
        assert ENGLISH[key] == english
        assert Counter(values) == holes(english)[0], key


def messages() -> Iterator[tuple[str, str, list[str]]]:
    """Key, sentence, and names of the values of each Message in the code."""
    for path in [*(ROOT / "guidance").rglob("*.py"), *(ROOT / "runtime").rglob("*.py")]:
        tree = ast.parse(path.read_text("utf-8"))
        named = {
            one.targets[0].id: one.value
            for one in ast.walk(tree)
            if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name)
        }
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Message":
                given = [named.get(getattr(one, "id", ""), one) for one in call.args]
                key, english, *values = given
                names = [one.value for one in values[0].keys] if values else []
                yield key.value, english.value, names


def _of_charts() -> list[str]:
    terms = re.findall(r'(?:key|term): "(\w+)"', SCRIPTS)
    return [f"{term}{ending}" for term in terms for ending in ("", "_unit", "_help")]
