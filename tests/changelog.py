"""The newest entry of CHANGELOG.md for the registry: prints a line for the file of GITHUB_ENV.

`comfy node publish` takes what stands in COMFY_NODE_CHANGELOG as the text of the version.
"""

from __future__ import annotations

import re
from pathlib import Path

VARIABLE, END = "COMFY_NODE_CHANGELOG", "END_OF_CHANGELOG"


def newest(changelog: str) -> str:
    """What stands below the first heading of a version, up to the next.

    Raises:
        ValueError: there is none, or nothing stands below it.
    """
    entries = re.split(r"^## .*$", changelog, flags=re.MULTILINE)
    if len(entries) < 2 or not entries[1].strip():
        raise ValueError("CHANGELOG.md has no entry below its first '## [x.y.z] - date'.")
    return entries[1].strip()


def variable(text: str) -> str:
    """A variable of several lines, as GITHUB_ENV takes it."""
    if END in text.splitlines():
        raise ValueError(f"A line of CHANGELOG.md is {END!r}, which ends the variable: reword it.")
    return f"{VARIABLE}<<{END}\n{text}\n{END}"


if __name__ == "__main__":
    path = Path(__file__).resolve().parents[1] / "CHANGELOG.md"
    print(variable(newest(path.read_text("utf-8"))))
