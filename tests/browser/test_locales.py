"""The page in another language: our nodes are translated, and no text trips over its messages."""

from __future__ import annotations

import time

import pytest
from lags_pack.tests.derived import locales as i18n

OFFERED = {"en", "fr", "ja", "zh"}  # of our languages; no page offers German yet

ADD = """(types) => {
    app.canvas.graph.clear();
    types.forEach((type, place) => {
        const node = LiteGraph.createNode(type);
        node.pos = [420 * place, 0];
        app.canvas.graph.add(node);
        node.setSize([400, node.size[1]]);
    });
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [60, 120];
    app.canvas.setDirty(true, true);
}"""

# The page's own messages, through the root of its application.
MESSAGES = 'document.querySelector("#vue-app").__vue_app__.config.globalProperties'
CHANGED = f"""(texts) => {{
    const messages = {MESSAGES};
    const made = Object.keys(texts).map((path) => [path, messages.$t(path), texts[path]]);
    return made.filter(([, shown, text]) => shown !== text);
}}"""


@pytest.fixture
def foreign(another_page):
    """A page of one's own whose settings, which the server keeps, may be changed."""
    names = ("Comfy.Locale", "Comfy.VueNodes.Enabled")
    code = "(names) => names.map((name) => app.extensionManager.setting.get(name))"
    before = another_page.evaluate(code, names)
    yield another_page
    for name, value in zip(names, before, strict=True):
        another_page.set(name, value)


def speak(page, language):
    """Switch the page to a language."""
    page.set("Comfy.Locale", language)
    page.wait(f"(language) => {MESSAGES}.$i18n.locale === language", language)


def shown_by(page, *types):
    """What one node of each type shows, once that no longer changes."""
    page.evaluate(ADD, list(types))
    page.wait(
        """(count) => !LiteGraph.vueNodesMode
            || document.querySelectorAll("[data-node-id]").length === count""",
        len(types),
    )
    before, shown = None, page.evaluate(page.SHOWN)
    while shown != before:  # Nodes 2.0 draws a widget when its code has come
        time.sleep(0.5)
        page.settle()
        before, shown = shown, page.evaluate(page.SHOWN)
    return shown


def test_nodes_are_french(foreign):
    speak(foreign, "fr")
    foreign.reload()
    node = "LiteGraph.registered_node_types.LAGSKSampler"
    assert foreign.evaluate(f"() => {node}.category") == "échantillonnage/pondéré"
    wanted = {
        "title": "Charger fonction de poids",
        "input": "modèle",
        "widget": "échantillonneur",
        "nested widget": "force automatique",
        "output": "tableau",
    }
    for nodes_2 in (False, True):
        foreign.set("Comfy.VueNodes.Enabled", nodes_2)
        shown = shown_by(foreign, "LAGSLoadWeight", "LAGSKSampler", "LAGSScoreImages")
        missed = {what: text for what, text in wanted.items() if text not in shown}
        assert missed == {}, (nodes_2, shown)


def test_nested_names_are_words_in_english(page):
    shown = shown_by(page, "LAGSLoadWeight")
    assert "automatic strength" in shown
    assert not {"auto_nats", "reward.auto_nats"} & set(shown)


def test_messages_show_every_text(foreign):
    said = "() => app.extensionManager.setting.settings?.['Comfy.Locale']?.options ?? []"
    offered = {
        one.get("value", one) if isinstance(one, dict) else one for one in foreign.evaluate(said)
    }
    languages = OFFERED | offered.intersection(i18n.languages())
    for language in sorted(languages):
        speak(foreign, language)
        files = i18n.read(language)
        texts = i18n.flat({**files["main"], "nodeDefs": files["nodeDefs"]})
        assert foreign.evaluate(CHANGED, texts) == []
