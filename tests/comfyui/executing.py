"""ComfyUI's own executor in the test's process: its cache, its handling of errors."""

from __future__ import annotations

import asyncio
import inspect
from types import SimpleNamespace
from typing import Any

import execution
import torch
from comfy_api.internal import _ComfyNodeInternal, make_locked_method_func
from lags_pack.nodes import NODES

import nodes

Prompt = dict[str, Any]


def run_node(node: type, **inputs: Any) -> tuple[Any, ...]:
    """Run a node class, of the old or the new API, as ComfyUI's executor does; its outputs."""
    with torch.inference_mode():
        if issubclass(node, _ComfyNodeInternal):
            node.VALIDATE_CLASS()
            clone = node.PREPARE_CLASS_CLONE(None)
            result = make_locked_method_func(node, node.FUNCTION, clone)(**inputs).result or ()
        else:
            result = getattr(node(), node.FUNCTION)(**inputs)
            result = result.get("result", ()) if isinstance(result, dict) else result
    return tuple(result)


class Executor:
    """Runs prompts as a server's worker does, one after the other.

    Args:
        patches: pytest's monkeypatch, which takes the pack's nodes out of ComfyUI again.

    Attributes:
        sent: the messages to the page of the last prompt, by their kind.
    """

    def __init__(self, patches: Any) -> None:
        for kind in NODES:  # as ComfyUI enters a pack's nodes
            patches.setitem(nodes.NODE_CLASS_MAPPINGS, kind.GET_SCHEMA().node_id, kind)
        server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=self._send)
        limits = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
        self._inner = execution.PromptExecutor(server, execution.CacheType.CLASSIC, limits)
        self._count = 0
        self.sent: dict[str, dict[str, Any]] = {}

    def _send(self, event: str, body: dict[str, Any], client: str | None) -> None:
        """Nobody listens."""

    def __call__(self, prompt: Prompt) -> bool:
        """Run a prompt to the end of its output nodes; whether that succeeded."""
        kinds = {key: nodes.NODE_CLASS_MAPPINGS[one["class_type"]] for key, one in prompt.items()}
        ends = [key for key, kind in kinds.items() if getattr(kind, "OUTPUT_NODE", False)]
        self._count += 1
        self._inner.execute(prompt, f"prompt {self._count}", {}, ends)
        self.sent = dict(self._inner.status_messages)
        return "execution_success" in self.sent

    def outputs(self, key: str) -> list[Any]:
        """What a node of the last prompt put out: for each output the list of its values."""
        kept = self._inner.caches.outputs.get(key)
        entry = asyncio.run(kept) if inspect.iscoroutine(kept) else kept
        found: list[Any] = entry.outputs
        return found

    @property
    def error(self) -> dict[str, Any]:
        return self.sent.get("execution_error") or self.sent["execution_interrupted"]
