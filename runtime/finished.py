"""What the finished entries of a list have made, where the list was cut short.

ComfyUI runs a node for each entry of a list in turn and keeps nothing of it until all have run. A
run that is stopped at the eighth entry would lose seven. So the entries stay here until the node
begins a list anew: one that was cut short goes on where it was.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import comfy.model_management as mm
from comfy_execution.utils import get_executing_context

NODES = 16  # whose entries are kept
PLAIN = (str, int, float, bool, type(None))  # compared by value, all else by identity
UNKNOWN = object()  # in the place of what no reference can be made to: never the same

Made = TypeVar("Made")


@dataclass
class Entry:
    """What a node has made, and of what: by name, references that keep nothing in memory."""

    given: dict[str, Any]
    made: Any


@dataclass
class List:
    """A node's entries, and whether the last one of them failed or was interrupted."""

    entries: list[Entry] = field(default_factory=list)
    was_cut: bool = False


_lists: OrderedDict[str, List] = OrderedDict()


def in_list(
    node: str | None,
    given: dict[str, Any],
    make: Callable[[], Made],
    cut: Callable[[list[Entry]], None],
) -> Made:
    """What `make` makes of an entry; what it made before, where the list was cut short since.

    Args:
        node: the node's id in the graph; without one nothing is kept.
        given: all that `make` hangs on, by name.
        make: runs the entry.
        cut: called with the finished entries where the user stops this one.

    Returns:
        What `make` does.
    """
    context = get_executing_context()
    if node is None or context is None:
        return make()
    known = _begun(node, is_first=not context.list_index)
    for entry in known.entries:
        if _same(entry.given, given):
            made: Made = entry.made
            return made
    try:
        made = make()
    except BaseException as error:  # newer ComfyUI's interrupt is no Exception
        known.was_cut = True
        if isinstance(error, mm.InterruptProcessingException):
            cut(known.entries)
        raise
    known.entries.append(Entry(_referred(given), made))
    return made


def _begun(node: str, is_first: bool) -> List:
    """A node's entries; at the first of a list only those of one that was cut short."""
    if is_first and not _lists.get(node, List()).was_cut:
        _lists[node] = List()
    known = _lists.setdefault(node, List())
    known.was_cut = False
    _lists.move_to_end(node)
    while len(_lists) > NODES:
        _lists.popitem(last=False)
    return known


def _referred(value: Any) -> Any:
    """A value with weak references in the places of its objects; plain values stay."""
    if isinstance(value, dict):
        return {name: _referred(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_referred(one) for one in value]
    if isinstance(value, PLAIN):
        return value
    try:
        return weakref.ref(value)
    except TypeError:
        return UNKNOWN


def _same(known: Any, given: Any) -> bool:
    """Whether a value is the one referred to: ComfyUI's cache hands on the same objects."""
    if isinstance(known, dict):
        fits = isinstance(given, dict) and known.keys() == given.keys()
        return fits and all(_same(one, given[name]) for name, one in known.items())
    if isinstance(known, list):
        fits = isinstance(given, (list, tuple)) and len(known) == len(given)
        return fits and all(map(_same, known, given))
    if isinstance(known, weakref.ref):
        return given is not None and known() is given
    return type(known) is type(given) and bool(known == given)
