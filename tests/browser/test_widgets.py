"""Widgets show what counts: those without effect are hidden, special values are said in words."""

from __future__ import annotations

import pytest

# Hidden nowhere: each frontend looks elsewhere.
WIDGETS = """(id) => app.canvas.graph.getNodeById(id).widgets.filter((one) => !one.element
    && ![one, one.options, one._state?.options].some((place) => place?.hidden)
    ).map((one) => one.name)"""
SPEAKS = """(id) => !LiteGraph.vueNodesMode
    || Boolean(app.canvas.graph.getNodeById(id).widgets[0]._state)"""


def added(page, kind):
    """A new node, alone and in view."""
    page.clear()
    node = page.add(kind, 0, 0)
    page.evaluate(
        """(id) => {
        const node = app.canvas.graph.getNodeById(id);
        node.setSize([500, node.size[1]]);
        app.canvas.ds.scale = 1;
        app.canvas.ds.offset = [300, 200];
        app.canvas.setDirty(true, true);
    }""",
        node,
    )
    page.settle()
    return node


def wait_for_widgets(page, node, *names):
    code = f"([id, names]) => ({WIDGETS})(id).join() === names.join()"
    try:
        page.wait(code, [node, list(names)], seconds=20)
    except RuntimeError:
        assert page.evaluate(WIDGETS, node) == list(names)


# By node: what to dial of one whose twin stays as it comes, and what of theirs each then shows.
TWINS = {
    "LAGSWeightColor": (
        {"attribute": "mean colour", "auto_nats": 0},
        ["attribute", "colour", "strength", "auto_nats"],
        ["attribute", "hue", "auto_nats"],
    ),
    "LAGSOptions": ({"schedule": "hard gate"}, ["sigma_gate"], []),
    "LAGSParticleSampler": ({"output": "draw"}, ["count"], []),
    "LAGSLoadWeight": ({"reward.auto_nats": 0}, ["reward.strength"], []),
    "LAGSWeightFrequency": ({"auto_nats": 0}, ["strength"], []),
}
COPY = """(ids) => {
    app.canvas.selectItems(ids.map((id) => app.canvas.graph.getNodeById(id)));
    app.canvas.copyToClipboard();
    app.canvas.pasteFromClipboard();
    return app.canvas.graph.nodes.map((one) => one.id).filter((id) => !ids.includes(id));
}"""


def wait_for_twins(page, kind, one, other):
    """Until either shows what counts by its own values; of the many widgets, those that change."""
    _, *both = TWINS[kind]
    changing = set().union(*both)
    code = f"""([ids, changing]) => ids.map((id) =>
        ({WIDGETS})(id).filter((one) => changing.includes(one)))"""
    same = f"([given, both]) => JSON.stringify(({code})(given)) === JSON.stringify(both)"
    given = [[one, other], list(changing)]
    try:
        page.wait(same, [given, both], seconds=20)
    except RuntimeError:
        assert page.evaluate(code, given) == both


@pytest.mark.parametrize("kind", TWINS)
def test_each_of_two_nodes_shows_what_counts_by_its_own_values(page, kind):
    """Side by side, copied, and opened from a file."""
    page.clear()
    one, other = page.add(kind, 0, 0), page.add(kind, 600, 0)
    for name, value in TWINS[kind][0].items():
        page.dial(one, name, value)
    wait_for_twins(page, kind, one, other)
    wait_for_twins(page, kind, *page.evaluate(COPY, [one, other]))
    saved = page.evaluate("() => app.graph.serialize()")
    page.clear()
    page.load(saved)
    wait_for_twins(page, kind, one, other)


def test_a_node_in_the_place_of_another_shows_what_counts_by_its_own_values(page):
    """A file in ComfyUI's API format: the page keeps what it knew of the ids."""
    by_hand = {"attribute": "brightness", "hue": 240, "colour": "#ff0000", "strength": 20}
    for inputs, here, gone in (
        ({**by_hand, "auto_nats": 0}, "strength", "hue"),
        ({**by_hand, "attribute": "hue", "auto_nats": 3}, "hue", "strength"),
    ):
        prompt = {"1": {"class_type": "LAGSWeightColor", "inputs": inputs}}
        page.evaluate("async (prompt) => { await app.loadApiJson(prompt, 'one.json'); }", prompt)
        page.settle()
        code = f"""([here, gone], rows = ({page.SHOWN})()) =>
            rows.includes(here) && !rows.includes(gone)"""
        try:
            page.wait(code, [here, gone], seconds=20)
        except RuntimeError:
            pytest.fail(f"{here}, not {gone}: {page.evaluate(page.SHOWN)}")
    wait_for_text(page, "off, by hand", there=False)


