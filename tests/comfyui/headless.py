"""What ComfyUI would tell its page of nodes, without a server: ComfyUI and the pack, imported."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def import_comfyui(root: Path, base: Path) -> None:
    """Import ComfyUI with all its nodes but those of paid services, on the CPU.

    Args:
        root: ComfyUI's folder.
        base: takes the place of ComfyUI's folders of models and outputs.
    """
    importlib.import_module(".launch", __package__).ensure_torchvision()
    sys.path.insert(0, str(root))
    importlib.import_module("comfy.options")
    args = importlib.import_module("comfy.cli_args").args
    args.cpu, args.base_directory = True, str(base)
    importlib.import_module("utils.extra_config")  # before another `utils` may be found
    nodes = importlib.import_module("nodes")
    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))


def object_info() -> dict[str, Json]:
    """The nodes that ComfyUI has imported, and the pack's, by id.

    As GET /object_info answers, and in JSON's types.
    """
    nodes = importlib.import_module("nodes")
    ours = importlib.import_module("...nodes", __package__).NODES
    found = {name: _told(name, node) for name, node in nodes.NODE_CLASS_MAPPINGS.items()}
    found |= {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in ours}
    told: dict[str, Json] = json.loads(json.dumps(found))
    return told


def _told(name: str, node: Any) -> Json:
    """What ComfyUI's server says of a node; of one of the old API, what is read of it here."""
    if hasattr(node, "GET_NODE_INFO_V1"):
        told: Json = node.GET_NODE_INFO_V1()
        return told
    return {
        "name": name,
        "input": node.INPUT_TYPES(),
        "output": node.RETURN_TYPES,
        "output_name": getattr(node, "RETURN_NAMES", node.RETURN_TYPES),
        "category": getattr(node, "CATEGORY", "sd"),
    }
