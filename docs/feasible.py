"""The pages about what nesting takes: `docs/arch/feasibility.md`, and a worklist for each architecture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from actors.commands.feasibility import HEADS, KINDS, counted, split
from actors.compare.answer import REALISM
from protocol.arch import architectures, load
from protocol.calls import Treatment
from protocol.feasibility import TREATED, Feasibility, Item, reason

FEASIBILITY = """\
# Is nesting possible on this architecture?

Made by `docs/build.py` from the call tables and from `protocol/arch/*/feasibility.py`; do not edit.
`nestbed feasibility` prints the same. Numbers of sections are those of the architecture's fact sheet
([sources](../sources.md)); the last word of each line says how real it is.

| word | what it says |
| --- | --- |
| built | somebody runs it |
| prototype | it has been shown to work |
| software | possible on machines that there are; nobody has written it |
| needs te change | not before the Trusted Entity is changed |
| hypothetical | nobody knows whether it can be built |
"""
WORKLIST = """\
# {name}: what a hypervisor writes to nest it

Made by `docs/build.py`; do not edit. `nestbed worklist {name}` prints the same, and with `--all` what is
inherited, too. A check is *inherited* where the call is issued below and the Trusted Entity there refuses it:
the hypervisor hands the answer on. Is it possible at all: [feasibility](feasibility.md).
"""
SPLIT = """\
The talk says of its prototype, about 2,000 lines in KVM for s390, how much each part took. Beside it is how
the lines of code of this project's emulation divide, `protocol/arch/{name}/nesting/`, file by file{without},
to the nearest five percent: another language, more of the architecture, and no kernel around it.
"""


def said() -> dict[str, Feasibility]:
    """What the slices say, those that say something."""
    found = {name: getattr(load(name), "feasibility", None) for name in architectures()}
    return {name: one for name, one in found.items() if one is not None}


# -- feasibility.md ----------------------------------------------------------------------------------------


def feasibility() -> str:
    """All architectures side by side, then each."""
    return "\n".join(_feasibility(list(said().values()))) + "\n"


def _feasibility(all_of: Sequence[Feasibility]) -> Iterator[str]:
    yield FEASIBILITY
    yield "## Side by side"
    yield ""
    yield from _table(
        ("", *(one.name for one in all_of)),
        [
            ("how real nesting is", *(_words(one.realism) for one in all_of)),
            ("calls", *(len(one.calls) for one in all_of)),
            *((f"... {how}", *(len(one.treated(how)) for one in all_of)) for how in TREATED),
            ("features fenced off", *(len(one.fences) for one in all_of)),
            ("requirements", *(len(one.requirements) for one in all_of)),
            ("... not met today", *(sum(not need.met for need in one.requirements) for one in all_of)),
            ("tables to keep", *(len(one.tables) for one in all_of)),
        ],
    )
    for one in all_of:
        yield from _architecture(one)


def _architecture(one: Feasibility) -> Iterator[str]:
    remark = f" ({one.remark})" if one.remark else ""
    yield f"## {one.name}: {REALISM[str(one.realism)]}{remark}"
    yield ""
    for how in TREATED:
        if one.treated(how):
            yield from _treated(one, how)
    yield "### Must be fenced off"
    yield ""
    yield from _table(
        ("what", "why", "instead", "section", "how real"),
        [(f.what, f.why, f.instead, f.source, _words(f.realism)) for f in one.fences],
    )
    yield "### Has to be provided"
    yield ""
    yield from _table(
        ("by", "what", "why", "met by", "section", "how real"),
        [
            (n.of, n.what, n.why, n.met or "**nothing known**", n.source, _words(n.realism))
            for n in one.requirements
        ],
    )
    yield "### Has to be kept"
    yield ""
    yield from _table(
        ("table", "what it keeps", "part", "here", "section", "how real"),
        [(t.name, t.keeps, t.part, f"`{t.where}`", t.source, _words(t.realism)) for t in one.tables],
    )


def _treated(one: Feasibility, how: Treatment) -> Iterator[str]:
    rows = one.treated(how)
    yield f"### {how.capitalize()}: {HEADS[str(how)]}"
    yield ""
    yield from _table(
        ("call", "why", "section", "how real"),
        [(f"`{row.name}`", reason(row), row.source, _words(one.realism_of(row))) for row in rows],
    )


# -- NAME-worklist.md --------------------------------------------------------------------------------------


def worklist(one: Feasibility) -> str:
    """The plan of one architecture."""
    return "\n".join(_worklist(one)) + "\n"


def _worklist(one: Feasibility) -> Iterator[str]:
    items = list(one.worklist())
    yield WORKLIST.format(name=one.name)
    yield "## How much"
    yield ""
    yield from _table(
        ("", "to write", "inherited"),
        [(KINDS[kind], own, inherited) for kind, (own, inherited) in counted(items).items()],
    )
    without = "".join(f", without `{name}`" for name in sorted(one.speed_ups))
    yield SPLIT.format(name=one.name, without=without)
    yield from _table(
        ("part", "talk", "here"),
        [(part, f"{talk} %", f"{5 * round(percent / 5)} %") for part, talk, _, percent in split(one)],
    )
    yield "## The plan"
    yield ""
    yield from _plan(items)


def _plan(items: Iterable[Item]) -> Iterator[str]:
    for call, mine in groupby(items, key=lambda item: item.call):
        whole = list(mine)
        own = [item for item in whole if item.own]
        if not own:
            continue
        yield f"### {call or 'Tables'}"
        yield ""
        yield f"Section {own[0].source}; {_words(own[0].realism)}; {len(whole) - len(own)} inherited."
        yield ""
        yield from (f"- {item.kind}: {item.text}" for item in own)
        yield ""


def _words(realism: object) -> str:
    return str(realism).replace("_", " ")


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for row in rows:
        yield f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |"
    yield ""
