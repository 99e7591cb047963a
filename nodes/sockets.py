"""The pack's own socket types; the prefix keeps them apart from other packs'."""

from __future__ import annotations

from comfy_api.latest import io

WeightSocket = io.Custom("LAGS_WEIGHT")
MethodSocket = io.Custom("LAGS_METHOD")
OptionsSocket = io.Custom("LAGS_OPTIONS")
TraceSocket = io.Custom("LAGS_TRACE")
SweepSocket = io.Custom("LAGS_SWEEP")

CATEGORY = "sampling/weighted"
