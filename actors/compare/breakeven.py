"""From where on which path is cheaper, in exits that arrive at L0. From counts alone.

Exits are what guests and guest hosts cost L0; what it does by itself, like cleaning up behind a host that is
gone, is none. So where that is the work, calls at the real Trusted Entity are compared as well.

A path costs something once and something each time. The phases of a run say how much of both: what
host_setup took, divided by the hosts, is what a host costs once; what run took, divided by the exits that
the guests made, is what an exit costs. Two such lines meet once, or never. Where an event costs more the
more of them there are, this is the average over the scenario's number of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from typing import Any

from actors.compare.outcome import Json
from actors.compare.tables import phase, reason, words

ONCE_PER_GUEST = ("create", "load", "boot", "destroy")
ONCE_PER_HOST = ("host_setup", "host_teardown")
LIFE_OF_A_GUEST = (
    "create",
    "load",
    "boot",
    "attest",
    "secret",
    "run",
    "page_change",
    "swap",
    "reset",
    "destroy",
)
OF_A_GUEST = (
    ("resets of a guest", "reset", "resets"),
    ("proofs of a guest of what it is", "attest", "attestations"),
    ("secrets that a guest hands over", "secret", "secrets"),
    ("dumps of a guest", "dump", "dumps"),
)  # what it is, its phase, how many of each guest
PATHS = ("nested", "hosted")


@dataclass(frozen=True, slots=True)
class Question:
    """How many of something, of one `per`: phases `fixed` divided by `once`, then `each` by `events`."""

    of: str
    per: str
    fixed: tuple[str, ...]
    once: int
    each: tuple[str, ...]
    events: int
    unit: str = "exits"  # a family of counts


UNITS = {"exits": "exits at L0", "te_issued": "calls at the real TE"}


@dataclass(frozen=True, slots=True)
class Line:
    """What a path costs for n events: fixed + n * each."""

    fixed: Fraction
    each: Fraction


def questions(scenario: Mapping[str, Any]) -> list[Question]:
    """What can be asked of a run of this scenario: whatever it made happen at least once."""
    hosts = scenario["l1"]["count"]
    guest, run = scenario["guest"], scenario["run"]
    guests = hosts * guest["per_l1"]
    exits = sum(kind["count"] for kind in run["exits"].values())
    touched = guest["touch_pages"] + guest["share_pages"]
    before_boot = tuple(name for name in ONCE_PER_GUEST if name != "boot")
    asked = [
        Question("guests of a host", "host", ONCE_PER_HOST, hosts, LIFE_OF_A_GUEST, guests),
        Question("exits of a guest", "guest", ONCE_PER_GUEST, guests, ("run",), guests * exits),
        Question(
            "pages that a guest touches first", "guest", before_boot, guests, ("boot",), guests * touched
        ),
        Question(
            "pages swapped out and in", "guest", ONCE_PER_GUEST, guests, ("swap",), guests * run["swap_pages"]
        ),
        Question(
            "changes of a page between shared and private",
            "guest",
            ONCE_PER_GUEST,
            guests,
            ("page_change",),
            guests * run["page_changes"],
        ),
        *(
            Question(what, "guest", ONCE_PER_GUEST, guests, (phase_of,), guests * run.get(setting, 0))
            for what, phase_of, setting in OF_A_GUEST
        ),
        *(
            Question(
                "sudden reboots of a host",
                "host",
                ONCE_PER_HOST,
                hosts,
                ("owner_reboot",),
                run["reboots"],
                unit,
            )
            for unit in UNITS
        ),
    ]
    return [question for question in asked if question.events]


def break_even(scenario: Mapping[str, Any], results: Iterable[Json]) -> Json:
    """For each architecture that ran both nested and hosted, the answer to every question."""
    found: Json = {}
    by_arch: dict[str, dict[str, Json]] = {}
    for result in results:
        by_arch.setdefault(result["arch"], {})[result["path"]] = result
    for arch, paths in by_arch.items():
        if all(path in paths for path in PATHS):
            found[arch] = [
                _answer(question, [paths[path] for path in PATHS]) for question in questions(scenario)
            ]
    return found


def _answer(question: Question, results: Sequence[Json]) -> Json:
    lacking = {
        name: f"{result['path']} has no {words(name)} ({reason(result, f'phases.{name}')})"
        for result in results
        for name in (*question.fixed, *question.each)
        if phase(name, question.unit)(result) is None
    }
    if all(name in lacking for name in question.each):
        text = f"{_asked(question)}: no comparison, {lacking[question.each[0]]}"
        return {"of": question.of, "unit": question.unit, "at": None, "text": text}
    question = replace(
        question,
        fixed=tuple(name for name in question.fixed if name not in lacking),
        each=tuple(name for name in question.each if name not in lacking),
    )
    lines = {result["path"]: _line(question, result) for result in results}
    if not any(line.each for line in lines.values()):
        text = f"{_asked(question)}: none on either path"
        return {"of": question.of, "unit": question.unit, "at": None, "text": text}
    first, then, at = cheaper(lines["nested"], lines["hosted"])
    without = "".join(f"; {why}, which is left out on both" for why in lacking.values())
    return {
        "of": question.of,
        "unit": question.unit,
        "fixed": {path: float(line.fixed) for path, line in lines.items()},
        "each": {path: float(line.each) for path, line in lines.items()},
        "first": first,
        "then": then,
        "at": at,
        "text": f"{_asked(question)}: {_verdict(first, then, at)}; {_figures(question.per, lines)}{without}",
    }


def _asked(question: Question) -> str:
    return question.of if question.unit == "exits" else f"{question.of}, in {UNITS[question.unit]}"


def _line(question: Question, result: Json) -> Line:
    def count(names: tuple[str, ...]) -> int:
        return sum(phase(name, question.unit)(result) or 0 for name in names)

    return Line(
        Fraction(count(question.fixed), question.once), Fraction(count(question.each), question.events)
    )


def cheaper(nested: Line, hosted: Line) -> tuple[str | None, str | None, int | None]:
    """Which path is cheaper at first, which one in the end, and the first number at which the latter is.

    None, None, None where both cost the same; the number is None where one of them is never dearer.
    """
    fixed, each = nested.fixed - hosted.fixed, nested.each - hosted.each
    if fixed * each >= 0:
        difference = fixed or each
        if not difference:
            return None, None, None
        always = "hosted" if difference > 0 else "nested"
        return always, always, None
    meet = -fixed / each
    first, then = ("hosted", "nested") if fixed > 0 else ("nested", "hosted")
    return first, then, floor(meet) + 1


def _verdict(first: str | None, then: str | None, at: int | None) -> str:
    if first is None:
        return "both cost the same"
    if at is None:
        return f"{first} is cheaper, however many"
    if at == 1:
        return f"{then} is cheaper from the first one on"
    return f"{first} is cheaper at first, {then} from {at:,} on"


def _figures(per: str, lines: Mapping[str, Line]) -> str:
    return ", ".join(
        f"{path} {_number(line.fixed)} for the {per} and {_number(line.each)} for each"
        for path, line in lines.items()
    )


def _number(value: Fraction) -> str:
    """A whole number as such, any other with as many digits as say something."""
    if value.denominator == 1:
        return f"{value.numerator:,}"
    return f"{float(value):,.1f}" if value >= 10 else f"{float(value):.2f}"
