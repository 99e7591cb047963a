"""The quickstart as an app: opened as one where the page has app mode, and as a graph elsewhere."""

from __future__ import annotations

INPUTS = "[data-testid=app-mode-widget-item]"
SHOWN = f"() => [...document.querySelectorAll('{INPUTS}')].map((one) => one.innerText)"
RESULTS = """() => [...document.querySelectorAll("[data-testid=linear-outputs] img")].length"""


def has_app_mode(page) -> bool:
    """Frontends since 1.40 at the latest; 1.35 knows no app."""
    version = page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__")
    return tuple(map(int, version.split(".")[:2])) >= (1, 40)


def test_four_inputs_and_the_images(another_page, read_workflow):
    page = another_page
    page.load(read_workflow("quickstart_app"), as_app=True)
    if has_app_mode(page):
        page.wait(f"() => document.querySelectorAll('{INPUTS}').length === 4")
        labels = [text.split("\n")[0].strip() for text in page.evaluate(SHOWN)]
        assert labels == ["prompt", "wish", "automatic strength", "seed"]
    sampler = "() => app.graph._nodes.find((one) => one.type === 'LAGSKSampler')"
    page.wait(f"() => !!({sampler})()")
    page.dial(page.evaluate(f"() => ({sampler})().id"), "steps", 6)
    page.run()
    assert [len(one["output"]["images"]) for one in page.heard("executed") if images(one)] == [4]
    if has_app_mode(page):
        page.wait(f"() => ({RESULTS})() >= 4")


def images(event: dict) -> bool:
    return "images" in (event.get("output") or {})
