"""What a comparison found, as it is printed, bundled and compared with another one.

The shapes are those of `nestbed compare --json`. A result is `{"arch", "path", "depth", "realism",
"counts", "phases", "contention", "tracking", "modelled"}`. Where a path lacks an operation its value is
None and never 0, and `"absent"`, if it is there, gives the reason by name (`{"phases.swap": "the owner
cannot reach the pages"}`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that a comparison found, or found until it was stopped."""

    results: list[Json]
    claims: list[Json] = field(default_factory=list)
    breakeven: Json = field(default_factory=dict)
    sensitivity: Json = field(default_factory=dict)  # by architecture
    model: Json = field(default_factory=dict)
    traces: list[Json] = field(default_factory=list)  # pictures of operations, if any was traced
    census: Json = field(default_factory=dict)  # by architecture: calls by category and treatment
    seeds: Json = field(default_factory=dict)  # what other seeds came to, if any was asked for
    wall: Json = field(default_factory=dict)
    stopped: bool = False


def value_of(result: Mapping[str, Any], name: str) -> int | None:
    """A count by its dotted name below the result, as in a threshold: counts.NAME or phases.PHASE.NAME.

    A count that is not there is 0, one that its path lacks is None.
    """
    kind, _, rest = name.partition(".")
    if kind == "phases":
        phase, _, rest = rest.partition(".")
        counts = result["phases"].get(phase, {})
        if counts is None:
            return None
    else:
        counts = result["counts"]
    value: int | None = counts.get(rest, 0)
    return value
