"""The help pages as a user sees them: opened with the node's info button."""

from __future__ import annotations

import pytest

NODE = "LAGSKSampler"

# What a user would do again where nothing has come of it: a page that is still busy with a new
# language or graph may drop the selection, and the button with it.
OPEN = """([type, heading]) => {
    if (document.querySelector('.node-help-content h1')?.textContent === heading) return true;
    if (performance.now() < (window.helpAskedUntil ?? 0)) return false;
    const button = document.querySelector('[data-testid=info-button]');
    if (button) button.click();
    else app.canvas.selectItems(app.canvas.graph._nodes.filter((one) => one.type === type));
    window.helpAskedUntil = performance.now() + (button ? 5000 : 500);
    return false;
}"""
# A picture on its way has no width yet, one that is missing never gets any.
LOADED = """() => {
    const found = [...document.querySelectorAll('.node-help-content img')];
    return found.length > 0 && found.every((one) => one.complete && one.naturalWidth > 0);
}"""
SEEN = """() => {
    const help = document.querySelector('.node-help-content');
    return {
        sections: [...help.querySelectorAll('h2')].map((one) => one.textContent),
        inputs: [...help.querySelectorAll('li > code:first-child')].map((one) => one.textContent),
        pictures: [...help.querySelectorAll('img')].map((one) => new URL(one.src).pathname),
        links: [...help.querySelectorAll('a')].map((one) => one.href),
        raw: /\\]\\(|^\\||\\*\\*|^#/m.test(help.innerText),
    };
}"""


@pytest.fixture(scope="module")
def asked(browser, server):
    """A page of this module's own: a missing page is asked for first, which the console reports."""
    from lags_browser_chromium import Page

    made = Page(browser, server.url)
    yield made
    made.close()


@pytest.fixture(params=["en", "ja"])
def language(request, asked):
    """English, and a language that has no page of its own."""
    asked.set("Comfy.Locale", request.param)
    yield request.param
    asked.set("Comfy.Locale", "en")


def open_help(page, read_workflow, heading):
    page.load(read_workflow("colour_demo"))
    page.wait(OPEN, [NODE, heading], seconds=60)
    page.wait(LOADED, seconds=40)
    return page.evaluate(SEEN)


def test_help_opens_with_its_picture(asked, language, read_workflow):
    seen = open_help(asked, read_workflow, "KSampler (LAGS)")
    assert seen["sections"] == [
        "Inputs",
        "Outputs",
        "A worked graph",
        "When something is wrong",
        "Where it comes from",
    ]
    assert {"model", "strength", "uncertainty coefficient c"} <= set(seen["inputs"])
    assert seen["pictures"] == ["/extensions/lags/docs/images/ksampler.webp"]
    assert all(link.startswith("https://") for link in seen["links"]) and seen["links"]
    assert not seen["raw"]  # no markdown is left as it was written


def test_nothing_of_the_help_is_missing(asked):
    """Beside the first address of a page, which only translated ones have."""
    missed = [one for one in asked.complaints() if f"/docs/{NODE}/" not in one]
    assert missed == []
