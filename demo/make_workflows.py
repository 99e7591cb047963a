"""The workflows for SDXL, made from those for SD 1.5: the same drawing at another size.

Change sd15_*.json on the page, then ``python3 dev.py workflows URL --make``, and the two do not
drift apart. sd*_colour and the demo model's workflows are each saved from a page.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

MADE = (
    "pickscore",
    "hps",
    "aesthetic_pickscore",
    "frequency",
    "inpaint",
    "methods",
    "particles",
    "fairness",
    "schedule",
)
# What stands in SD 1.5's texts, notes and file names, and what in SDXL's.
TEXTS = {
    "sd15_": "sdxl_",
    "SD 1.5": "SDXL",
    "Comfy-Org/stable-diffusion-v1-5-archive/": "stabilityai/stable-diffusion-xl-base-1.0/",
    "v1-5-pruned-emaonly-fp16.safetensors": "sd_xl_base_1.0.safetensors",
    "expect 12 GB; with less, lower width and height": "at 1024 pixels expect 24 GB and more; with "
    "less, set width and height to 768",
}
NUMBERS = {"steps": 30, "cfg": 6}  # of every sampler
SIZED = {"EmptyLatentImage", "SolidMask", "MaskComposite"}  # nodes that count pixels


def make_sdxl(name: str, sd15: str) -> str:
    """The text of ``sdxl_<name>.json`` from that of ``sd15_<name>.json``."""
    for old, new in TEXTS.items():
        sd15 = sd15.replace(old, new)
    workflow = json.loads(sd15)
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"lags/sdxl_{name}"))
    for node in workflow["nodes"]:
        if node["inputs"] and node["widgets_values"]:
            values = zip(saved_widgets(node), node["widgets_values"], strict=True)
            node["widgets_values"] = [larger(node["type"], *pair) for pair in values]
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


def saved_widgets(node: dict[str, Any]) -> list[str]:
    """The names of a saved node's widgets; "" for the one that a page adds to a seed."""
    names = [socket["name"] for socket in node["inputs"] if "widget" in socket]
    if "seed" in names:
        names.insert(names.index("seed") + 1, "")
    return names


def larger(kind: str, widget: str, value: Any) -> Any:
    """SDXL's value of a widget: twice the pixels a side, half the images of a batch."""
    if kind in SIZED and widget in ("width", "height", "x", "y"):
        return 2 * value
    if widget == "batch_size":
        return max(1, value // 2)
    return NUMBERS.get(widget, value)


def write_workflows(folder: Path) -> None:
    """Write all of SDXL's, from SD 1.5's in the same folder."""
    for name in MADE:
        sd15 = (folder / f"sd15_{name}.json").read_text(encoding="utf-8")
        (folder / f"sdxl_{name}.json").write_text(make_sdxl(name, sd15), encoding="utf-8")
