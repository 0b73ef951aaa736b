"""(h) Features that a guest host is not offered: which, why, and what it sees instead."""

from __future__ import annotations

from actors.answers import runs as r
from actors.answers.page import Grid, Page


def fences() -> Page:
    """The page."""
    parts, counts = [], []
    for arch in r.arches():
        fenced = r.fences(arch)
        counts.append(f"{arch} {len(fenced)}")
        rows = [(each.what, each.why, each.instead, str(each.realism).replace("_", " ")) for each in fenced]
        parts.append(
            Grid((f"{arch}: not offered", "because", "it costs the guest host: it sees", "how real"), rows)
        )
    return Page(
        "h",
        "Which features have to be fenced off?",
        (
            "**Few, and a guest host can tell each by asking.** "
            + ", ".join(counts)
            + ". What cannot be nested is "
            "not offered, and asking for it all the same gets the architecture's own answer for a "
            "machine without it.",
            "None of them costs time where it is not used. What they cost is what a guest can no longer "
            "do: each line says what it gets instead.",
        ),
        parts,
        ("Nothing is run for this page: it is made from the lists that `nestbed feasibility` prints.",),
        (),
    )
