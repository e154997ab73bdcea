"""Writes docs/leakage.md from protocols/catalog.py: what each role learns from each step.

python docs/leakage.py [--check]

`--check` writes nothing and fails when what is committed differs.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from tidegate.party.policy import DEFAULT_GUARDS, OF_OTHER_MEDIA
from tidegate.protocols.catalog import CATALOG, learns

PAGE = Path(__file__).with_suffix(".md")
# Settings of steps that stand in the lines, as campaigns have them that say nothing else.
DEFAULT_SETTINGS = {"iterations": 20, "starts": 4, "rounds": 20}
HEAD = """# What each step tells whom

Written by docs/leakage.py from `protocols/catalog.py`, with the default guards filled in. The same lines stand in every
contract before it is signed and in every report after it. What is not listed here is not told; what does not follow the
assumptions is on the list of non-goals in [SECURITY.md](../SECURITY.md).

"""


def page() -> str:
    figures = {**asdict(DEFAULT_GUARDS), **DEFAULT_SETTINGS}
    parts = []
    for entry in CATALOG.values():
        parts.append(f"## {entry.step}: `{entry.name}`\n\n{entry.title}.\n")
        if entry.needs:
            parts.append(f"Runs after: {', '.join(entry.needs)}.\n")
        for role in entry.learns:
            lines = "\n".join(f"- {line}" for line in learns(entry.name, role, **figures))
            parts.append(f"The {role} learns:\n\n{lines}\n")
            for setting in entry.granted:
                more = learns(entry.name, role, {setting: 1}, **figures)[len(entry.learns[role]) :]
                if more:
                    text = "\n".join(f"- {line}" for line in more)
                    parts.append(f"With `{setting}` also:\n\n{text}\n")
        parts.append("Assumed:\n\n" + "\n".join(f"- {line}" for line in entry.assumes) + "\n")
    beside = "Beside the lines of its own steps each media learns:"
    parts.append(f"## Several media in one campaign\n\n{beside}\n\n- {OF_OTHER_MEDIA}\n")
    return HEAD + "\n".join(parts)


def main(arguments: list[str]) -> int:
    fresh = page()
    if "--check" in arguments:
        if not PAGE.exists() or PAGE.read_text() != fresh:
            sys.stderr.write("docs/leakage.md is not what the catalogue says; run python docs/leakage.py\n")
            return 1
        return 0
    PAGE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
