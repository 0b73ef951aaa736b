"""A folded tree as a Mermaid sequence diagram, which code hosts and many editors draw."""

from __future__ import annotations

import re
from collections.abc import Iterator

from protocol.trace.fold import Row
from protocol.trace.text import reasons


def diagram(root: Row) -> str:
    """The diagram: an arrow for each message, one back for its answer, repetitions in a box."""
    parties = list(dict.fromkeys(row.who for _, row in root.walk()))
    names = {who: f"p{number}" for number, who in enumerate(parties)}
    head = ["sequenceDiagram", *(f"    participant {names[who]} as {_safe(who)}" for who in parties)]
    return "\n".join((*head, *_messages(root, names, "    "))) + "\n"


def _messages(row: Row, names: dict[str, str], indent: str) -> Iterator[str]:
    for child in row.children:
        turns, rest = divmod(child.times, row.times)  # of the loop around this one
        loop = turns > 1 or rest
        inner = f"{indent}    " if loop else indent
        if loop:
            yield f"{indent}loop {f'{child.times} times in all' if rest else f'{turns} times'}"
        treatment = " ".join(dict.fromkeys(call.treatment for call in child.calls))
        said = f"{child.what} {' '.join(call.name for call in child.calls)}".strip()
        asks, answers = names[row.who], names[child.who]
        yield f"{inner}{asks}->>+{answers}: {_safe(said)}"
        noted = "; ".join(text for text in (treatment, reasons(child)) if text)
        if noted:
            yield f"{inner}Note right of {answers}: {_safe(noted)}"
        yield from _messages(child, names, inner)
        yield f"{inner}{answers}-->>-{asks}: {_safe(child.error or 'done')}"
        if loop:
            yield f"{indent}end"


def _safe(text: str) -> str:
    """Without what Mermaid reads as its own."""
    return re.sub(r"[^\w .,:=+/()-]", " ", text)
