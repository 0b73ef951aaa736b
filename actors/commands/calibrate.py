"""`nestbed calibrate` and `nestbed predict`: the table of costs made one's own, and asked about one's own
VM.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors import exit_codes
from actors.commands.options import AsJson, complete_architecture
from actors.commands.speak import end, say, tell, tell_json

if TYPE_CHECKING:
    from protocol.cost.calibrate import Estimate
    from protocol.cost.predict import Prediction
    from protocol.cost.table import Costs

INPUT_BYTES = 16 << 20
Entries = dict[str, Mapping[str, object]]
CostsFile = Annotated[
    Path | None,
    typer.Option("--costs", metavar="FILE", help="Costs of your own, laid over the shipped table."),
]


def calibrate(
    measurements: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="PAGES, SECONDS on each line: sizes that differ.", show_default=False
        ),
    ] = None,
    slope: Annotated[
        str | None,
        typer.Option("--slope", metavar="COST", help="The cost that a page is, like s390.te_page_secure."),
    ] = None,
    intercept: Annotated[
        str | None, typer.Option("--intercept", metavar="COST", help="The cost that everything else is.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="TEXT", help="Where the measurements come from.")
    ] = None,
    here: Annotated[
        bool, typer.Option("--here", help="Measure what this machine can tell: copies, ciphers, round trips.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the overlay there, for --costs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn measurements into costs of your own: a line through pages and seconds, or times of this machine.

    The slope is what a page costs, the intercept what everything else does, both with a 95 % interval. What
    comes out is an overlay for --costs, with the source that you name.
    """
    from actors.compare.answer import duration

    if (measurements is None) != here:
        end(exit_codes.USAGE, "give a FILE of measurements, or --here")
    entries, rows = _of_here() if measurements is None else _of_file(measurements, slope, intercept, source)
    if as_json:
        tell_json({"measured": rows, "entries": entries})
    else:
        for row in rows:
            into = f"  -> {row['cost']}" if row["cost"] else ""
            value, low, high = (duration(float(str(row[name]))) for name in ("value_ns", "low_ns", "high_ns"))
            tell(f"{row['what']}: {value} ({low} to {high}){into}")
    if out is not None:
        _write(out, entries)


def _of_file(
    file: Path, slope: str | None, intercept: str | None, source: str | None
) -> tuple[Entries, list[dict[str, object]]]:
    from actors.costs import shipped
    from protocol.cost.calibrate import BadMeasurements, entry, fitted, read_points

    if slope is None and intercept is None:
        end(exit_codes.USAGE, "say what the line is: --slope GROUP.NAME, --intercept GROUP.NAME, or both")
    if source is None:
        end(exit_codes.USAGE, "say where the measurements come from: --source TEXT")
    try:
        line = fitted(read_points(_text("FILE", file)))
        wanted = {slope: line.slope, intercept: line.intercept}
        entries = {name: entry(shipped(), name, each, source) for name, each in wanted.items() if name}
    except BadMeasurements as error:
        end(exit_codes.USAGE, f"{file}: {error}")
    rows = [_row("a page", slope or "", line.slope), _row("everything else", intercept or "", line.intercept)]
    return entries, rows


def _of_here() -> tuple[Entries, list[dict[str, object]]]:
    from actors.costs import shipped
    from actors.measure_here import measured
    from protocol.cost.calibrate import entry

    found = list(measured())
    source = "measured by nestbed calibrate --here: median, 5th and 95th percentile"
    entries = {each.cost: entry(shipped(), each.cost, each.estimate, source) for each in found if each.cost}
    return entries, [_row(each.what, each.cost, each.estimate) for each in found]


def _row(what: str, cost: str, estimate: Estimate) -> dict[str, object]:
    return {
        "what": what,
        "cost": cost,
        "value_ns": estimate.value * 1e9,
        "low_ns": estimate.low * 1e9,
        "high_ns": estimate.high * 1e9,
    }


