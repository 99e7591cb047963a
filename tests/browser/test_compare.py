"""Compare on the page: the picture, its full size, and what a stopped sweep has finished."""

from __future__ import annotations

import itertools

import pytest

SEEDS = itertools.count(9000)  # so that nothing is cached
SAMPLER, SWEEP, COMPARE = "LAGSKSampler", "LAGSSweep", "LAGSCompare"
NODE = """(kind) => {
    const node = app.canvas.graph._nodes.find((one) => one.type === kind);
    return node && { id: node.id, height: node.size[1] };
}"""
IMAGES = """() => [...document.querySelectorAll("[data-lags=compare] img")].map(
    (one) => [one.naturalWidth, one.naturalHeight])"""


@pytest.fixture
def sweep(page, read_workflow):
    """The demo's sweep, shortened: plain and three strengths on one seed, two images of each."""
    page.load(read_workflow("sweep_demo"))
    page.dial(id_of(page, "LAGSDemoTextModel"), "batch_size", 2)
    page.dial(id_of(page, SAMPLER), "steps", 2)
    page.dial(id_of(page, SWEEP), "seeds", str(next(SEEDS)))
    return page


def id_of(page, kind):
    return page.evaluate(NODE, kind)["id"]


def test_a_click_shows_the_picture_at_full_size(sweep, server):
    compare = id_of(sweep, COMPARE)
    (drawn,) = server.wait(sweep.run())["outputs"][str(compare)]["lags_compare"]
    sweep.wait(f"() => ({IMAGES})().every(([width]) => width > 0)")
    assert sweep.evaluate(IMAGES) == [[drawn["width"], drawn["height"]]]
    sweep.evaluate("() => document.querySelector('[data-lags=compare] button').click()")
    sweep.wait("() => document.querySelector('dialog.lags-enlarged img')?.naturalWidth > 0")
    shown = sweep.evaluate("() => document.querySelector('dialog.lags-enlarged img').clientWidth")
    assert shown == drawn["width"]
    assert sweep.evaluate("() => document.querySelector('dialog.lags-enlarged').ariaLabel")
    pressed = "document.activeElement.closest('dialog.lags-enlarged button')"
    sweep.evaluate(f"() => {pressed}.click()")  # it has the focus, so Enter presses it
    sweep.wait("() => !document.querySelector('dialog.lags-enlarged')")


def test_a_stopped_sweep_shows_what_is_finished_and_goes_on(sweep, server):
    sampler = id_of(sweep, SAMPLER)
    sweep.dial(sampler, "steps", 30)  # a page that draws seldom hears of them late
    sweep.queue()
    # lags.start comes of guided runs only: at the second one two runs are finished.
    started = "() => heard.filter(([name]) => name === 'lags.start').length > 1"
    sweep.wait(started)
    sweep.evaluate("async () => { await app.api.interrupt(null); }")
    sweep.wait("() => heard.some(([name]) => name === 'execution_interrupted')")
    cards = "() => [...document.querySelectorAll('[data-lags=compare] figcaption')]"
    labels = f"() => ({cards})().map((one) => one.textContent)"
    sweep.wait(f"() => ({cards})().length >= 4")
    said = ["plain", "plain, image 2", "strength 1", "strength 1, image 2"]
    assert sweep.evaluate(labels)[:4] == said
    sweep.wait(f"() => ({IMAGES})().every(([width]) => width > 0)")
    count = len(sweep.evaluate(labels)) // 2
    entry = server.wait(sweep.run())
    assert entry["status"]["status_str"] == "success"
    again = [one for one in sweep.heard("lags.start") if one["node"] == str(sampler)]
    assert len(again) == 4 - count, "the finished ones are not run again"
    assert sweep.evaluate(labels) == [], "the picture is in their place"
