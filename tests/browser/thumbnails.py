"""Takes the templates' thumbnails in ComfyUI's page; named by hand, for no test looks for it.

python3 dev.py test tests/browser/thumbnails.py [-k "sd15_colour or paper_demo"]

A graph is shown whole, and those of the bundled models run first. Some demos have their images
alone as a thumbnail; these are not taken here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
RUN = ("colour_demo", "combine_demo", "paper_demo", "second_pass_demo", "sweep_demo")
NAMES = RUN + tuple(sorted(path.stem for path in WORKFLOWS.glob("sd*.json")))
SCALE = 0.6  # a page draws titles from here on
MARGIN = 30
AROUND = 80  # of the page's own bars and buttons
WIDE, HIGH = 720, 900  # of a thumbnail, at most
SHOW = """([scale, margin]) => {
    const boxes = [...app.canvas.graph._nodes.map((node) => [...node.getBounding()]),
        ...app.canvas.graph._groups.map((group) => [...group._bounding]),
        ...[...app.canvas.graph.reroutes.values()].map((one) => [...one.pos, 0, 0])];
    const [left, top] = [0, 1].map((axis) => Math.min(...boxes.map((box) => box[axis])));
    const [wide, high] = [[0, left], [1, top]].map(([axis, least]) =>
        Math.max(...boxes.map((box) => box[axis] + box[axis + 2])) - least);
    app.canvas.deselectAll?.();
    document.querySelectorAll(".p-toast").forEach((one) => one.remove());
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [margin / scale - left, margin / scale - top];
    app.canvas.setDirty(true, true);
    return [wide * scale, high * scale];
}"""
LOADED = """() => app.canvas.graph._nodes.every((node) =>
    (node.imgs ?? []).every((one) => one.complete && one.naturalWidth))"""


@pytest.mark.parametrize("name", NAMES)
def test_thumbnail(name, server, browser, read_workflow, tmp_path):
    from lags_browser_chromium import Page

    workflow = read_workflow(name)
    reach = [max(node["pos"][i] + node["size"][i] for node in workflow["nodes"]) for i in (0, 1)]
    width, height = (int(SCALE * (size + 400)) + 4 * AROUND for size in reach)
    page = Page(browser, server.url, scale=1, width=width, height=height)
    page.show_the_graph_alone()
    page.load(workflow)
    if name in RUN:
        page.run(seconds=1800)
    wide, high = page.evaluate(SHOW, [SCALE, MARGIN + 2 * AROUND])
    page.evaluate("() => new Promise((go) => setTimeout(go, 2000))")
    page.wait(LOADED)
    page.settle()
    file, start = tmp_path / "graph.png", 2 * AROUND
    size = {"width": wide + 2 * MARGIN, "height": high + 2 * MARGIN}
    page.screenshot(file, {"x": start, "y": start, **size})
    page.close()
    image = Image.open(file).convert("RGB")
    image.thumbnail((WIDE, HIGH), Image.Resampling.LANCZOS)
    image.save(WORKFLOWS / f"{name}.jpg", quality=85, optimize=True)
