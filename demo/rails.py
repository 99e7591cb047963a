"""Wires of a workflow that a person can follow: around the nodes, on rails that a net shares.

``straightened`` makes room between the columns and the rows of a graph where wires have to turn,
finds a way for every net (an output and all that it goes to) on a grid, and writes it down as the
page's own reroutes: points on a wire, which no prompt knows of. What it gives, it gives again.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise, takewhile
from typing import Any

PITCH = 20  # pixels between two wires side by side, as between two sockets
TITLE = 30  # height of a node's title, above its position
CLEAR = 10  # pixels from a node to the nearest wire; below it more, for pages that draw it taller
BELOW = 55
BULGE = 16  # how far a wire that bends swings out
STEEP, LONG = 1.2, 500  # of a wire that needs no way: its rise per run, and its run
LETTER = 13  # width of a letter in a group's title
# Costs, in steps of the grid: a bend, another's wire crossed, a step on it, a step near a node.
BEND, CROSS, BESIDE, NEAR = 5.0, 4.0, 60.0, 10.0
HASTE = 1.5  # above 1 the search looks ahead more and around less

Json = dict[str, Any]
Cell = tuple[int, int]
Way = tuple[int, int]  # the step to the next cell
Box = tuple[float, float, float, float]  # left, top, right, bottom
Link = list[Any]  # [id, origin, slot, target, slot, type]
Net = tuple[Any, int]  # a node and one of its outputs
EAST: Way = (1, 0)
WEST: Way = (-1, 0)
WAYS: tuple[Way, ...] = (EAST, WEST, (0, 1), (0, -1))


def straightened(workflow: Json) -> Json:
    """The workflow with room for its wires, and with reroutes on all that would cross a node."""
    if not tangled(workflow):
        return _with_reroutes(workflow, [], {})
    for _ in range(5):  # what has moved may need more, or less
        before = str(workflow)
        make_room(workflow)
        if str(workflow) == before:
            break
    return _with_reroutes(workflow, *Rails(workflow).reroutes())


# ---- what is drawn -----------------------------------------------------------------------------


def box_of(node: Json) -> Box:
    """A node with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, x + width, y + height


def sockets(node: Json) -> Iterator[int]:
    """The places of a node's inputs that are drawn as sockets of their own, from the top."""
    return (i for i, one in enumerate(node.get("inputs", [])) if "widget" not in one)


def output_at(node: Json, slot: int) -> tuple[float, float]:
    """Where a wire leaves a node."""
    return node["pos"][0] + node["size"][0], node["pos"][1] + PITCH * (slot + 0.7)


def input_at(node: Json, slot: int) -> tuple[float, float]:
    """Where a wire comes in; one to a widget somewhere below the sockets."""
    places = list(sockets(node))
    row = places.index(slot) if slot in places else max(len(places), len(node["outputs"])) + 1
    return node["pos"][0], node["pos"][1] + PITCH * (row + 0.7)


