"""The page's own search finds our nodes by the words that people know."""

from __future__ import annotations

import pytest

WORDS = {
    "ksampler": "KSampler (LAGS)",
    "pickscore": "Load Weight Function",
    "hps": "Load Weight Function",
    "reward": "Load Weight Function",
    "preference": "Load Weight Function",
    "aesthetic": "Load Weight Function",
    "best of n": "Search KSampler",
    "particle": "Particle KSampler",
    "guidance": "LAGS Guidance",
    "dps": "Method: DPS",
    "freedom": "Method: FreeDoM",
    "color": "Weight: colour",
    "美学评分": "Score Images",
    "奖励模型": "Load Weight Function",
    "粒子": "Particle KSampler",
}
TYPING = "() => document.activeElement?.tagName === 'INPUT'"
OFFERED = """() => [...document.querySelectorAll("[role=option]")].map(
    (one) => one.innerText.split("\\n")[0].trim())"""


def test_search_knows_the_words(another_page, server):
    if "search_aliases" not in server.object_info()["LAGSKSampler"]:
        pytest.skip("this ComfyUI's nodes have no words to be found by")
    another_page.clear()
    another_page.settle()
    another_page.double_click(700, 500)
    another_page.wait(TYPING)
    missed = {}
    for word, title in WORDS.items():
        another_page.press("Control+A")
        another_page.type(word)
        try:
            another_page.wait(f"(title) => ({OFFERED})().includes(title)", title, seconds=10)
        except RuntimeError:
            missed[word] = another_page.evaluate(OFFERED)[:8]
    assert missed == {}
