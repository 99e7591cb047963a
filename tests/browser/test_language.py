"""The panel and the scores in the page's language, to eyes, to ears and by keys."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest

TEXTS = Path(__file__).resolve().parents[2] / "web" / "texts"
LANGUAGES = sorted(path.stem for path in TEXTS.glob("*.json"))
COMMA = {"de": ",", "en": ".", "fr": ",", "ja": ".", "zh": "."}  # of decimal numbers
READ = """() => {
    const panel = document.querySelector("[data-node='5']");
    const axis = panel.querySelector("[role=slider]");
    return {
        lang: panel.lang, text: panel.innerText, label: panel.getAttribute("aria-label"),
        summary: panel.querySelector(".lags-summary").textContent,
        said: panel.querySelector("[data-lags=said]").textContent,
        log_w: panel.querySelector("[data-lags=log_w]").textContent,
        curves: [...panel.querySelectorAll("svg")].map((svg) => svg.getAttribute("aria-label")),
        help: [...panel.querySelectorAll(".lags-words")].map((words) => words.title),
        wide: [...panel.querySelectorAll(".lags-title, .lags-status, .lags-number")]
            .filter((one) => one.scrollWidth > one.parentElement.clientWidth)
            .map((one) => one.textContent),
        status: panel.querySelector("[data-lags=status]").textContent,
        now: axis.getAttribute("aria-valuenow"), max: axis.getAttribute("aria-valuemax"),
        step: axis.getAttribute("aria-valuetext"), focused: axis === document.activeElement,
    };
}"""


def texts(language):
    return json.loads((TEXTS / f"{language}.json").read_text("utf-8"))


@pytest.fixture
def speaking(quickstart):
    """The quickstart, and its page's language put back after the test."""
    yield quickstart
    speak(quickstart, "en")


OFFERED = """() => app.extensionManager.setting.settings["Comfy.Locale"].options
    .map((one) => one.value ?? one)"""
# No page offers German yet: its panel is asked to take the page for one that does.
PRETEND = """(language) => {
    const setting = app.extensionManager.setting;
    window.real_get ??= setting.get;
    setting.get = (name) => name === "Comfy.Locale" && language || real_get.call(setting, name);
}"""

# The page opens its graph anew in the language, some time after it is set: node 5 is another then.
CURRENT = """() => {
    window.before = app.canvas.graph.getNodeById(5);
    return app.extensionManager.setting.get("Comfy.Locale");
}"""
OPENED_ANEW = """() => {
    const node = app.canvas.graph.getNodeById(5);
    return node && node !== window.before;
}"""


def speak(page, language):
    """Switch the page to a language and wait for the panel."""
    offered = language in page.evaluate(OFFERED)
    page.evaluate(PRETEND, None if offered else language)
    if offered and page.evaluate(CURRENT) != language:
        page.set("Comfy.Locale", language)
        with contextlib.suppress(RuntimeError):  # where it does not, there is nothing to wait for
            page.wait(OPENED_ANEW, seconds=10)
    base = language.split("-")[0]
    shown = """([language, words]) => {
        const panel = document.querySelector("[data-node='5']");
        return panel?.lang === language && panel.innerText.includes(words);
    }"""
    spoken = base if base in LANGUAGES else "en"
    page.wait(shown, [spoken, texts(spoken)["noise_levels"].split("{")[0].strip()])
    page.settle()


def test_the_panel_speaks_the_language_of_the_page(speaking, server):
    page = speaking
    page.run()
    page.look_at(5)
    said = set()
    for language in [*LANGUAGES, "zh-TW", "en"]:
        speak(page, language)
        words = texts(language[:2])
        known = "(words) => document.querySelector(\"[data-node='5']\").innerText.includes(words)"
        page.wait(known, words["connected_model"])
        seen = page.evaluate(READ)
        for key in ("alpha", "log_w", "ratio", "seconds"):
            assert words[key] in seen["text"] and words[f"{key}_unit"] in seen["text"]
            assert words[f"{key}_help"] in seen["help"]
        assert re.search(rf"\d[{COMMA[language[:2]]}]\d", seen["curves"][0])
        assert max(words["calls"]["other"].split("{count}"), key=len).strip() in seen["summary"]
        assert seen["wide"] == []
        said.add(seen["summary"])
    assert len(said) == len(LANGUAGES)


def test_a_language_that_the_pack_has_not_is_english(speaking):
    speak(speaking, "fr")
    speak(speaking, "ko")
    shown = "() => document.querySelector(\"[data-node='5']\").innerText.includes('Noise levels')"
    speaking.wait(shown)


