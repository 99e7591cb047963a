"""Wires as the page draws them: under no node, through no title."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

# Every stroke of every wire, with the whole graph in view, and what they must not cross.
DRAWN = """async () => {
    const strokes = new Map(), plain = {}, drawing = Path2D.prototype;
    const names = ["moveTo", "lineTo", "bezierCurveTo"];
    for (const name of names) {
        plain[name] = drawing[name];
        drawing[name] = function (...given) {
            if (!strokes.has(this)) strokes.set(this, []);
            strokes.get(this).push([name, ...given]);
            return plain[name].apply(this, given);
        };
    }
    const { canvas } = app, { ds, graph } = canvas;
    const boxes = graph._nodes.map((node) => [...node.getBounding()]);
    const [left, top] = [0, 1].map((axis) => Math.min(...boxes.map((box) => box[axis])));
    const [right, bottom] = [0, 1].map((axis) =>
        Math.max(...boxes.map((box) => box[axis] + box[axis + 2])));
    const view = canvas.canvas.getBoundingClientRect();
    ds.scale = Math.min(view.width / (right - left + 600), view.height / (bottom - top + 600), 1);
    [ds.offset[0], ds.offset[1]] = [300 - left, 300 - top];
    try {
        for (let frame = 0; frame < 3; frame++) {
            await new Promise((go) => setTimeout(go, 200));
            canvas.draw(true, true);
        }
    } finally {
        for (const name of names) drawing[name] = plain[name];
    }
    const linkOf = (wire) => wire.linkIds ? graph.links.get([...wire.linkIds][0]) : wire;
    return {
        wires: [...graph.links.values(), ...graph.reroutes.values()].map((wire) => ({
            strokes: strokes.get(wire.path)?.slice(-2) ?? [],
            ends: [linkOf(wire).origin_id, wire.linkIds ? null : wire.target_id].map(String),
        })),
        nodes: graph._nodes.map((node) => {
            const drawn = document.querySelector(`[data-node-id="${node.id}"]`);
            const box = drawn?.getBoundingClientRect(), { scale, offset } = ds;
            const seen = box && [(box.x - view.x) / scale - offset[0],
                (box.y - view.y) / scale - offset[1], box.width / scale, box.height / scale];
            return [String(node.id), seen ?? [...node.getBounding()]];
        }),
        titles: graph._groups.map((group) => {
            const pen = document.createElement("canvas").getContext("2d");
            pen.font = `${group.font_size}px Inter, Arial`;
            const width = pen.measureText(group.title).width;
            return [group.title, [group._bounding[0], group._bounding[1], width, 24]];
        }),
    };
}"""
SOCKET = 24  # pixels of a wire that lie on its own nodes, at most


def points(strokes: list[list[Any]]) -> Iterator[tuple[float, float]]:
    """Points of a drawn wire, a few pixels apart."""
    for before, stroke in itertools.pairwise(strokes):
        (a, b), (u, v) = before[-2:], stroke[-2:]
        count = int((abs(u - a) + abs(v - b)) // 6) + 8
        c, d, e, f = stroke[1:5] if stroke[0] == "bezierCurveTo" else (a, b, u, v)
        for step in range(count + 1):
            t = step / count
            shares = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
            yield (
                sum(s * x for s, x in zip(shares, (a, c, e, u), strict=True)),
                sum(s * y for s, y in zip(shares, (b, d, f, v), strict=True)),
            )


def crossed(found: dict[str, Any]) -> list[tuple[Any, str]]:
    """Wires, by their ends, with the node or the title that they cross."""
    boxes = [(name, box, True) for name, box in found["nodes"]]
    boxes += [(name, box, False) for name, box in found["titles"]]
    faults = set()
    for wire in found["wires"]:
        assert wire["strokes"], wire
        for name, (x, y, width, height), is_node in boxes:
            margin = SOCKET if is_node and name in wire["ends"] else 1
            for u, v in points(wire["strokes"]):
                inside = x + margin < u < x + width - margin
                if inside and y + margin < v < y + height - margin:
                    faults.add((tuple(wire["ends"]), name))
    return sorted(faults)


def test_no_wire_runs_under_a_node_or_through_a_title(page, workflow_name, read_workflow):
    workflow = read_workflow(workflow_name)
    page.load(workflow)
    page.settle()
    found = page.evaluate(DRAWN)
    assert len(found["nodes"]) == len(workflow["nodes"])
    reroutes = len(workflow["extra"].get("reroutes", []))
    assert len(found["wires"]) == len(workflow["links"]) + reroutes
    assert crossed(found) == []


def test_titles_can_be_read_as_a_workflow_opens(page, workflow_name, read_workflow):
    page.load(read_workflow(workflow_name))
    page.settle()
    seen = "() => app.canvas.ds.scale * LiteGraph.NODE_TEXT_SIZE >= 8 && !app.canvas.low_quality"
    assert page.evaluate(seen)


def test_reroutes_survive_being_saved(page, read_workflow):
    workflow = read_workflow("methods_demo")
    page.load(workflow)
    saved = page.evaluate("() => app.graph.serialize().extra")
    for key in ("reroutes", "linkExtensions"):
        assert len(saved[key]) == len(workflow["extra"][key])
