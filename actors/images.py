"""The image that the guests of a scenario boot."""

from __future__ import annotations

from typing import Any

from protocol.plan.scenario import Scenario


def image_of(comparison: Any, scenario: Scenario, data: bytes | None) -> Any:
    """Of a file's bytes, or made from the seed; of a guest that will prove what it is, if it is to."""
    image = comparison.image(scenario.seed, scenario.guest.image_pages, data)
    return comparison.proving(image) if scenario.run.attestations else image