def test_screen_readers_hear_the_last_values(quickstart):
    quickstart.look_at(5)
    planned = quickstart.evaluate(READ)
    assert planned["curves"][0].startswith("alpha: planned, 0.")
    assert planned["curves"][0].endswith(" in 8 steps.")
    assert planned["curves"][1:] == [f"{one}: no values yet." for one in ("log w", "shift", "time")]
    assert planned["label"].startswith("Plan and run of KSampler (LAGS). ")
    assert " of 8 steps guided, " in planned["label"]
    assert planned["said"] == ""
    quickstart.run()
    seen = quickstart.evaluate(READ)
    assert f"log w: last value {seen['log_w']}, " in seen["curves"][1]
    assert seen["curves"][1].endswith(" evaluations.")
    assert seen["curves"][3].endswith(" in 8 evaluations.")
    assert seen["said"].startswith("KSampler (LAGS): ")
    for text in (seen["said"], seen["label"]):
        assert f"log w {seen['log_w']}, " in text


def test_keys_walk_through_the_steps(quickstart, server):
    quickstart.run()
    quickstart.look_at(5)
    done = quickstart.evaluate(READ)
    reached = "() => document.activeElement.role === 'slider' && document.activeElement.tagName"
    quickstart.evaluate("() => document.activeElement?.blur()")
    for _ in range(100):
        quickstart.press("Tab")
        if quickstart.evaluate(reached):
            break
    moved = quickstart.evaluate("() => [...app.canvas.ds.offset, app.canvas.ds.scale]")
    assert quickstart.evaluate(READ)["focused"]
    steps = {"ArrowRight": 1, "ArrowUp": 2, "ArrowLeft": 1, "End": 8, "ArrowDown": 7, "Home": 1}
    for key, step in steps.items():
        quickstart.press(key)
        quickstart.settle()
        seen = quickstart.evaluate(READ)
        assert (seen["now"], seen["max"]) == (str(step), "8")
        assert seen["status"].startswith(f"{step}: sigma ")
        assert f"log w {seen['log_w']}" in seen["step"] and seen["status"] in seen["step"]
        assert seen["said"] == done["said"]
    quickstart.press("Escape")
    quickstart.settle()
    assert quickstart.evaluate(READ)["status"] == done["status"]
    assert quickstart.evaluate("() => [...app.canvas.ds.offset, app.canvas.ds.scale]") == moved


def test_scores_speak_too(speaking):
    code = """() => {
        const node = LiteGraph.createNode("LAGSScoreImages");
        app.canvas.graph.add(node);
        const image = { filename: "none.png", subfolder: "", type: "temp" };
        const lags_scores = [1234567.5, -0.25].map((score, index) =>
            ({ rank: index + 1, index, score, image }));
        window.judge = node;
        window.show = () => node.onExecuted({ lags_scores, lags_scores_of: ["PickScore"],
            lags_scores_all: [20] });
    }"""
    speaking.evaluate(code)
    said = "() => document.querySelector('[data-lags=scores]').textContent"
    speaking.wait("() => document.querySelector('[data-lags=scores]')")
    assert speaking.evaluate(said) == texts("en")["scores_to_come"]
    speak(speaking, "de")
    assert speaking.evaluate(said) == texts("de")["scores_to_come"]
    speaking.evaluate("() => show()")
    line = "PickScore, die besten 2; 18 weitere nicht gezeigt"
    assert speaking.evaluate(said).startswith(line)
    alt = "() => document.querySelector('[data-lags=scores] img').alt"
    assert speaking.evaluate(alt) == "Rang 1, Bild 0: PickScore 1.234.567,5"
    speak(speaking, "en")
    assert speaking.evaluate(alt) == "Rank 1, image 0: PickScore 1,234,567.5"
    speaking.evaluate("() => app.canvas.graph.remove(judge)")


def test_nested_widgets_follow_the_choice_in_french(speaking):
    """Also those that a choice brings after the page has opened."""
    speak(speaking, "fr")
    node = speaking.add("LAGSLoadWeight", 0, 900)
    labels = """(id) => Object.fromEntries(app.canvas.graph.getNodeById(id).widgets.map((one) =>
        [one.name, one.label ?? one.name]))"""
    names = json.loads((TEXTS.parents[1] / "locales/fr/nodeDefs.json").read_text("utf-8"))
    inputs = names["LAGSLoadWeight"]["inputs"]
    for reward in ("CLIP score", "PickScore"):
        speaking.dial(node, "reward", reward)
        speaking.settle()
        shown = speaking.evaluate(labels, node)
        nested = {name: label for name, label in shown.items() if "." in name}
        assert len(nested) > 2
        wanted = {name: inputs[name.replace(".", "_")]["name"] for name in nested}
        assert nested == wanted


