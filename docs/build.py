"""Build the documents that are made from tables: `./x docs`. A test says that they match.

docs/build.py              write docs/arch/s390.md
docs/build.py --check      say whether it is up to date, and write nothing
docs/build.py --measure    first run the conformance suite and write down which test provokes which check
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from tempfile import TemporaryDirectory

from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.coverage import COVERED
from protocol.arch.s390.explain import EXPLAINER, GENERAL
from protocol.arch.s390.layouts import LAYOUTS
from protocol.arch.s390.machine.entities import ConfigState, CpuState, PageState
from protocol.arch.s390.profiles import PROFILES
from protocol.calls import Basis, CallSpec, Category, less_emulation_higher_up
from protocol.explain import Meaning, hexadecimal, of_call

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "arch" / "s390.md"
RECORD = ROOT / "protocol" / "arch" / "s390" / "coverage.py"
NOT = ("depth1", "depth2", "random", "any_request", "explain", "same_at_every_depth", "process")
SUITE = ("tests/conformance", "-k", " and not ".join(("s390", *NOT)))
TESTS = 3  # named for each check
CATEGORIES = {
    Category.INIT: "The Ultravisor itself",
    Category.VM: "Configurations",
    Category.VCPU: "Secure CPUs",
    Category.MEMORY: "Pages",
    Category.LIFECYCLE: "States, resets, dumps",
    Category.GUEST: "Calls of the guest",
}


HEAD = """\
# s390: the calls of the Ultravisor

Made from `protocol/arch/s390/calls.py` by `docs/build.py`; do not edit. What it follows and what it leaves
out stands in `protocol/arch/s390/README.md`; images: [s390-image](s390-image.md), evidence:
[s390-attestation](s390-attestation.md). `nestbed calls s390` prints the same table, `nestbed explain s390
CALL:RC` one code of it. Numbers of sections are those of the fact sheet that the code names; a rule's
basis is *source* (read in one), *inferred* from one, or a *guess*.
"""
OVERVIEW = """\
## All of them

{calls} calls; profile `talk2022` has those of the talk, without {later}.

Share of emulated calls by category, from the start of the machine upwards: {shares}.
"""
FRONT = """\
## What every call checks first

In this order, before anything that is a call's own; the first that fails decides. The first three are
exceptions on the issuing CPU and leave the block as it was: problem state (0x02), an immediate operand
(0x06), a block that cannot be accessed as a whole (DAT exceptions, 0x05, 0x3D). Then come codes:
"""
CONDITIONS = """
Condition code 0 comes with 0x0001 alone, 1 with every other code; 2 (another call holds what this one needs)
comes with none, and the block stays as it was.
"""
STATES = """\
## States

Sections 5.1 to 5.5. The names are this emulator's, the transitions are sourced; codes of a wrong order inside
a configuration are guesses, as the tables above say.

- **The Ultravisor**: not initialised, until `init`; ready, until a reset of the host. No call undoes it.
- **A configuration**: {configs}. `create_config`, `set_params`, the first `unpack`, `verify`, `cpu_set_state`
  to start; then for a reset: every CPU stopped, `unshare_all`, `prepare_reset`, a reset of every CPU,
  `cpu_set_state` with a PSW to load. `destroy_config` is legal in each of them once its CPUs are gone. A dump
  is a mark beside the state: SIE is refused while it is there.
- **A secure CPU**: {cpus}; created stopped. It leaves check-stop by a reset alone.
- **A page of the host**: {pages}. Import (`convert_to_secure`, `unpack`) makes a normal page secure, or moves
  a shared one of another guest; `share`, `unshare` and `pin`, `unpin` go between secure, shared and pinned;
  export (`convert_from_secure`) and `destroy_storage` make it normal; donations end with their owner.
"""
REPORT = """\
## Conformance report

