"""The ten usual mistakes, each queued: the page says what is wrong, where, and what to do."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

SAMPLER, LAST = 5, 11  # of the colour graph: its sampler, its last node; 3 is the weight
PLAIN = ["2", "4", "6", "8", "10"]  # its branch without a weight
MESSAGES = """() => [...document.querySelectorAll(
    ".p-toast-message, [data-testid=toast]")].map((one) => one.innerText)"""
PANEL = """([node, part]) => document.querySelector(
    `[data-node='${node}'] [data-lags=${part}]`).textContent"""
NOTES, SOURCE = [SAMPLER, "notes"], [SAMPLER, "source"]
ENDED = "() => heard.some(([name]) => name.startsWith('execution_'))"
TITLE = "(id) => app.canvas.graph.getNodeById(id).title"
FORGET = """() => {
    const { toast } = app.extensionManager;
    (toast.dismissAll ?? toast.removeAll).call(toast);
}"""
KEEP = """() => {
    window.kept = [];
    const keep = (event) => kept.push(...event.detail.nodes);
    app.api.addEventListener("execution_cached", keep, { once: true });
}"""


@pytest.fixture
def graph(page, open_quickstart):
    """The colour graph with few steps, its sampler in view."""
    page.evaluate(FORGET)
    open_quickstart(page, steps=4)
    page.look_at(SAMPLER)
    return page


def unplug(page, name):
    code = """([id, name]) => {
        const node = app.canvas.graph.getNodeById(id);
        node.disconnectInput(node.inputs.findIndex((one) => one.name === name));
    }"""
    page.evaluate(code, [SAMPLER, name])


def give(page, kind, name, output=0, **dials):
    """A new node on an input of the sampler, with these values of its widgets."""
    node = page.add(kind, 60, 950)
    for widget, value in dials.items():
        page.dial(node, widget.replace("__", "."), value)
    page.connect(node, output, SAMPLER, name)
    return node


def wait_for(page, code, value, *words):
    """Until a text of the page holds all these words."""
    there = f"""([value, words]) => {{
        const said = String(({code})(value));
        return words.every((word) => said.includes(word));
    }}"""
    try:
        page.wait(there, [value, list(words)], seconds=20)
    except RuntimeError:
        pytest.fail(f"{words}: {page.evaluate(code, value)}")


def refused_at(page, node, *words):
    """Queue: ComfyUI marks the node and says these words; what does not need it has run."""
    page.queue()
    page.wait(ENDED)
    assert page.heard()[-1][0] == "execution_success"
    said = page.evaluate("() => app.lastNodeErrors")
    assert set(said) == {str(node)}
    assert all(word in str(said) for word in words), said
    assert page.evaluate("(id) => app.canvas.graph.getNodeById(id).has_errors", node)
    return PLAIN


def fails_at(page, node, *words):
    """Queue: the node is marked, and a message by its title holds the words; so does its panel.

    Returns the nodes that had run.
    """
    page.queue()
    page.wait(ENDED)
    (error,) = page.heard("execution_error")
    assert error["node_id"] == str(node)
    assert str(page.evaluate("() => app.lastExecutionError.node_id")) == str(node)
    wait_for(page, MESSAGES, None, page.evaluate(TITLE, node), *words)
    if node == SAMPLER:
        wait_for(page, PANEL, SOURCE, *words)
    return error["executed"]


def runs_after(page, done, mend):
    """Once mended it runs, and nothing is lost of what the graph had done before."""
    mend()
    page.evaluate(KEEP)
    page.run()
    assert {node for node in done if int(node) <= LAST} <= set(page.evaluate("() => kept"))
    panel = page.panels()[str(SAMPLER)]
    assert panel["state"] == "done" and panel["notes"]["text"] == ""
    assert panel["source"]["text"].startswith("Noise levels")


def warned(page, *words):
    """Queue: it runs, the panel holds a warning, and so does a message by the node's title."""
    page.run()
    wait_for(page, PANEL, NOTES, *words)
    wait_for(page, MESSAGES, None, page.evaluate(TITLE, SAMPLER), *words)


def test_no_vae(graph):
    unplug(graph, "vae")
    done = refused_at(graph, SAMPLER, "Required input is missing", "vae")
    runs_after(graph, done, lambda: graph.connect(2, 3, SAMPLER, "vae"))


def test_no_weight(graph):
    unplug(graph, "weight")
    done = refused_at(graph, SAMPLER, "Required input is missing", "weight")
    runs_after(graph, done, lambda: graph.connect(3, 0, SAMPLER, "weight"))