IDLE = {
    "key": "idle",
    "text": "English",
    "values": {"method": "fast", "steps": 4, "alpha": 1.2e-05, "sigma": 7.25},
}
NO_SAMPLE = {
    "key": "no_sample",
    "text": "English",
    "values": {"count": 1234567, "percent": 25, "deviations": 1.7},
}
SOURCE = "() => document.querySelector(\"[data-node='5'] [data-lags=source]\").textContent"


def filled(language, message, **written):
    """A text of a language with its values as that language writes them."""
    return texts(language)[message["key"]].format(**{**message["values"], **written})


def test_what_the_server_says_is_in_the_language_of_the_page(speaking):
    page = speaking
    page.run()
    page.look_at(5)
    toast = """([words, key]) => [...document.querySelectorAll(".p-toast-message, [role=alert]")]
        .some((one) => one.innerText.includes(words))"""
    finish = """(no_sample) => app.canvas.graph.getNodeById(5).onExecuted({
        lags_trace: [{ points: [], model_calls: 1, seconds: 1, no_sample }] })"""
    for language, written in (
        ("de", {"alpha": "0,000012", "sigma": "7,25", "count": "1.234.567", "deviations": "1,7"}),
        ("ja", {"alpha": "0.000012", "count": "1,234,567"}),
    ):
        speak(page, language)
        page.evaluate("(said) => tell('lags.notice', said)", IDLE)
        page.wait(toast, [filled(language, IDLE, **written), ""], seconds=20)
        page.evaluate(finish, NO_SAMPLE)
        page.wait(f"(said) => ({SOURCE})() === said", filled(language, NO_SAMPLE, **written))
    page.dial(5, "steps", 20000)
    shown = {"name": "steps", "value": "20,000", "least": 1, "most": "10,000"}
    page.wait(f"(said) => ({SOURCE})() === said", texts("ja")["out_of_range"].format(**shown))
    page.evaluate("(said) => tell('lags.notice', said)", {"text": "of a newer server", "key": "x"})
    page.wait(toast, ["of a newer server", ""], seconds=20)


def test_special_values_speak_too(speaking):
    state = """([id, word]) => {
        const widget = app.canvas.graph.getNodeById(id).widgets[2];
        if (LiteGraph.vueNodesMode && !widget._state) return true; // this page would not say it
        const shown = LiteGraph.vueNodesMode ? widget.label : widget._displayValue;
        return String(shown).endsWith(word);
    }"""
    for language in ("zh-TW", "de"):
        speak(speaking, language)  # opens the graph anew
        node = speaking.add("LAGSOptions", 0, 900)
        speaking.wait(state, [node, texts(language[:2])["from_mode"]], seconds=20)


def test_a_stopped_sweep_speaks_too(speaking):
    """Seeds as they are, other numbers in the language's form."""
    image = {"filename": "none.png", "subfolder": "", "type": "temp"}
    settings = [{"strength": 0, "seed": "12345678901234567890"}, {"strength": 0.5, "mode": "fast"}]
    runs = [{"settings": one, "number": i + 1, "image": image} for i, one in enumerate(settings)]
    # Some pages keep the nodes of the language before.
    said = """(words) => [...document.querySelectorAll('[data-lags=compare]')]
        .some((one) => one.innerText.split(/\\n+/).join('|') === words)"""
    for language, labels in (
        ("zh", "普通，种子 12345678901234567890|强度 0.5，fast，图像 2"),
        ("fr", "normal, graine 12345678901234567890|force 0,5, fast, image 2"),
    ):
        speak(speaking, language)
        kinds = ("LAGSSweep", "LAGSKSampler", "LAGSCompare")
        sweep, sampler, compare = (speaking.add(kind, 0, 900) for kind in kinds)
        speaking.connect(sweep, 0, sampler, "strength")
        speaking.connect(sweep, 4, compare, "sweep")
        speaking.wait(said, texts(language)["sweep_to_come"])
        speaking.evaluate("(told) => tell('lags.finished', told)", {"node": sampler, "runs": runs})
        shown = "|".join([texts(language)["sweep_stopped"], labels])
        speaking.wait(said, shown, seconds=20)
