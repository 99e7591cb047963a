"""Caches of other nodes on a MODEL: what guidance compares must be computed, not remembered."""

from __future__ import annotations

import logging
import math
from typing import Any

# Those of ComfyUI (EasyCache, LazyCache) and of other packs, by the names of their wrappers.
CACHES = ("easycache", "lazycache", "teacache", "deepcache", "fbcache", "magcache", "dicache")
COMFYS = CACHES[:2]  # both keep their state under the first one's name
FUNCTION = "model_function_wrapper"


def caches_on(options: dict[str, Any]) -> list[str]:
    """Names of the caches in model_options, each once."""
    wrappers = options.get("transformer_options", {}).get("wrappers", {})
    keys = {key for kind in wrappers.values() for key in kind}
    found = {name for key in keys if (name := _cache_in(str(key)))}
    if name := _function_cache(options):
        found.add(name)
    return sorted(found)


def without_caches(options: dict[str, Any]) -> dict[str, Any]:
    """model_options with which an evaluation neither reads nor writes any cache."""
    if not caches_on(options):
        return options
    transformer = options.get("transformer_options", {})
    kept = {
        kind: {key: wrapper for key, wrapper in by_key.items() if not _cache_in(str(key))}
        for kind, by_key in transformer.get("wrappers", {}).items()
    }
    transformer = {**transformer, "wrappers": kept}
    if COMFYS[0] in transformer:
        # LazyCache's wrapper is around a whole evaluation, so it is asked before these options
        # are: one that is past its last noise level lets everything through.
        state = transformer[COMFYS[0]].clone()
        state.end_t = math.inf
        transformer[COMFYS[0]] = state
    return without_other_packs({**options, "transformer_options": transformer})


def without_other_packs(options: dict[str, Any]) -> dict[str, Any]:
    """model_options without the caches that count steps, which a whole run must take or leave."""
    if not _function_cache(options):
        return options
    return {key: value for key, value in options.items() if key != FUNCTION}


def warn_of_caches(options: dict[str, Any], remedy: str) -> None:
    """Say which caches guidance bypasses, and what to do for their speed."""
    if names := caches_on(options):
        logging.warning(
            "LAGS: this model carries %s, which answers evaluations from earlier ones. %s",
            " and ".join(names),
            remedy,
        )


def _cache_in(name: str) -> str | None:
    """The cache that a name tells of."""
    plain = name.lower().replace("_", "").replace("-", "")
    return next((cache for cache in CACHES if cache in plain), None)


def _function_cache(options: dict[str, Any]) -> str | None:
    """The cache that is a model_function_wrapper, told by its names in the code."""
    function = options.get(FUNCTION)
    if function is None:
        return None
    known = function if hasattr(function, "__qualname__") else type(function)
    # Of the module only the pack's own part: a user's folder may have any name.
    module = str(known.__module__).replace("\\", "/").rsplit("custom_nodes", 1)[-1]
    return _cache_in(f"{module}.{known.__qualname__}")
