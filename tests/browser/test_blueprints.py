"""Blueprints: found by the page's search, dropped into a graph, and run there."""

from __future__ import annotations

import pytest

EMPTY = {"nodes": [], "links": [], "groups": [], "version": 0.4, "extra": {}}
SEARCH = "() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')"
TYPING = "() => document.activeElement?.tagName === 'INPUT'"
OFFERED = """(title) => [...document.querySelectorAll("[role=option]")].some(
    (one) => one.innerText.startsWith(title))"""
DROPPED = "() => app.canvas.graph._nodes.find((one) => one.isSubgraphNode?.())"
DEMO = ("MODEL", "CLIP", "VAE", "LATENT")  # outputs of the demo model, as the page names them
# By name: what its widgets are set to, what they begin with, and how many images come out.
BLUEPRINTS = {
    "LAGS with PickScore": (
        {
            "prompt": "a cat on a blue background",
            "pickscore": "lags_demo/scenes_pickscore/model.safetensors",
        },
        {"automatic_strength": 2, "mode": "balanced"},
        2,
    ),
    "Draw N, keep the best": ({"draw": 3}, {"keep": 1, "denoise": 1}, 1),
    "Colour grade by weight": ({"hue": 240}, {"denoise": 0.5, "automatic_strength": 3}, 2),
}
SHORT = {"seed": 3, "steps": 6, "cfg": 2}


def drop(page, title: str) -> str:
    """Find a blueprint as a user does, and put it down; the new node's id."""
    page.load(EMPTY)
    page.evaluate(SEARCH)
    page.wait(TYPING)
    page.type(title)
    page.wait(OFFERED, title)
    page.press("Enter")
    page.wait(f"() => !!({DROPPED})()")
    page.move(700, 520)
    page.click(700, 520)  # newer pages let it follow the mouse until then
    page.settle()
    return page.evaluate(f"() => {{ const node = ({DROPPED})(); return [node.id, node.title]; }}")


def values(page, node: str) -> dict:
    code = """(id) => Object.fromEntries(app.canvas.graph.getNodeById(id).widgets.map(
        (one) => [one.name, one.value]))"""
    return page.evaluate(code, node)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_dropped_and_queued(another_page, name):
    page, (chosen, before, count) = another_page, BLUEPRINTS[name]
    host, title = drop(page, name)
    assert title == name
    assert {key: values(page, host).get(key) for key in before} == before
    demo, weight = page.add("LAGSDemoTextModel", -900, 0), page.add("LAGSWeightColor", -900, 300)
    words, shown = page.add("CLIPTextEncode", -500, 0), page.add("PreviewImage", 900, 0)
    image = page.add("EmptyImage", -500, 400)
    page.connect(demo, DEMO.index("CLIP"), words, "clip")
    given = {"model": (demo, 0), "clip": (demo, 1), "vae": (demo, 2), "latent_image": (demo, 3)}
    given |= {"positive": (words, 0), "negative": (words, 0), "weight": (weight, 0)}
    given |= {"image": (image, 0)}
    sockets = """(id) => app.canvas.graph.getNodeById(id).inputs.filter(
        (one) => !one.widget).map((one) => one.name)"""
    for socket in page.evaluate(sockets, host):
        page.connect(*given[socket], host, socket)
    page.connect(host, 0, shown, "images")
    for node, widget, value in (
        (demo, "batch_size", 1 if "draw" in chosen else 2),
        *((image, side, 128) for side in ("width", "height")),
        (image, "batch_size", 2),
        *((host, *each) for each in (chosen | SHORT).items()),
    ):
        page.dial(node, widget, value)
    page.run()
    images = [
        one["output"]["images"] for one in page.heard("executed") if one["node"] == str(shown)
    ]
    assert [len(one) for one in images] == [count]


def test_the_plan_inside_goes_by_the_blueprint_s_widgets(another_page):
    page = another_page
    host, _ = drop(page, "LAGS with PickScore")
    page.dial(host, "steps", 7)
    page.load(page.evaluate("() => app.graph.serialize()"))  # till then it may follow the mouse
    inside = """(id) => {
        const node = app.canvas.graph.getNodeById(id);
        app.canvas.openSubgraph(node.subgraph, node);
    }"""
    page.evaluate(inside, host)
    # 1.49.6 takes the value back to the inner node's when it opens a subgraph.
    planned = """() => {
        const host = app.canvas.graph.rootGraph.nodes.find((one) => one.isSubgraphNode?.());
        const { value } = host.widgets.find((one) => one.name === "steps");
        const plans = [...document.querySelectorAll("[data-lags=plan]")];
        return plans.some((one) => one.textContent.includes(`of ${value} steps`));
    }"""
    page.wait(planned, seconds=30)