def _write(out: Path, entries: Entries) -> None:
    from actors.compare.bundle import write_text
    from protocol.cost.calibrate import overlay
    from protocol.cost.table import BadCosts

    try:
        write_text(out, overlay(entries))
    except BadCosts as error:
        end(exit_codes.USAGE, str(error))
    except OSError as error:
        end(exit_codes.ENVIRONMENT, f"--out {out}: cannot be written: {error.strerror}")
    say(f"overlay: {out} ({len(entries)} costs); use it with --costs")


def _text(what: str, file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(INPUT_BYTES + 1)
    except OSError as error:
        end(exit_codes.USAGE, f"{what} {file}: {error.strerror}")
    if len(data) > INPUT_BYTES:
        end(exit_codes.USAGE, f"{what} {file}: more than {INPUT_BYTES} bytes")
    return data.decode(errors="replace")


# -- predict -----------------------------------------------


def predict(
    profile: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="What perf kvm stat report or kvm_stat --csv said, or REASON RATE lines."
        ),
    ],
    arch: Annotated[
        str,
        typer.Option(
            "--arch",
            metavar="NAME",
            help="Architecture that it would run on.",
            autocompletion=complete_architecture,
        ),
    ],
    memory: Annotated[
        int, typer.Option("--memory", metavar="MIB", min=1, max=1 << 30, help="Memory of the VM.")
    ],
    vcpus: Annotated[
        int, typer.Option("--vcpus", metavar="N", min=1, max=4096, help="VCPUs that share the exits.")
    ] = 1,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", metavar="S", min=0.001, help="How long perf looked, which it does not say."
        ),
    ] = None,
    costs: CostsFile = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a VM of your own would lose as a secure guest, nested and hosted, from its exits and memory.

    Modelled, by the formulas and the table of costs, with range; and which assumption moves it most. Exits
    that the machine's own hypervisor answers alone are known by their reason.
    """
    from protocol.arch import kinds
    from protocol.cost.exits import BadProfile, read
    from protocol.cost.formulas import groups
    from protocol.cost.predict import predicted

    if arch not in kinds():
        end(exit_codes.USAGE, f"--arch {arch}: no such architecture; there are: {', '.join(kinds())}")
    try:
        found = read(_text("FILE", profile), seconds)
    except BadProfile as error:
        end(exit_codes.USAGE, f"{profile}: {error}" + (" (--seconds)" if "seconds" in str(error) else ""))
    said = predicted(_costs(costs), groups().get(arch, arch), found, memory << 20, vcpus)
    if as_json:
        about = {"form": found.form, "exits_per_s": found.total, "own_share": found.own_share}
        tell_json({"arch": arch, "profile": about, **said.as_dict()})
        return
    tell(*_sentences(arch, found.total, found.own_share, found.form, vcpus, said))


def _sentences(arch: str, total: float, own: float, form: str, vcpus: int, said: Prediction) -> list[str]:
    first = (
        f"{arch}: {total:,.0f} exits/s ({form}) on {vcpus} VCPUs, {own:.0%} of them answered by the "
        "machine's own hypervisor alone"
    )
    lines = [first]
    for path, (value, low, high) in said.lost.items():
        much = " (it could not make so many)" if value >= 1 else ""
        lines.append(f"  {path}: exits take {value:.1%} of each VCPU ({low:.1%} to {high:.1%}){much}")
    for path, policies in said.boot_s.items():
        parts = ", ".join(
            f"{value:.3g} s {policy.replace('_', ' ')} ({low:.3g} to {high:.3g})"
            for policy, (value, low, high) in policies.items()
        )
        lines.append(f"  {path}: touching all memory once adds {parts}")
    low, high = said.moves
    lines.append(
        f"  matters most: {said.matters} ({said.basis}): by itself it moves the nested loss from "
        f"{low:.1%} to {high:.1%}"
    )
    lines.append("  modelled from the table of costs; measure your own with nestbed calibrate")
    return lines


def _costs(overlay: Path | None) -> Costs:
    from actors.costs import UnreadableCosts, load

    try:
        return load(overlay)
    except UnreadableCosts as error:
        end(exit_codes.USAGE, f"--costs {error}")
