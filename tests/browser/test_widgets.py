"""Widgets show what counts: those without effect are hidden, special values are said in words."""

from __future__ import annotations

import pytest

WIDGETS = """(id) => app.canvas.graph.getNodeById(id).widgets.filter((one) => !one.hidden
    && !one.element).map((one) => one.name)"""
SPEAKS = """(id) => !LiteGraph.vueNodesMode
    || Boolean(app.canvas.graph.getNodeById(id).widgets[0]._state)"""


def added(page, kind):
    """A new node, alone and in view."""
    page.evaluate("() => app.canvas.graph.clear()")
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
