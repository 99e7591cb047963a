"""The translations: every language has all of English's entries, and says the same things."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping

import pytest
from lags_pack.tests.derived import locales as i18n

LANGUAGES = ("de", "en", "fr", "ja", "zh")

# Characters that mean something in the page's messages. One frontend takes a tooltip as a message,
# the next as plain text, so no way to escape them is right in both: texts do without.
RESERVED = set("{}@|\\$")

URL = re.compile(r"https?://\S*\w")
NUMBER = re.compile(r"-?\d+(?:\.\d+)*")
QUOTED = re.compile(r"(?<!\w)'([^']+)'(?!\w)")
WORD = re.compile(r"[A-Za-z][\w.+/-]*")
OPTIONS = re.compile(r"(?:^|\. )([a-z][\w ,-]*): ", re.MULTILINE)  # "fast: ...", "das, tds: ..."
TECHNICAL = re.compile(r".[\w-]*[A-Z0-9_]|.*[./]")  # PickScore, LAGS, float32, log_weights, a.json
UNITS = {"GB"}  # French says Go


ENGLISH = i18n.flat(i18n.read("en"))


def kept(text: str) -> Counter[str]:
    """What of an English text stands in every translation: numbers, addresses, technical words."""
    words = [word.rstrip("./-+") for word in WORD.findall(URL.sub("", text))]
    technical = {
        re.sub(r"(?<=[A-Z])s$", "", word) for word in words if TECHNICAL.match(word)
    } - UNITS
    options = {one for found in OPTIONS.findall(text) for one in found.split(", ")}
    names = technical | options | set(URL.findall(text)) | set(QUOTED.findall(text))
    return Counter(NUMBER.findall(text)) + Counter(names)


def lost(english: str, text: str, labels: Mapping[str, str]) -> list[str]:
    """What a translation does not keep. It calls an input as that input's translated label does."""
    numbers = Counter(NUMBER.findall(text))

    def is_lost(one: str, count: int) -> bool:
        return numbers[one] < count if NUMBER.fullmatch(one) else one not in text

    wanted = {labels.get(one, one): count for one, count in kept(english).items()}
    return [one for one, count in wanted.items() if is_lost(one, count)]


def beginnings(text: str) -> list[str]:
    """What stands before the colon in every line of a text of several."""
    lines = text.split("\n")
    return [re.split(" ?[:：]", line)[0] for line in lines] if len(lines) > 1 else []  # noqa: RUF001


def is_sentence(path: str) -> bool:
    """True for texts to read, False for names, which may be the same in another language."""
    return path.endswith((".tooltip", ".description"))


def columns(name: str) -> int:
    """Width of a name in Latin letters; a Chinese character is twice as wide."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in name)


def labels_around(path: str, found: Mapping[str, str]) -> dict[str, str]:
    """Translated labels of the inputs and outputs of the node that a text belongs to.

    Only of those whose English label is a technical word: no option's value looks like it.
    """
    node = path.partition(".")[0]
    names = [one for one in ENGLISH if one.startswith(f"{node}.") and one.endswith(".name")]
    return {ENGLISH[one]: found.get(one, "") for one in names if "_" in ENGLISH[one]}


WIDEST = max(columns(text) for path, text in ENGLISH.items() if not is_sentence(path))


def wrong(path: str, english: str, text: str, labels: Mapping[str, str] = {}) -> list[str]:
    """What is wrong with a translated text, in words.

    labels: what the text's node calls its inputs and outputs, by their English names.
    """
    is_label = path.endswith(".name")  # may be put in other words altogether
    said = [f"{one} is not in it" for one in lost(english, text, labels) if not is_label]
    if beginnings(text) != beginnings(english):
        said.append("its lines begin otherwise")
    if is_sentence(path) and text == english and re.search("[a-z]", text):
        said.append("it is English")
    if not is_sentence(path) and columns(text) > WIDEST:
        said.append(f"it is wider than {WIDEST} letters")
    return said


def test_languages_have_the_entries_of_english() -> None:
    assert sorted(i18n.languages()) == sorted(LANGUAGES)
    found = [line for language in LANGUAGES for line in i18n.differences(language)]
    assert found == [], "translate these in locales/, take out what is stale"


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_are_clean_and_names_of_a_node_differ(language: str) -> None:
    for path, text in i18n.flat(i18n.read(language)).items():
        assert text and text == text.strip(), path
        assert not RESERVED & set(text), (path, text)
        assert all(one == "\n" or one.isprintable() for one in text), (path, text)
    for node, texts in i18n.read(language)["nodeDefs"].items():
        inputs = Counter(one["name"] for one in texts["inputs"].values())
        assert max(inputs.values()) == 1, (node, inputs)
    shown = Counter(one["display_name"] for one in i18n.read(language)["nodeDefs"].values())
    assert max(shown.values()) == 1, shown


@pytest.mark.parametrize("language", [one for one in LANGUAGES if one != "en"])
def test_says_what_english_says(language: str) -> None:
    found = i18n.flat(i18n.read(language))
    said = {}
    for path, english in ENGLISH.items():
        if path not in found:
            continue  # test_languages_have_the_entries_of_english names it
        text, labels = found[path], labels_around(path, found)
        if complaints := wrong(path, english, text, labels):
            said[path] = (complaints, text)
    assert said == {}


@pytest.mark.parametrize(
    ("english", "text", "complaint"),
    [
        ("Range 0.3 to 3, off 0.", "De 0,3 à 3, 0 arrête.", "0.3 is not in it"),
        ("1 of 1.", "1 seul.", "1 is not in it"),
        ("-1 as it is.", "1 tel quel.", "-1 is not in it"),
        ("See https://host.org/a.", "Voir https://host.org/b.", "https://host.org/a is not in it"),
        ("Put config.json there.", "Y mettre config.", "config.json is not in it"),
        ("As in KSampler.", "Comme ailleurs.", "KSampler is not in it"),
        ("Large GPUs only.", "Grosses cartes.", "GPU is not in it"),
        ("Used by 'hue'.", "Pour « teinte ».", "hue is not in it"),
        ("fast: nearly all.", "rapide : presque tout.", "fast is not in it"),
        ("What it is. das, tds: as is.", "das : tel quel.", "tds is not in it"),
        ("one: A.\ntwo: B.", "one: C. two: D.", "its lines begin otherwise"),
        ("The mask.", "The mask.", "it is English"),
    ],
)
def test_the_check_finds(english: str, text: str, complaint: str) -> None:
    assert complaint in wrong("a.tooltip", english, text)


def test_the_check_finds_wide_names() -> None:
    assert wrong("a.name", "a", "宽" * WIDEST) == [f"it is wider than {WIDEST} letters"]
    assert wrong("a.name", "a", "a" * WIDEST) == []
