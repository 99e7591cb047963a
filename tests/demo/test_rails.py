"""Wires that a person can follow: around nodes and titles, each net on rails of its own."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lags_pack.demo import rails
from lags_pack.demo.make_workflows import LEAST_ZOOM, laid_out

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
Point = tuple[float, float]
every = pytest.mark.parametrize("name", NAMES)


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def drawn(workflow: dict[str, Any]) -> Iterator[tuple[list[Any], list[Point]]]:
    """Every link with its corners, from output to input."""
    extra = workflow["extra"]
    reroutes = {one["id"]: one for one in extra.get("reroutes", [])}
    lasts = {one["id"]: one["parentId"] for one in extra.get("linkExtensions", [])}
    places = rails.ends(workflow)
    for link in workflow["links"]:
        start, end = places[link[0]]
        points, at = [end], lasts.get(link[0])
        while at is not None:
            points.append(tuple(reroutes[at]["pos"]))
            at = reroutes[at].get("parentId")
        yield link, [start, *points[:0:-1], end]


def along(corners: list[Point]) -> Iterator[Point]:
    """Points of a wire, a few pixels apart."""
    if len(corners) == 2:
        yield from rails.spline(*corners)
        return
    for (x, y), (u, v) in itertools.pairwise(corners):
        count = int(max(abs(u - x), abs(v - y)) // 4) + 1
        yield from ((x + (u - x) * i / count, y + (v - y) * i / count) for i in range(count))


def crossed(workflow: dict[str, Any]) -> list[tuple[Any, str]]:
    """Links that run under a node, or through a group's title, with what they cross."""
    boxes = [(f"node {one['id']}", rails.box_of(one)) for one in workflow["nodes"]]
    boxes += [(group["title"], rails.title_of(group)) for group in workflow["groups"]]
    return [
        (link[0], name)
        for link, corners in drawn(workflow)
        for name, (left, top, right, bottom) in boxes
        if any(left < x < right and top < y < bottom for x, y in list(along(corners))[1:])
    ]


def runs(workflow: dict[str, Any]) -> Iterator[tuple[Any, int, float, float, float]]:
    """Straight runs between reroutes: the net, the axis, the rail, from and to."""
    for link, corners in drawn(workflow):
        for one, other in itertools.pairwise(corners[1:-1]):
            for axis in (0, 1):
                if one[1 - axis] == other[1 - axis]:
                    low, high = sorted((one[axis], other[axis]))
                    yield (link[1], link[2]), axis, one[1 - axis], low, high


@every
def test_no_wire_runs_under_a_node_or_through_a_title(name: str) -> None:
    assert crossed(read(name)) == []


@every
def test_no_two_nets_share_a_rail(name: str) -> None:
    found = sorted(set(runs(read(name))), key=str)
    shared = [
        (one, other)
        for one, other in itertools.combinations(found, 2)
        if one[0] != other[0] and one[1:3] == other[1:3]
        if min(one[4], other[4]) - max(one[3], other[3]) > rails.PITCH
    ]
    assert shared == []


@every
def test_reroutes_are_as_a_page_saves_them(name: str) -> None:
    workflow = read(name)
    reroutes = {one["id"]: one for one in workflow["extra"].get("reroutes", [])}
    through: dict[int, set[Any]] = {number: set() for number in reroutes}
    for one in workflow["extra"].get("linkExtensions", []):
        at = one["parentId"]
        while at is not None:
            through[at].add(one["id"])
            at = reroutes[at].get("parentId")
    assert through == {number: set(one["linkIds"]) for number, one in reroutes.items()}
    assert all(through.values())


@every
def test_nodes_lie_apart_and_titles_can_be_read(name: str) -> None:
    workflow = read(name)
    for one, other in itertools.combinations(workflow["nodes"], 2):
        (x, y, u, v), (a, b, c, d) = rails.box_of(one), rails.box_of(other)
        gap = max(max(x, a) - min(u, c), max(y, b) - min(v, d))
        assert gap >= rails.CLEAR, (one["id"], other["id"])
    assert workflow["extra"]["ds"]["scale"] >= LEAST_ZOOM


@every
def test_the_file_is_laid_out(name: str) -> None:
    text = (FOLDER / f"{name}.json").read_text("utf-8")
    assert laid_out(text) == text


# ---- a small graph -----------------------------------------------------------------------------


def node(number: int, x: float, y: float, inputs: int = 1) -> dict[str, Any]:
    sockets = [{"name": f"in{place}", "link": None} for place in range(inputs)]
    size = [200, 100]
    return {"id": number, "pos": [x, y], "size": size, "inputs": sockets, "outputs": [{}, {}]}


def graph(nodes: list[dict[str, Any]], *links: tuple[int, int, int, int]) -> dict[str, Any]:
    made = [[number, *link, "X"] for number, link in enumerate(links, 1)]
    return {"nodes": nodes, "links": made, "groups": [], "extra": {}}


def in_the_way() -> dict[str, Any]:
    """Two nets that would run under node 2, one of them to two nodes."""
    nodes = [node(1, 0, 0), node(2, 300, 0), node(3, 600, 0, 2), node(4, 600, 300)]
    return graph(nodes, (1, 0, 3, 0), (1, 1, 3, 1), (1, 0, 4, 0))


def test_wires_go_around_and_part_late() -> None:
    before = in_the_way()
    assert {1, 2} <= {link for link, _ in crossed(before)}
    after = rails.straightened(copy.deepcopy(before))
    assert crossed(after) == []
    shared = [one for one in after["extra"]["reroutes"] if set(one["linkIds"]) == {1, 3}]
    assert len(shared) >= 1
    assert rails.straightened(copy.deepcopy(after)) == after


def test_reroutes_that_nothing_needs_go() -> None:
    after = rails.straightened(in_the_way())
    after["links"] = []
    assert rails.straightened(after)["extra"] == {}


def test_columns_move_apart_where_wires_turn() -> None:
    before = graph([node(1, 0, 0), node(2, 300, 0), node(3, 520, 0)], (1, 0, 3, 0))
    after = rails.straightened(copy.deepcopy(before))
    assert [one["pos"][0] for one in after["nodes"]][:2] == [0, 300]
    assert after["nodes"][2]["pos"][0] - 500 >= 3 * rails.PITCH
    assert crossed(before) and crossed(after) == []


def test_a_node_that_is_walled_in_is_named() -> None:
    walls = [node(9, 395, 0), *(node(9 + i, 600, y) for i, y in ((1, -131), (2, 131)))]
    ring = [*walls, node(20, 805, 0)]
    for one in ring:
        one["size"] = [200, 100]
    closed = graph([node(1, 0, 0), node(5, 600, 0), *ring], (1, 0, 5, 0))
    lines = rails.Rails(closed)
    lines.closed |= {(x, y) for x in range(28, 32) for y in range(-20, 20)}
    with pytest.raises(ValueError, match="node 1 .* move the nodes apart"):
        lines.reroutes()
