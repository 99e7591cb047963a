"""What the page says of a prompt that can't run, and what runs all the same."""

from __future__ import annotations

import json

UNCONNECTED = "There are no noise levels: connect a model, or SIGMAS."


def test_a_visualizer_without_noise_levels_stops_itself_only(page):
    page.clear()
    node = page.add("LAGSScheduleVisualizer", 0, 0)
    image, shown = page.add("EmptyImage", 500, 0), page.add("PreviewImage", 900, 0)
    page.connect(image, 0, shown, "images")
    page.run()
    ran = [str(one["node"]) for one in page.heard("executed")]
    assert ran == [str(shown)]
    said = json.dumps(page.evaluate("() => app.lastNodeErrors"))
    assert UNCONNECTED in said and f'"{node}": ' in said