def test_a_vae_of_another_family(graph):
    give(graph, "LAGSDemoTextModel", "vae", output=2)
    done = fails_at(graph, SAMPLER, "decodes 4 latent channels", "makes 3", "belongs to the model")
    runs_after(graph, done, lambda: graph.connect(2, 3, SAMPLER, "vae"))


def test_a_file_that_is_missing(graph):
    node = give(graph, "LAGSLoadWeight", "weight", reward="HPSv2")
    done = fails_at(graph, node, "HPSv2", "HPS_v2_compressed.pt", "https://", "weight_functions")
    runs_after(graph, done, lambda: graph.connect(3, 0, SAMPLER, "weight"))


def test_a_file_that_is_gone(graph):
    node = give(graph, "LAGSLoadWeight", "weight", reward__file="gone.safetensors")
    done = refused_at(graph, node, "reward.file", "gone.safetensors", "PickScore_v1.safetensors")
    runs_after(graph, done, lambda: graph.connect(3, 0, SAMPLER, "weight"))


def test_a_file_that_is_another(graph, server):
    """A model of another kind, small and random."""
    file = server.base / "models" / "weight_functions" / "other.safetensors"
    save_file({"layer.weight": torch.rand(3, 3)}, file)
    node = give(graph, "LAGSLoadWeight", "weight", reward__file=file.name)
    done = fails_at(graph, node, file.name, "layer.weight", "Choose the file")
    runs_after(graph, done, lambda: graph.connect(3, 0, SAMPLER, "weight"))


def test_latents_of_a_video(graph):
    size = {"width": 32, "height": 32}
    give(graph, "EmptyHunyuanLatentVideo", "latent_image", **size, length=9)
    done = fails_at(graph, SAMPLER, "(1, 16, 3, 4, 4)", "still images", "set the length to 1")
    runs_after(graph, done, lambda: graph.connect(2, 4, SAMPLER, "latent_image"))


def test_a_weight_without_a_gradient(graph):
    give(graph, "LAGSLoadWeight", "weight", reward="JPEG size")
    words = "JPEG size", "no gradient", "Particle KSampler", "Search KSampler"
    done = fails_at(graph, SAMPLER, *words)
    runs_after(graph, done, lambda: graph.connect(3, 0, SAMPLER, "weight"))


def test_strength_1000(graph):
    graph.dial(SAMPLER, "strength", 1000)
    warned(graph, "colour (hue)", "is 30,000", "5 to 100", "Lower")
    runs_after(graph, PLAIN, lambda: graph.dial(SAMPLER, "strength", 1))


def test_a_mask_of_another_shape(graph):
    mask = graph.add("SolidMask", -300, 950)
    for name, value in (("width", 64), ("height", 32)):
        graph.dial(mask, name, value)
    node = give(graph, "LAGSMaskWeight", "weight")
    graph.connect(mask, 0, node, "mask")
    graph.connect(3, 0, node, "weight")
    warned(graph, "64 x 32", "32 x 32", "stretched", "crop")
    runs_after(graph, PLAIN, lambda: graph.dial(mask, "width", 32))


def test_too_few_steps_for_the_mode(graph):
    graph.dial(SAMPLER, "mode", "fast")
    graph.dial(SAMPLER, "steps", 2)
    wait_for(graph, PANEL, NOTES, "Too few steps", "2", "balanced")  # before anything is queued
    warned(graph, "next to nothing", "2 steps", "balanced", "more steps")
    runs_after(graph, PLAIN, lambda: graph.dial(SAMPLER, "mode", "balanced"))


def test_cfg_1_beside_a_negative_prompt(page, read_workflow):
    page.load(read_workflow("quickstart_demo"))
    sampler, negative = 11, 6
    for node, name, value in ((2, "batch_size", 1), (8, "steps", 1), (sampler, "steps", 3)):
        page.dial(node, name, value)
    page.dial(sampler, "cfg", 1)
    page.look_at(sampler)
    notes = [sampler, "notes"]
    assert page.evaluate(PANEL, notes) == "", "the negative prompt is empty"
    page.dial(negative, "text", "a dog")
    for queue in (lambda: None, page.run):  # before and after
        queue()
        wait_for(page, PANEL, notes, "cfg is 1", "negative prompt", "raise cfg")
    page.dial(sampler, "cfg", 2)
    page.wait(f"(part) => ({PANEL})(part) === ''", notes)