def wait_for_text(page, text, there=True):
    """Until some row of a node says a text, or none does."""
    code = f"([text, there]) => ({page.SHOWN})().some((one) => one.includes(text)) === there"
    try:
        page.wait(code, [text, there], seconds=20)
    except RuntimeError:
        pytest.fail(f"{text!r}: {page.evaluate(page.SHOWN)}")


def test_only_the_attributes_own_widgets_are_shown(page):
    node = added(page, "LAGSWeightColor")
    wait_for_widgets(page, node, "attribute", "hue", "auto_nats")
    page.dial(node, "attribute", "mean colour")
    wait_for_widgets(page, node, "attribute", "colour", "auto_nats")
    wait_for_text(page, "colour")
    wait_for_text(page, "hue", there=False)
    page.dial(node, "attribute", "brightness")
    wait_for_widgets(page, node, "attribute", "auto_nats")


def test_strength_and_automatic_strength_are_one_choice(page):
    node = added(page, "LAGSLoadWeight")
    automatic, strength = "reward.auto_nats", "reward.strength"
    others = ["reward", "reward.file", "reward.prompt", "reward.precision"]
    wait_for_widgets(page, node, *others, automatic)
    wait_for_text(page, "automatic strength")
    page.dial(node, automatic, 0)
    wait_for_widgets(page, node, *others, strength, automatic)
    wait_for_text(page, "off, by hand", there=page.evaluate(SPEAKS, node))
    page.dial(node, automatic, 3)
    wait_for_widgets(page, node, *others, automatic)
    wait_for_text(page, "off, by hand", there=False)
    page.dial(node, strength, -100)  # as in files from before: its sign counts
    wait_for_widgets(page, node, *others, strength, automatic)


def test_a_node_is_as_high_as_what_it_shows(page):
    node = added(page, "LAGSWeightColor")
    height = "(id) => app.canvas.graph.getNodeById(id).size[1]"
    wait_for_widgets(page, node, "attribute", "hue", "auto_nats")
    low = page.evaluate(height, node)
    page.dial(node, "auto_nats", 0)
    wait_for_widgets(page, node, "attribute", "hue", "strength", "auto_nats")
    assert page.evaluate(height, node) > low
    page.dial(node, "auto_nats", 2)
    wait_for_widgets(page, node, "attribute", "hue", "auto_nats")
    assert page.evaluate(height, node) == pytest.approx(low, abs=2)


def test_a_value_that_stands_for_something_says_so(page):
    node = added(page, "LAGSOptions")
    if not page.evaluate(SPEAKS, node):
        wait_for_text(page, "as needed", there=False)  # this page would not take it back
        return
    for text in ("from mode", "by precision", "as needed", "off"):
        wait_for_text(page, text)
    wait_for_text(page, "-1", there=False)  # Nodes 2.0 keeps it in an input, which is no text
    page.dial(node, "decode_size", 0)
    wait_for_text(page, "full size")
    page.dial(node, "decode_size", 512)
    wait_for_text(page, "full size", there=False)
    values = "(id) => app.canvas.graph.getNodeById(id).widgets.map((one) => one.value)"
    assert page.evaluate(values, node)[2] == -1


def test_a_file_of_0_1_0_keeps_its_values(page, read_workflow):
    """Strength by hand, and a negative one beside an automatic strength."""
    workflow = read_workflow("colour_demo")
    (weight,) = (one for one in workflow["nodes"] if one["type"] == "LAGSWeightColor")
    for values in (["mean colour", 10, "#ff0000", -20, 0], ["hue", 240, "#2060ff", -20, 3]):
        weight["widgets_values"] = values
        page.load(workflow)
        names = ["attribute", "hue", "colour", "strength", "auto_nats"]
        shown = ["attribute", "colour" if values[0] == "mean colour" else "hue", *names[3:]]
        wait_for_widgets(page, weight["id"], *shown)
        queued = page.evaluate("async () => (await app.graphToPrompt()).output")
        assert queued[str(weight["id"])]["inputs"] == dict(zip(names, values, strict=True))
        saved = page.evaluate("() => app.graph.serialize()")
        (again,) = (one for one in saved["nodes"] if one["id"] == weight["id"])
        assert again["widgets_values"] == values
        # Nodes 2.0 has sizes of its own.
        assert again["size"] == weight["size"] or page.evaluate("() => LiteGraph.vueNodesMode")
