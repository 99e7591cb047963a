"""The pack's own socket types; the prefix keeps them apart from other packs'."""

from __future__ import annotations

import inspect

from comfy_api.latest import io

WeightSocket = io.Custom("LAGS_WEIGHT")
MethodSocket = io.Custom("LAGS_METHOD")
OptionsSocket = io.Custom("LAGS_OPTIONS")
TraceSocket = io.Custom("LAGS_TRACE")
SweepSocket = io.Custom("LAGS_SWEEP")

CATEGORY = "sampling/weighted"


def found_by(words: str) -> dict[str, list[str]]:
    """What the page's search finds a node by, after commas; older schemas, as 0.8's, take none."""
    takes = "search_aliases" in inspect.signature(io.Schema).parameters
    return {"search_aliases": words.split(", ")} if takes else {}