{covered} of {checks} checks are provoked by a test of the conformance suite, which runs at depth 0, 1 and 2;
{source} of them stand on a source, {inferred} are inferred, {guess} are guesses. That a test provokes a check
was measured at depth 0 (`docs/build.py --measure`), and a slow test measures the named ones again. A test
that provokes a check asserts something about the answer; how much is for a reader to judge. Tests are those
of `tests/conformance/`, at most three for each check, those first that provoke least besides.
"""


# -- the document ------------------------------------------------------------------------------------------


def document() -> str:
    """docs/arch/s390.md, out of the call table and the record of the conformance suite."""
    return "\n".join(_document()) + "\n"


def _document() -> Iterator[str]:
    rows = list(CALLS.values())
    yield HEAD
    yield from _overview(rows)
    yield from _front()
    for category in Category:
        mine = [row for row in rows if row.category is category]
        if mine:
            yield f"## {CATEGORIES[category]}"
            yield ""
            for row in mine:
                yield from _call(row)
    yield STATES.format(configs=_names(ConfigState), cpus=_names(CpuState), pages=_names(PageState))
    yield from _report(rows)


def _names(states: type[IntEnum]) -> str:
    return ", ".join(state.name.lower().replace("_", " ") for state in states)


def _overview(rows: list[CallSpec]) -> Iterator[str]:
    shares = ", ".join(f"{category} {share:.0%}" for category, share in less_emulation_higher_up(rows))
    later = ", ".join(map(hexadecimal, sorted(PROFILES["talk2022"].absent)))
    yield OVERVIEW.format(calls=len(rows), later=later, shares=shares)
    yield "| code | call | issued by | category | treatment | block | donates | basis |"
    yield "| --- | --- | --- | --- | --- | ---: | --- | --- |"
    for row in rows:
        who = "host, guest" if row.issuer == "both" else str(row.issuer)
        donates = ", ".join(dict.fromkeys(str(area.donation) for area in row.donated)) or "-"
        link = f"[{row.name}](#{_anchor(row)})"
        cells = (
            hexadecimal(row.code),
            link,
            who,
            row.category,
            row.treatment,
            f"{row.length:#x}",
            donates,
            row.basis,
        )
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""


def _anchor(row: CallSpec) -> str:
    return f"{hexadecimal(row.code)}-{row.name}".lower()


def _front() -> Iterator[str]:
    yield FRONT
    yield "| code | meaning | place | tests |"
    yield "| --- | --- | --- | --- |"
    for one in GENERAL:
        if one.place:
            (known,) = EXPLAINER.general(one.code, None)
            yield f"| {hexadecimal(one.code)} | {one.text} | {one.place} | {_tests(known.tests)} |"
    yield CONDITIONS


def _call(row: CallSpec) -> Iterator[str]:
    yield f"### {hexadecimal(row.code)} {row.name}"
    yield ""
    yield f"{row.title}; section {row.source}; basis of the row: {row.basis}."
    yield ""
    order = re.match(r"order: (.*?)\. (?=\S)", row.why)
    why = row.why.removeprefix(order[0]) if order else row.why.removeprefix("order: ")
    yield f"- **Nested**: {row.treatment}; {why[0].lower()}{why[1:]}."
    if row.states == "ready":
        state = "the Ultravisor is initialised"
    else:
        state = "always, before the Ultravisor is initialised, too"
    yield f"- **Legal when**: {state if row.for_host() else 'the guest runs'}."
    for area in row.donated:
        yield f"- **Donates** `{area.field}`, as long as the query's `{area.size}`: {area.donation}."
    if row.checks:
        changed = "nothing" if row.on_error == "nothing" else row.on_error
        yield f"- **A call that fails changes**: {changed}."
    if order:
        yield f"- **Order of the checks**: {order[1]}."
    yield ""
    if LAYOUTS[row.name]:
        yield "| offset | bytes | field | what |"
        yield "| --- | ---: | --- | --- |"
        for field in LAYOUTS[row.name]:
            text = f"{field.kind}{'; ' + field.text if field.text else ''}{'; written' if field.out else ''}"
            yield f"| {field.at:#05x} | {field.width} | `{field.name}` | {text} |"
        yield ""
    meanings = list(of_call(row, EXPLAINER))
    if meanings:
        yield "| | rc | rrc | when | basis |"
        yield "| ---: | --- | --- | --- | --- |"
        yield from _checks(meanings)
        yield ""
    notes = dict.fromkeys(note for one in meanings if one.given for note in one.notes)
    for note in notes:
        codes = [one for one in meanings if note in one.notes]
        which = "any error" if len(codes) == len([one for one in meanings if one.given]) else _codes(codes)
        yield f"- On {which}: {note}."
    if notes:
        yield ""


def _checks(meanings: Iterable[Meaning]) -> Iterator[str]:
    for number, one in enumerate(meanings, 1):
        reason = "" if one.reason is None else hexadecimal(one.reason)
        if one.given:
            yield f"| {number} | {hexadecimal(one.code)} | {reason} | {one.text} | {one.basis} |"
        else:
            text = f"{one.text}: never given here ({one.notes[0]})"
            yield f"| | {hexadecimal(one.code)} | {reason} | {text} | {one.basis} |"


def _codes(meanings: Iterable[Meaning]) -> str:
    return ", ".join(dict.fromkeys(hexadecimal(one.code) for one in meanings))


def _report(rows: list[CallSpec]) -> Iterator[str]:
    checks = [(row, at) for row in rows for at in range(len(row.checks))]
    covered = [place for place in checks if COVERED.get((place[0].name, place[1]))]
    bases = Counter(row.checks[at].basis for row, at in checks)
    yield REPORT.format(
        covered=len(covered), checks=len(checks), **{str(basis): bases[basis] for basis in Basis}
    )
    yield "| call | rc | rrc | check | tests |"
    yield "| --- | --- | --- | --- | --- |"
    for row, at in checks:
        check = row.checks[at]
        reason = hexadecimal(check.reason) if check.reason else ""
        tests = _tests(COVERED.get((row.name, at), ()))
        yield f"| {row.name} | {hexadecimal(check.code)} | {reason} | {check.text} | {tests or 'none'} |"


def _tests(names: Iterable[str]) -> str:
    return "<br>".join(f"`{name.removeprefix('tests/conformance/')}`" for name in names)


# -- the record --------------------------------------------------------------------------------------------


def measure(where: Iterable[str] = SUITE) -> dict[str, list[tuple[str, int, int]]]:
    """Run tests with the recorder: what each of them provoked, as (call, place of the check, rc)."""
    with TemporaryDirectory() as folder:
        into = Path(folder) / "record.json"
        path = os.pathsep.join((str(ROOT / "tests" / "conformance"), os.environ.get("PYTHONPATH", "")))
        environment = os.environ | {"PYTHONPATH": path, "NESTBED_RECORD": str(into)}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "s390_recorder", *where]
        ran = subprocess.run(  # noqa: S603 - the arguments are this module's own
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if ran.returncode:
            raise SystemExit(f"the suite did not pass:\n{ran.stdout[-4000:]}{ran.stderr[-4000:]}")
        found: dict[str, list[tuple[str, int, int]]] = json.loads(into.read_text())
        return found


def record(found: Mapping[str, Iterable[Iterable[object]]]) -> str:
    """The text of coverage.py: for each check the tests that provoke it, those that provoke least besides."""
    tests: dict[str, set[tuple[object, ...]]] = defaultdict(set)
    for test, provoked in found.items():
        tests[re.sub(r"\[.*", "", test)] |= {tuple(each) for each in provoked}
    checks: dict[tuple[str, int], list[str]] = defaultdict(list)
    general: dict[int, list[str]] = defaultdict(list)
    for test in sorted(tests, key=lambda test: (len(tests[test]), test)):
        for call, place, rc in sorted(tests[test], key=str):
            kept = checks[str(call), int(str(place))] if place != -1 else general[int(str(rc))]
            if test not in kept and len(kept) < TESTS:
                kept.append(test)
    named = sorted({test for kept in (*checks.values(), *general.values()) for test in kept})
    place_of = {test: number for number, test in enumerate(named)}
    lines = [
        '"""Which test provokes which check: made by `docs/build.py --measure`, do not edit."""',
        "",
        "from __future__ import annotations",
        "",
        "TESTS = (",
        *(f'    "{test}",' for test in named),
        ")",
        "# (call, place of the check in its row) -> tests, the most specific first",
        "_COVERED = {",
        *(_entry(repr(key).replace("'", '"'), checks[key], place_of) for key in sorted(checks)),
        "}",
        "# code of a check that every call makes -> tests",
        "_GENERAL = {",
        *(_entry(f"{rc:#06x}", general[rc], place_of) for rc in sorted(general) if rc),
        "}",
        "COVERED = {key: tuple(TESTS[number] for number in tests) for key, tests in _COVERED.items()}",
        "GENERAL_COVERED = {rc: tuple(TESTS[number] for number in tests) for rc, tests in _GENERAL.items()}",
    ]
    return "\n".join(lines) + "\n"


def _entry(key: str, tests: Iterable[str], place_of: Mapping[str, int]) -> str:
    numbers = [str(place_of[test]) for test in tests]
    return f"    {key}: ({', '.join(numbers)}{',' if len(numbers) == 1 else ''}),"


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--measure", action="store_true")
    given = parser.parse_args()
    if given.measure:
        RECORD.write_text(record(measure()))
        return 0
    if given.check:
        if DOCUMENT.read_text() != document():
            sys.stderr.write(f"{DOCUMENT.relative_to(ROOT)} is not up to date: ./x docs\n")
            return 1
        return 0
    DOCUMENT.write_text(document())
    return 0


if __name__ == "__main__":
    sys.exit(main())
