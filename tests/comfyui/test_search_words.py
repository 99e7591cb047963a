"""Every node has words to be found by, in English and Chinese, where the schema takes them."""

from __future__ import annotations

import inspect

import pytest
from comfy_api.latest import io
from lags_pack.nodes import NODES
from lags_pack.nodes.sockets import found_by

TAKES = "search_aliases" in inspect.signature(io.Schema).parameters


@pytest.mark.parametrize("node", NODES)
def test_a_node_has_words_in_both_languages(node):
    words = getattr(node.define_schema(), "search_aliases", [])
    assert len(words) == len(set(words)) and all(word == word.strip() for word in words)
    assert any(word.isascii() for word in words) == TAKES
    assert any(not word.isascii() for word in words) == TAKES


def test_an_older_schema_is_given_none(monkeypatch):
    assert found_by("a, b c") == ({"search_aliases": ["a", "b c"]} if TAKES else {})
    monkeypatch.setattr(io, "Schema", lambda node_id: None)
    assert found_by("a, b c") == {}