def spline(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    """Points of the curve that a page draws between two sockets."""
    reach = 0.25 * ((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2) ** 0.5
    xs = (start[0], start[0] + reach, end[0] - reach, end[0])
    ys = (start[1], start[1], end[1], end[1])
    points = []
    for step in range(1, 60):
        t = step / 60
        shares = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        points.append(
            (
                sum(a * b for a, b in zip(shares, xs, strict=True)),
                sum(a * b for a, b in zip(shares, ys, strict=True)),
            )
        )
    return points


def title_of(group: Json) -> Box:
    """Where a group's title stands, and what a wire needs that bends beside it."""
    x, y, *_ = group["bounding"]
    return x - CLEAR, y - BULGE, x + LETTER * len(group["title"]) + 20, y + 35


def obstacles(workflow: Json, around: float = 1, below: float = 1) -> list[Box]:
    """What no wire may cross, with so much room around nodes: above titles that of a bend."""
    boxes = [box_of(node) for node in workflow["nodes"]]
    boxes = [(x - around, y - BULGE, u + around, v + below) for x, y, u, v in boxes]
    return boxes + [title_of(group) for group in workflow["groups"]]


def ends(workflow: Json) -> dict[Any, tuple[tuple[float, float], tuple[float, float]]]:
    """Where every link starts and ends, by its id."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    return {
        number: (output_at(nodes[origin], slot), input_at(nodes[target], place))
        for number, origin, slot, target, place, _ in workflow["links"]
    }


def tangled(workflow: Json) -> list[Link]:
    """The links that need a way: they would cross a node or a title, or are steep or long."""
    boxes, places = obstacles(workflow, CLEAR, BELOW), ends(workflow)

    def is_clear(link: Link) -> bool:
        start, end = places[link[0]]
        wide, high = end[0] - start[0], abs(end[1] - start[1])
        if wide < 2 * PITCH or (high > PITCH and not high < STEEP * wide < STEEP * LONG):
            return False
        points = [(x, y) for x, y in spline(start, end) if start[0] + 12 < x < end[0] - 12]
        return not any(a < x < c and b < y < d for a, b, c, d in boxes for x, y in points)

    return [link for link in workflow["links"] if not is_clear(link)]


# ---- room --------------------------------------------------------------------------------------


def make_room(workflow: Json) -> None:
    """Move columns right and rows down until the wires that have to turn there find a place."""
    nets = defaultdict(set)  # the nets that go to a node by a way of their own
    for _, origin, slot, target, *_ in tangled(workflow):
        nets[target].add((origin, slot))
    columns = sorted({node["pos"][0] for node in workflow["nodes"]})
    for number in range(len(columns)):  # those to the right move on with each
        left = sorted({node["pos"][0] for node in workflow["nodes"]})[number]
        column = [node for node in workflow["nodes"] if node["pos"][0] == left]
        lanes = len({net for node in column for net in nets[node["id"]]})
        rights = [box_of(one)[2] for one in workflow["nodes"] if box_of(one)[2] <= left]
        if lanes and rights:
            _move(workflow, 0, left, max(rights) + PITCH * (min(lanes, 7) + 2))
    for number in range(len({group["bounding"][1] for group in workflow["groups"]})):
        top = sorted({group["bounding"][1] for group in workflow["groups"]})[number]
        inside = [node["id"] for node in workflow["nodes"] if _is_in(node, top, workflow)]
        lanes = len({net for one in inside for net in nets[one]})
        bottoms = [box_of(one)[3] for one in workflow["nodes"]]
        bottoms += [group["bounding"][1] + group["bounding"][3] for group in workflow["groups"]]
        above = [bottom for bottom in bottoms if bottom <= top]
        if lanes and above:
            _move(workflow, 1, top, max(above) + PITCH * (min(lanes, 8) + 2))


def _is_in(node: Json, top: float, workflow: Json) -> bool:
    """Whether a node is in one of the groups that begin at this height."""
    for group in workflow["groups"]:
        x, y, width, height = group["bounding"]
        if y == top and x <= node["pos"][0] <= x + width and y <= node["pos"][1] <= y + height:
            return True
    return False


def _move(workflow: Json, axis: int, start: float, least: float) -> None:
    """Move all that begins at a place, or behind it, by what it lacks to another one."""
    margin = 15 if axis == 0 else 0  # of a group, to the left of its nodes
    by = least + margin - start
    if by <= 0:
        return
    for node in workflow["nodes"]:
        node["pos"][axis] += by if node["pos"][axis] >= start else 0
    for group in workflow["groups"]:
        box = group["bounding"]
        if box[axis] >= start - 2 * margin:
            box[axis] += by
        elif box[axis] + box[2 + axis] > start:
            box[2 + axis] += by


# ---- the ways ----------------------------------------------------------------------------------


class Rails:
    """The ways of all nets on the grid."""

    def __init__(self, workflow: Json) -> None:
        self.workflow = workflow
        self.places = ends(workflow)
        self.closed = set(_cells(obstacles(workflow)))
        self.near = set(_cells(obstacles(workflow, CLEAR, BELOW)))
        # Whose wire runs through a cell, from side to side and up and down.
        self.used: tuple[dict[Cell, Net], dict[Cell, Net]] = ({}, {})
        boxes = [box_of(node) for node in workflow["nodes"]]
        sides = zip(*boxes, strict=True)
        left, top, right, bottom = (
            round(f(side) / PITCH) for f, side in zip((min, min, max, max), sides, strict=True)
        )
        self.limits = (left - 12, top - 14, right + 12, bottom + 14)

    def reroutes(self) -> tuple[list[Json], dict[Any, int]]:
        """The reroutes, and the last one of every link that has some."""
        nets: dict[Net, list[Link]] = defaultdict(list)
        for link in tangled(self.workflow):
            nets[link[1], link[2]].append(link)
        for net, links in nets.items():  # its last steps are a net's own
            for link in links:
                x, y = self.last(link)
                self.used[0].update({(x - step, y): net for step in range(2)})
        made: list[Json] = []
        lasts: dict[Any, int] = {}
        for net in sorted(nets, key=lambda net: self.length(nets[net])):
            self.lay(net, nets[net], made, lasts)
        return made, lasts

    def length(self, links: Iterable[Link]) -> float:
        """How far the farthest end of a net is."""
        found = []
        for link in links:
            (x, y), (u, v) = self.places[link[0]]
            found.append(abs(u - x) + abs(v - y))
        return max(found)

    def first(self, link: Link) -> Cell:
        """The cell beside the output that a link leaves."""
        x, y = self.places[link[0]][0]
        return int(-(-(x + CLEAR) // PITCH)), round(y / PITCH)

    def last(self, link: Link) -> Cell:
        """The cell beside the input that a link comes to."""
        x, y = self.places[link[0]][1]
        return int((x - CLEAR) // PITCH), round(y / PITCH)

    def lay(self, net: Net, links: list[Link], made: list[Json], lasts: dict[Any, int]) -> None:
        """Find a net's ways, nearest end first, and write down where they bend or part."""
        root = self.first(links[0])
        before: dict[Cell, Cell | None] = {root: None}
        depth: dict[Cell, int] = {root: 0}
        links = sorted(links, key=lambda link: self.length([link]))
        for link in links:
            path = self.way(net, before, depth, self.last(link))
            for cell, following in pairwise(path):
                before[following] = cell
                depth[following] = depth[cell] + 1
                axis = 0 if following[1] == cell[1] else 1
                for one in (cell, following):
                    self.used[axis].setdefault(one, net)
        self.write(links, before, made, lasts)

    def way(
        self, net: Net, before: dict[Cell, Cell | None], depth: dict[Cell, int], end: Cell
    ) -> list[Cell]:
        """The cheapest way from anywhere on a net's wires to a cell, the cell of parting first."""

        def far(cell: Cell) -> int:
            return abs(end[0] - cell[0]) + abs(end[1] - cell[1])

        queue: list[tuple[float, float, Cell, Way]] = []
        came: dict[tuple[Cell, Way], tuple[Cell, Way] | None] = {}
        best: dict[tuple[Cell, Way], float] = {}
        for cell, parent in before.items():
            way = EAST if parent is None else (cell[0] - parent[0], cell[1] - parent[1])
            cost = 0.25 * depth[cell]
            best[cell, way], came[cell, way] = cost, None
            queue.append((cost + HASTE * far(cell), cost, cell, way))
        heapq.heapify(queue)
        while queue:
            _, cost, cell, way = heapq.heappop(queue)
            if cost > best[cell, way]:
                continue
            if cell == end and way != WEST:
                return _without_loops(_back(came, (cell, way)))
            for turn in WAYS:
                there = (cell[0] + turn[0], cell[1] + turn[1])
                if turn == (-way[0], -way[1]) or there in before or not self.is_open(there, end):
                    continue
                to = cost + self.step(net, cell, there, turn, turn != way)
                if to < best.get((there, turn), float("inf")):
                    best[there, turn], came[there, turn] = to, (cell, way)
                    heapq.heappush(queue, (to + HASTE * far(there), to, there, turn))
        raise ValueError(f"No way leads from node {net[0]} to {end}: move the nodes apart.")

    def is_open(self, cell: Cell, end: Cell) -> bool:
        """Whether a wire may be there."""
        left, top, right, bottom = self.limits
        inside = left <= cell[0] <= right and top <= cell[1] <= bottom
        return inside and (cell not in self.closed or cell == end)

    def step(self, net: Net, cell: Cell, there: Cell, way: Way, bends: bool) -> float:
        """What one step costs."""
        along, across = self.used if way[1] == 0 else self.used[::-1]
        cost = 1.0 + BEND * bends + NEAR * (there in self.near)
        if along.get(there, net) != net:
            cost += BESIDE
        if across.get(there, net) != net:
            cost += CROSS
        if bends and (across.get(cell, net) != net or along.get(cell, net) != net):
            cost += BESIDE
        return cost

    def write(
        self,
        links: list[Link],
        before: dict[Cell, Cell | None],
        made: list[Json],
        lasts: dict[Any, int],
    ) -> None:
        """Make reroutes of the cells where a net's wires bend or part."""
        paths = {link[0]: _back(before, self.last(link)) for link in links}
        ways: dict[Cell, set[Way]] = defaultdict(set)
        for path in paths.values():
            (left, start), (right, end) = path[0], path[-1]
            for (x, y), (u, v) in pairwise([(left - 1, start), *path, (right + 1, end)]):
                ways[x, y].add((u - x, v - y))
                ways[u, v].add((u - x, v - y))
        numbers: dict[Cell, Json] = {}
        for link in links:
            (_, first), (_, last) = self.places[link[0]]
            path = paths[link[0]]
            heights = {cell: last for cell in _level(path[::-1])}
            heights |= {cell: first for cell in _level(path)}
            parent = None
            for cell in path:
                if len(ways[cell]) == 1:
                    continue
                if cell not in numbers:
                    x, y = cell[0] * PITCH, round(heights.get(cell, cell[1] * PITCH))
                    number = len(made) + 1
                    numbers[cell] = {"id": number, "pos": [x, y], "linkIds": []}
                    if parent is not None:
                        numbers[cell]["parentId"] = parent
                    made.append(numbers[cell])
                numbers[cell]["linkIds"].append(link[0])
                parent = lasts[link[0]] = numbers[cell]["id"]


def _cells(boxes: Iterable[Box]) -> Iterator[Cell]:
    """The cells inside of boxes."""
    for left, top, right, bottom in boxes:
        for x in range(int(left // PITCH), int(right // PITCH) + 2):
            for y in range(int(top // PITCH), int(bottom // PITCH) + 2):
                if left < x * PITCH < right and top < y * PITCH < bottom:
                    yield x, y


def _level(path: list[Cell]) -> Iterator[Cell]:
    """The cells at the beginning of a way that are as high as the first."""
    return takewhile(lambda cell: cell[1] == path[0][1], path)


def _back(came: Any, at: Any) -> list[Cell]:
    """A way from its beginning, of states that know what they came from."""
    path = []
    while at is not None:
        path.append(at[0] if isinstance(at[0], tuple) else at)
        at = came[at]
    return path[::-1]


def _without_loops(path: list[Cell]) -> list[Cell]:
    """A way that comes to no cell twice."""
    kept: list[Cell] = []
    for cell in path:
        if cell in kept:
            del kept[kept.index(cell) :]
        kept.append(cell)
    return kept


def _with_reroutes(workflow: Json, made: list[Json], lasts: dict[Any, int]) -> Json:
    """The workflow with these reroutes and no other."""
    extra = workflow.setdefault("extra", {})
    for key in ("reroutes", "linkExtensions"):
        extra.pop(key, None)
    if made:
        extra["reroutes"] = made
        extra["linkExtensions"] = [{"id": link, "parentId": lasts[link]} for link in sorted(lasts)]
    return workflow
