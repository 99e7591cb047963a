"""Runs as the page sees them: one event per evaluation, and the whole of it at the end."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

from comfy_execution.utils import get_executing_context

from ..guidance import Message, StepRecord, Trace
from ..plots.trace import point

START, STEP, NOTICE = "lags.start", "lags.step", "lags.notice"  # events known to web/js
FINISHED = "lags.finished"
CALLS = ("model_calls", "model_backwards", "weight_calls")
_runs = count(1)


def page_server() -> Any:
    """ComfyUI's running web server; None where nodes run without one."""
    module = sys.modules.get("server")  # importing it would start parts of it
    return getattr(getattr(module, "PromptServer", None), "instance", None)


def watcher(node: str | None) -> Callable[[Trace], None] | None:
    """What tells the page of a node's run; None where there is no page.

    Args:
        node: the node's id in the graph.
    """
    server = page_server()
    if node is None or server is None:
        return None
    run, client = next(_runs), server.client_id

    def tell(trace: Trace) -> None:
        if trace.records or trace.start:
            record = trace.records[-1] if trace.records else trace.start
            body = {"index": len(trace.records) - 1, "point": shown(record)}
            event = STEP
        else:
            event, body = START, {"label": trace.label}
        server.send_sync(event, {"node": node, "run": run, **body}, client)

    return tell


def notice(message: Message) -> None:
    """Tell the user something that no error is: in the log, and on the page where there is one."""
    logging.warning("%s", message)
    server, context = page_server(), get_executing_context()
    if server is not None:
        node = None if context is None else context.node_id
        server.send_sync(NOTICE, {**message.to_json(), "node": node}, server.client_id)


def warn(trace: Trace, message: Message) -> None:
    """A notice of a run, which stays with it: on the page the node shows it as long as the run."""
    trace.notes.append(message)
    notice(message)


def shown(record: StepRecord | None) -> dict[str, Any] | None:
    """One evaluation in JSON's terms: over the batch, None where a number is not finite."""
    if record is None:
        return None
    terms = {name: float(values.mean()) for name, values in (record.terms or {}).items()}
    numbers = {**point(record), **{f"term {name}": value for name, value in terms.items()}}
    calls = {name: getattr(record, name) for name in CALLS}
    return {name: finite(value) for name, value in {**numbers, **calls}.items()}


def summary(trace: Trace) -> dict[str, Any]:
    """A whole run, for the panel of a node that has finished or was cached."""
    return {
        "label": trace.label,
        "no_sample": None if trace.no_sample is None else trace.no_sample.to_json(),
        "strengths": {name: finite(value) for name, value in trace.strengths.items()},
        "measured": list(trace.measured),
        "notes": [note.to_json() for note in trace.notes],
        "start": shown(trace.start),
        "points": [shown(record) for record in trace.records],
        **{name: getattr(trace, name) for name in CALLS},
        "seconds": trace.seconds,
    }


def finite(value: Any) -> Any:
    """A value that JSON can hold: None for a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
