"""The page of an architecture's calls, `docs/arch/NAME.md`: out of its call table and of what explains it.

What no table holds is prose, in `docs/prose/NAME.py`: a `Page`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from protocol.arch import load
from protocol.calls import Basis, CallSpec, Category, less_emulation_higher_up
from protocol.explain import Explainer, Meaning, hexadecimal, of_call

# What never shows in a record of which test provokes which check: its runs at depth 0 say it all.
NOT_MEASURED = (
    *("depth1", "depth2", "random", "any_request", "explain", "same_at_every_depth", "process"),
    *("every_request", "section_nine", "console_documents"),
)
REPORT = """\
## Conformance report

{covered} of {checks} checks are provoked by a test of the conformance suite, which runs at depth 0, 1 and 2;
{source} of them stand on a source, {inferred} are inferred, {guess} are guesses. That a test provokes a check
was measured at depth 0 (`docs/build.py --measure`), and a slow test measures the named ones again. A test
that provokes a check asserts something about the answer; how much is for a reader to judge. Tests are those
of `tests/conformance/`, at most three for each check, those first that provoke least besides.
"""


@dataclass(frozen=True)
class Page:
    """What is written by hand about an architecture's calls; the rest of the page comes from tables.

    `overview` may hold `{calls}` and `{shares}`. `front` stands before the table of the codes that any call
    may answer, `front_ends` behind it. `code` and `reason` are what the architecture calls a return code and
    its second part; without `reason` there is no such column. `suite` holds the tests that are measured.
    `donated` says of an area's `{size}` what it is. `not_provoked` has the checks that no test of the suite
    can provoke, by call and place, with the reason.
    """

    arch: str
    head: str
    overview: str
    categories: Mapping[Category, str]
    states: str
    code: str
    reason: str = ""
    front: str = ""
    front_ends: str = ""
    legal: Callable[[CallSpec], str] = lambda row: row.states
    layout: Callable[[CallSpec], Iterable[str]] = lambda row: ()
    suite: Sequence[str] = ()
    donated: str = "as long as the query's `{size}`"
    not_provoked: Mapping[tuple[str, int], str] = field(default_factory=dict)

    @property
    def calls(self) -> list[CallSpec]:
        return list(load(self.arch).calls.values())

    @property
    def explainer(self) -> Explainer:
        found: Explainer = load(self.arch).explain  # type: ignore[attr-defined] # those with a page have one
        return found

    @property
    def measured(self) -> tuple[str, ...]:
        """The tests whose record says which of them provokes which check, as pytest takes them."""
        chosen = " and not ".join((self.arch, *NOT_MEASURED))
        return (*(self.suite or ("tests/conformance",)), "-k", chosen)


def written(page: Page) -> str:
    """The whole document."""
    return "\n".join(_lines(page)) + "\n"


def _lines(page: Page) -> Iterator[str]:
    rows = page.calls
    yield page.head
    yield from _overview(page, rows)
    yield from _front(page)
    for category in Category:
        mine = [row for row in rows if row.category is category]
        if mine:
            yield f"## {page.categories[category]}"
            yield ""
            for row in mine:
                yield from _call(page, row)
    yield page.states
    yield from _report(page, rows)


def _overview(page: Page, rows: Sequence[CallSpec]) -> Iterator[str]:
    shares = ", ".join(f"{category} {share:.0%}" for category, share in less_emulation_higher_up(rows))
    yield page.overview.format(calls=len(rows), shares=shares)
    blocks = any(row.length for row in rows)
    donates = any(row.donated for row in rows)
    heads = ["code", "call", "issued by", "category", "treatment"]
    marks = ["---"] * 5
    if blocks:
        heads, marks = [*heads, "block"], [*marks, "---:"]
    if donates:
        heads, marks = [*heads, "donates"], [*marks, "---"]
    yield f"| {' | '.join((*heads, 'basis'))} |"
    yield f"| {' | '.join((*marks, '---'))} |"
    for row in rows:
        who = "host, guest" if row.issuer == "both" else str(row.issuer)
        areas = ", ".join(dict.fromkeys(str(area.donation) for area in row.donated)) or "-"
        cells = [
            hexadecimal(row.code),
            f"[{row.name}](#{_anchor(row)})",
            who,
            row.category,
            row.treatment,
            *([f"{row.length:#x}"] if blocks else []),
            *([areas] if donates else []),
            row.basis,
        ]
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""


def _anchor(row: CallSpec) -> str:
    return f"{hexadecimal(row.code)}-{row.name}".lower()


def _front(page: Page) -> Iterator[str]:
    if not page.front:
        return
    yield page.front
    general = getattr(page.explainer, "general_codes", ())
    if any(one.place for one in general):
        yield "| code | meaning | place | tests |"
        yield "| --- | --- | --- | --- |"
        for one in general:
            if one.place:
                known = next(of for of in page.explainer.general(one.code, None) if of.text == one.text)
                yield f"| {_code(known)} | {one.text} | {one.place} | {_tests(known.tests)} |"
    yield page.front_ends


def _call(page: Page, row: CallSpec) -> Iterator[str]:
    yield f"### {hexadecimal(row.code)} {row.name}"
    yield ""
    yield f"{row.title}; section {row.source}; basis of the row: {row.basis}."
    yield ""
    order = re.match(r"order: (.*?)\. (?=\S)", row.why)
    why = row.why.removeprefix(order[0]) if order else row.why.removeprefix("order: ")
    yield f"- **Nested**: {row.treatment}; {why[0].lower()}{why[1:]}."
    yield f"- **Legal when**: {page.legal(row)}."
    for area in row.donated:
        size = page.donated.format(size=area.size)
        yield f"- **Donates** `{area.field}`, {size}: {area.donation}."
    if row.checks:
        yield f"- **A call that fails changes**: {row.on_error}."
    if order:
        yield f"- **Order of the checks**: {order[1]}."
    yield ""
    laid = list(page.layout(row))
    if laid:
        yield from (*laid, "")
    meanings = list(of_call(row, page.explainer))
    if meanings:
        yield from (*_checks(page, meanings), "")
    notes = dict.fromkeys(note for one in meanings if one.given for note in one.notes)
    for note in notes:
        codes = [one for one in meanings if note in one.notes]
        every = len(codes) == len([one for one in meanings if one.given])
        which = "any error" if every else ", ".join(dict.fromkeys(map(_code, codes)))
        yield f"- On {which}: {note}."
    if notes:
        yield ""


def _checks(page: Page, meanings: Iterable[Meaning]) -> Iterator[str]:
    """The checks of one call in their order, then what real firmware answers beside."""
    if page.reason:
        yield f"| | {page.code} | {page.reason} | when | basis |"
        yield "| ---: | --- | --- | --- | --- |"
    else:
        yield f"| | {page.code} | when | basis |"
        yield "| ---: | --- | --- | --- |"
    for number, one in enumerate(meanings, 1):
        codes = _codes(page, one)
        if one.given:
            yield f"| {number} | {codes} | {one.text} | {one.basis} |"
        else:
            yield f"| | {codes} | {one.text}: never given here ({one.notes[0]}) | {one.basis} |"


def _codes(page: Page, one: Meaning) -> str:
    """The cells of a code and its reason."""
    reason = hexadecimal(one.reason) if one.reason else ""
    return f"{_code(one)} | {reason}" if page.reason else _code(one)


def _code(one: Meaning) -> str:
    return one.name or hexadecimal(one.code)


def _report(page: Page, rows: Iterable[CallSpec]) -> Iterator[str]:
    checks = [(row, one) for row in rows for one in of_call(row, page.explainer) if one.given]
    bases = Counter(one.basis for _, one in checks)
    yield REPORT.format(
        covered=sum(bool(one.tests) for _, one in checks),
        checks=len(checks),
        **{str(basis): bases[basis] for basis in Basis},
    )
    reason = f" {page.reason} |" if page.reason else ""
    yield f"| call | {page.code} |{reason} check | tests |"
    yield f"| --- | --- |{' --- |' if reason else ''} --- | --- |"
    for row in rows:
        for at, one in enumerate(one for one in of_call(row, page.explainer) if one.given):
            tests = _tests(one.tests) or f"none: {page.not_provoked.get((row.name, at), 'there is none yet')}"
            yield f"| {row.name} | {_codes(page, one)} | {one.text} | {tests} |"


def _tests(names: Iterable[str]) -> str:
    return "<br>".join(f"`{name.removeprefix('tests/conformance/')}`" for name in names)
