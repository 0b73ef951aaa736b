"""`nestbed trace`: follow one operation of a plan through every level, message by message."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors import exit_codes
from actors.commands.options import (
    Arch,
    AsJson,
    Depth,
    Paths,
    ScenarioName,
    Seed,
    Settings,
    overrides,
    resolve,
)
from actors.commands.speak import end, say, tell, tell_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from actors.compare.tracing import Traced
    from protocol.cost.table import Costs
    from protocol.ledger import Key
    from protocol.plan.scenario import Scenario
    from protocol.trace.span import Span
    from protocol.trace.timeline import Bar

    Priced = Callable[[Traced], Callable[[Mapping[Key, int]], int]]

ALONE = {"l1.count": "1", "guest.per_l1": "1", "run.reboots": "1", "run.deaths": "0"}
JSON_SPANS = 10_000


def trace(
    scenario: ScenarioName = None,
    op: Annotated[
        str,
        typer.Option(
            "--op",
            metavar="NAME",
            help="The operation: boothost, create, load, start, touch, exits, destroy, ...",
        ),
    ] = "create",
    arch: Arch = None,
    path: Paths = None,
    depth: Depth = None,
    nth: Annotated[int, typer.Option("--nth", metavar="N", min=1, help="Which of them, from 1.")] = 1,
    seed: Seed = None,
    settings: Settings = None,
    as_json: AsJson = False,
    chrome: Annotated[
        Path | None,
        typer.Option("--chrome", metavar="FILE", help="Write Chrome's trace format, which Perfetto opens."),
    ] = None,
    mermaid: Annotated[
        Path | None, typer.Option("--mermaid", metavar="FILE", help="Write a Mermaid sequence diagram.")
    ] = None,
    otlp: Annotated[
        str | None,
        typer.Option(
            "--otlp", metavar="URL", help="Send the spans to this OTLP/HTTP endpoint (needs nestbed[otel])."
        ),
    ] = None,
) -> None:
    """Follow one operation through every level: who asked whom for what, how it was treated, what it took.

    Without SCENARIO one host with one guest does what the default scenario does, on the nested path. Counts
    of a row are those of whoever handled the message; all rows together are what the operation took. Bars and
    spans of --chrome and --otlp stand in modelled time, which is no time of any hardware.
    """
    from actors.compare.tracing import price_of

    flags = overrides(settings, arch=arch, paths=path or ["nested"], depth=depth, seed=seed)
    if scenario is None:
        flags = ALONE | flags
    resolved = resolve(scenario, flags)
    found = _follow(resolved.scenario, op, nth)
    price = partial(price_of, _costs(), resolved.scenario.depth)
    if chrome is not None:
        _write("--chrome", chrome, _chrome(found, price))
    if mermaid is not None:
        _write("--mermaid", mermaid, "\n".join(_diagrams(found)))
    if otlp is not None:
        _send(otlp, found, price)
    if as_json:
        tell_json([_as_dict(each, price) for each in found])
    else:
        for each in found:
            tell(*_picture(each, price, resolved.scenario.depth))


def _follow(scenario: Scenario, name: str, nth: int) -> list[Traced]:
    """Run the scenario and return the operation of each path that has it."""
    from actors.compare.progress import Progress
    from actors.compare.run import run
    from actors.compare.tracing import Tracing

    if scenario.fidelity == "bulk":
        end(exit_codes.USAGE, "trace: bulk folds what several levels do; allowed: fidelity = call")
    seen: dict[str, None] = {}

    def wanted(_path: str, operation: str, before: int) -> bool:
        seen[operation] = None
        return operation == name.lower() and before == nth - 1

    tracing = Tracing(wanted, scenario.seed)
    run(scenario, Progress(), tracing=tracing)
    if not tracing.found:
        which = "" if nth == 1 else f" number {nth}"
        end(exit_codes.USAGE, f"--op {name}: no operation{which} of that name; there are {', '.join(seen)}")
    if tracing.dropped:
        say(f"{tracing.dropped:,} messages were too many to follow; what they counted is with who sent them")
    return tracing.found


def _costs() -> Costs:
    from actors.costs import shipped

    return shipped()


# -- for a person ----------------------------------------------------------------------------------


def _picture(traced: Traced, price: Priced, depth: int) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    from protocol.trace.fold import fold
    from protocol.trace.text import HEAD, lines
    from protocol.trace.timeline import timeline

    bars = timeline(traced.root, price(traced))
    total = traced.root.total()
    exits = sum(n for key, n in total.items() if key[0] == "exits")
    calls = sum(n for key, n in total.items() if key[0] == "te_issued")
    where = f"{traced.path}, depth {depth}" if traced.path != "direct" else "direct"
    yield Text(f"{traced.arch} {traced.root.what} ({where})", style="bold")
    yield Text(
        f"{len(bars) - 1:,} messages, {exits:,} exits at L0, {calls:,} calls at the Trusted Entity; "
        f"modelled {_time(bars[0].took_ns)}"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    # The root is whoever asked: it is shown where it did something itself.
    rows = [line for line in lines(fold(traced.root)) if line.depth or line.row.counts]
    outdent = min(line.depth for line in rows) if rows else 0
    used = [n for n in range(len(HEAD)) if n < 3 or any(line.cells[n] for line in rows)]
    for number in used:
        table.add_column(HEAD[number], justify="left" if number < 4 else "right", overflow="fold")
    for line in rows:
        first = f"{'  ' * (line.depth - outdent)}{line.cells[0]}"
        table.add_row(*(Text(first if n == 0 else line.cells[n]) for n in used))
    yield table
    yield ""


def _time(ns: int) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns} ns"


# -- for programs ----------------------------------------------------------------------------------


def _as_dict(traced: Traced, price: Priced) -> dict[str, Any]:
    from protocol.trace.chrome import arguments, name
    from protocol.trace.timeline import timeline

    bars = timeline(traced.root, price(traced))
    return {
        "arch": traced.arch,
        "path": traced.path,
        "operation": traced.name,
        "modelled_ns": bars[0].took_ns,
        "spans": [
            {
                "name": name(bar.span),
                "depth": bar.depth,
                "modelled_begin_ns": bar.begin_ns,
                "modelled_end_ns": bar.end_ns,
                **arguments(bar.span),
            }
            for bar in bars[:JSON_SPANS]
        ],
        "more_spans": max(0, len(bars) - JSON_SPANS),
    }


def _chrome(found: list[Traced], price: Priced) -> str:
    from nestbed import __version__
    from protocol.trace.chrome import document, events
    from protocol.trace.timeline import timeline

    every = [
        event
        for number, each in enumerate(found, 1)
        for event in events(f"{each.arch} {each.path}", timeline(each.root, price(each)), number)
    ]
    return json.dumps(document(every, {"nestbed": __version__, "time": "modelled"})) + "\n"


def _diagrams(found: list[Traced]) -> Iterator[str]:
    from protocol.trace.fold import fold
    from protocol.trace.mermaid import diagram

    for each in found:
        yield f"%% {each.arch} {each.path}: {each.root.what}\n{diagram(fold(each.root))}"


def _write(option: str, target: Path, text: str) -> None:
    from actors.compare.bundle import write_text

    try:
        write_text(target, text)
    except OSError as error:
        end(exit_codes.ENVIRONMENT, f"{option} {target}: cannot be written: {error.strerror}")
    say(f"{option[2:]}: {target}")


def _send(url: str, found: list[Traced], price: Priced) -> None:
    from actors.observe.otlp import CannotSend, send
    from protocol.trace.timeline import timeline

    bars: list[Bar[Span]] = [bar for each in found for bar in timeline(each.root, price(each))]
    try:
        send(url, bars)
    except CannotSend as error:
        end(exit_codes.ENVIRONMENT, f"--otlp {url}: {error}")
    say(f"otlp: {len(bars):,} spans to {url}")
