"""Chromium and ComfyUI's page in it, driven through Node and playwright-core."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from itertools import count
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_names = count(1)

READY = """() => window.app?.extensionManager && window.LiteGraph?.registered_node_types?.KSampler
    && window.LiteGraph.registered_node_types.LAGSKSampler && window.app.canvas?.graph"""

# What the nodes of the graph show: text in the page, or drawn on the canvas.
SHOWN = """() => {
    if (LiteGraph.vueNodesMode)
        return [...document.querySelectorAll("[data-node-id]")].flatMap(
            (one) => one.innerText.split("\\n"));
    const said = [], drawing = CanvasRenderingContext2D.prototype, plain = drawing.fillText;
    drawing.fillText = function (text, ...rest) {
        said.push(String(text));
        return plain.call(this, text, ...rest);
    };
    try { app.canvas.draw(true, true); } finally { drawing.fillText = plain; }
    return said;
}"""

# Told of everything that the tests wait for, and events of their own; before anything is queued.
LISTEN = """() => {
    window.heard = [];
    const names = ["execution_success", "execution_error", "execution_interrupted", "lags.start",
        "lags.step", "executed"];
    for (const name of names)
        app.api.addEventListener(name, (event) => heard.push([name, event.detail]));
    window.tell = (name, detail) => app.api.dispatchEvent(new CustomEvent(name, { detail }));
    window.pointOf = (log_w) => ({ sigma: 1, active: true, alpha: 0.5, log_w, low: log_w - 1,
        high: log_w + 1, ratio: 3, seconds: 0.1 });
}"""

PANELS = """() => Object.fromEntries([...document.querySelectorAll("[data-lags=panel]")].map(
(panel) => {
    const found = { ...panel.dataset };
    for (const one of panel.querySelectorAll("[data-lags]"))
        found[one.dataset.lags] = { text: one.textContent, value: one.dataset.value };
    found.width = panel.clientWidth;
    found.height = panel.clientHeight;
    found.overflow = panel.scrollHeight - panel.clientHeight;
    found.box = panel.getBoundingClientRect().toJSON();
    found.curves = [...panel.querySelectorAll("path")].map((path) => path.getAttribute("d") ?? "");
    return [panel.dataset.node, found];
}))"""


def missing() -> str:
    """Why there is no browser to drive; empty where there is one."""
    if shutil.which("node") is None:
        return "Node.js is not on PATH"
    if chromium() is None:
        return "there is no Chromium on PATH (LAGS_CHROMIUM names another)"
    if playwright() is None:
        return (
            "playwright-core was not found: `npm install playwright-core` in any folder, and set "
            "LAGS_PLAYWRIGHT to it"
        )
    return ""


def chromium() -> str | None:
    return shutil.which(os.environ.get("LAGS_CHROMIUM", "chromium"))


def playwright() -> Path | None:
    """The folder whose node_modules hold playwright-core."""
    named = os.environ.get("LAGS_PLAYWRIGHT")
    for folder in [Path(named).expanduser()] if named else [HERE, *HERE.parents]:
        if (folder / "node_modules" / "playwright-core").is_dir():
            return folder
    return None


class Chromium:
    """A Node process that holds browsers."""

    def __init__(self) -> None:
        command = ["node", str(HERE / "driver.mjs"), str(playwright()), str(chromium())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def ask(self, request: str, **given: Any) -> Any:
        """One request of driver.mjs, answered."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"request": request, **given}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"Node ended with code {self._process.wait()} at '{request}'.")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """End all browsers, then Node."""
        self._process.communicate(timeout=60)


class Page:
    SHOWN = SHOWN

    def __init__(self, browser: Chromium, url: str, **options: Any) -> None:
        self.browser, self.url, self.name = browser, url, f"page {next(_names)}"
        self._ask("open", url=url, **options)
        self._await_app()

    def _ask(self, request: str, **given: Any) -> Any:
        return self.browser.ask(request, name=self.name, **given)

    def _await_app(self) -> None:
        self.wait(READY, seconds=180)
        self.evaluate(LISTEN)

    def evaluate(self, code: str, value: Any = None) -> Any:
        """Call a function in the page; what it gives, where JSON can hold it."""
        return self._ask("evaluate", code=code, value=value)

    def wait(self, code: str, value: Any = None, seconds: float = 120) -> None:
        """Wait until a function in the page gives something true."""
        self._ask("wait", code=code, value=value, seconds=seconds)

    def reload(self) -> None:
        self._ask("reload")
        self._await_app()

    def close(self) -> None:
        self._ask("close")

    def move(self, x: float, y: float) -> None:
        self._ask("move", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        self._ask("click", x=x, y=y)

    def double_click(self, x: float, y: float) -> None:
        self._ask("doubleClick", x=x, y=y)

    def type(self, text: str) -> None:
        """Type a text into what has the keyboard."""
        self._ask("type", text=text)

    def press(self, key: str) -> None:
        """Press a key, as Playwright calls it."""
        self._ask("press", key=key)

    def wheel(self, by: float) -> None:
        self._ask("wheel", by=by)

    def screenshot(self, file: Path, clip: dict[str, float] | None = None) -> None:
        self._ask("screenshot", file=str(file), clip=clip)

    def complaints(self) -> list[str]:
        """Errors of the page's console that are this pack's, and every uncaught exception."""
        said = []
        for entry in self._ask("log"):
            # Events that come while the page still loads its extensions; ComfyUI says so once.
            if entry["text"].startswith("Unhandled message"):
                continue
            text = f"{entry['type']}: {entry['text']} ({entry['url']})"
            ours = "/extensions/lags/" in text or "lags." in entry["text"]
            if entry["type"] == "pageerror" or (entry["type"] in ("error", "warning") and ours):
                said.append(text)
        return said

    def set(self, setting: str, value: Any) -> None:
        """Change one of ComfyUI's settings."""
        code = "async ([name, value]) => { await app.extensionManager.setting.set(name, value); }"
        self.evaluate(code, [setting, value])

    def show_the_graph_alone(self) -> None:
        """Without the page's own tools on it, for an image."""
        for tool in ("Comfy.Canvas.SelectionToolbox", "Comfy.Minimap.Visible"):
            self.set(tool, False)

    def load(self, workflow: dict[str, Any], as_app: bool = False) -> None:
        """Open a workflow; takes the file's contents. An app opens as the graph that it is, too."""
        code = """async ([graph, asApp]) => {
            if (graph.extra && !asApp) delete graph.extra.linearMode;
            await app.loadGraphData(graph, true, true);
            const close = "[role=dialog] button[aria-label*=lose]";
            setTimeout(() => document.querySelectorAll(close).forEach((one) => one.click()), 500);
        }"""
        self.evaluate(code, [workflow, as_app])

    def clear(self) -> None:
        """Open an empty workflow. A graph that is only cleared hands old values on to new nodes."""
        self.load({"nodes": [], "links": [], "version": 0.4})

    def dial(self, node: int | str, name: str, value: Any) -> None:
        """Set a widget, as a user does who turns it."""
        code = """([id, name, value]) => {
            const node = app.canvas.graph.getNodeById(id);
            const widget = node.widgets.find((one) => one.name === name);
            widget.value = value;
            widget.callback?.(value, app.canvas, node);
        }"""
        self.evaluate(code, [node, name, value])

    def add(self, kind: str, x: float, y: float) -> int:
        code = """([kind, x, y]) => {
            const node = LiteGraph.createNode(kind);
            app.canvas.graph.add(node);
            node.pos = [x, y];
            return node.id;
        }"""
        return self.evaluate(code, [kind, x, y])

    def connect(self, source: int, output: int, node: int, name: str) -> None:
        """Draw a link from a node's output to another node's input of a name."""
        code = """([source, output, id, name]) => {
            const graph = app.canvas.graph, node = graph.getNodeById(id);
            const slot = node.inputs.findIndex((one) => one.name === name);
            graph.getNodeById(source).connect(output, node, slot);
        }"""
        self.evaluate(code, [source, output, node, name])

    def look_at(self, node: int | str) -> None:
        """Move the canvas so that a node is in view, and let it be drawn."""
        code = """(id) => {
            const node = app.canvas.graph.getNodeById(id);
            app.canvas.ds.scale = 1;
            app.canvas.ds.offset[0] = 500 - node.pos[0];
            app.canvas.ds.offset[1] = 100 - node.pos[1];
            app.canvas.setDirty(true, true);
        }"""
        self.evaluate(code, node)
        shown = "(id) => document.querySelector(`[data-node='${id}']`)?.clientWidth > 0"
        self.wait(shown, str(node))
        self.settle()

    def queue(self) -> None:
        """Press Run."""
        self.evaluate("async () => { heard.length = 0; await app.queuePrompt(0, 1); }")

    def queue_and_see_steps(self) -> None:
        """Press Run and wait for its third step."""
        self.queue()
        self.wait("() => heard.filter(([name]) => name === 'lags.step').length > 2")

    def run(self, seconds: float = 300) -> str:
        """Press Run and wait for the end; the prompt's id."""
        self.queue()
        self.wait("() => heard.some(([name]) => name.startsWith('execution_'))", seconds=seconds)
        ends = [end for end in self.heard() if end[0].startswith("execution_")]
        assert ends[0][0] == "execution_success", ends
        self.settle()
        return ends[0][1]["prompt_id"]

    def heard(self, name: str = "") -> list[Any]:
        """Events since the last Run; of one name, only what they carry."""
        events = self.evaluate("() => heard")
        return [detail for event, detail in events if event == name] if name else events

    def panels(self) -> dict[str, Any]:
        """What stands in the panels, by node."""
        self.settle()
        return self.evaluate(PANELS)

    def settle(self) -> None:
        """Let the page draw."""
        frames = "new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))"
        self.evaluate(f"async () => {{ await {frames}; }}")
