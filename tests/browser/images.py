"""Takes README's image of a graph in ComfyUI's page; named by hand, for no test looks for it.

python3 dev.py test tests/browser/images.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parents[2] / "docs"
# The quickstart without notes and scores, closer together: place and size of its nodes, by id.
PLACES = {
    2: ((0, 0), (280, 146)),
    7: ((0, 215), (280, 200)),
    5: ((370, 600), (220, 110)),
    6: ((370, 765), (220, 110)),
    8: ((660, 0), (290, 262)),
    11: ((660, 330), (290, 634)),
    9: ((1000, 0), (140, 46)),
    10: ((1000, 90), (340, 345)),
    12: ((1000, 490), (140, 46)),
    13: ((1000, 580), (340, 345)),
}
COLLAPSED = {9, 12}
LARGEST = 400_000  # bytes
SHOW = """([left, top]) => {
    app.canvas.deselectAll?.();
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [left, top];
    app.canvas.setDirty(true, true);
}"""


def closer(workflow):
    """A workflow with these nodes only, and no reroutes."""
    nodes = [one for one in workflow["nodes"] if one["id"] in PLACES]
    links = [one for one in workflow["links"] if one[1] in PLACES and one[3] in PLACES]
    kept = {one[0] for one in links}
    for node in nodes:
        node["pos"], node["size"] = PLACES[node["id"]]
        node["flags"] = {"collapsed": node["id"] in COLLAPSED}
        for one in node.get("outputs", []):
            one["links"] = [link for link in one.get("links") or [] if link in kept]
    return {**workflow, "nodes": nodes, "links": links, "groups": [], "extra": {}}


def test_the_quickstart(server, browser, read_workflow, tmp_path):
    from lags_browser_chromium import Page

    page = Page(browser, server.url, scale=1.5, width=1500, height=1300)
    page.load(closer(read_workflow("quickstart_demo")))
    page.show_the_graph_alone()
    left, top = 100, 200
    page.evaluate(SHOW, [left, top])
    page.run(seconds=900)
    page.evaluate(SHOW, [left, top])
    shown = """() => [10, 13].every((id) => app.canvas.graph.getNodeById(id).imgs
        ?.every((one) => one.complete && one.naturalWidth))"""
    page.wait(shown)
    page.settle()
    file = tmp_path / "graph.png"
    clip = {"x": left - 20, "y": top - 50, "width": 1380, "height": 1035}
    page.screenshot(file, clip)
    page.close()
    colours = Image.open(file).convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT)
    colours.save(DOCS / "graph.png", optimize=True)
    assert (DOCS / "graph.png").stat().st_size < LARGEST
