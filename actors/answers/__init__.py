"""The talk's open questions, answered: each a scenario that comes with nestbed, and a page made from its run.

  page      what a page is made of: tables, sentences, the scenario behind it
  runs      runs of scenarios, each made once
  impact, pages, owners, levels, migration, strategies, spread, fleet, tracking: the questions, (a) to (k)

Nothing here reads a clock: a page is the same on every machine, so a test can hold it to its run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

from actors.answers.page import Page

QUESTIONS: Mapping[str, tuple[str, str]] = {
    "a": ("impact", "impact"),
    "b": ("pages", "pages"),
    "c": ("owner-loss", "owners"),
    "d": ("levels", "levels"),
    "e": ("migration", "migration"),
    "f": ("handles", "strategies"),
    "g": ("donations", "strategies"),
    "h": ("fences", "fences"),
    "i": ("spread", "spread"),
    "j": ("fleet", "fleet"),
    "k": ("tracking", "tracking"),
}  # letter -> name of the page, module that makes it


def page(letter: str) -> Page:
    """Run what a question needs, and make its page."""
    name, module = QUESTIONS[letter]
    make: Callable[[], Page] = getattr(import_module(f"actors.answers.{module}"), name.replace("-", "_"))
    return make()
