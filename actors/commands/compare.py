"""`nestbed compare`: run a scenario on all of its paths, say what it costs, leave a bundle behind."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated

import typer

from actors import exit_codes
from actors.commands.agent import may_be_elsewhere, on_agents
from actors.commands.door import CellName
from actors.commands.options import (
    Arch,
    AsJson,
    Depth,
    Fidelity,
    Image,
    Paths,
    ScenarioName,
    Seed,
    Settings,
    Transport,
    overrides,
    resolve,
)
from actors.commands.report import leave_report, tell_answer
from actors.commands.speak import end, say, say_from_a_signal, tell, tell_json

if TYPE_CHECKING:
    from actors.commands.metrics import Watching
    from actors.compare.openmetrics import Recording
    from actors.compare.outcome import Json, Outcome
    from actors.compare.progress import Progress
    from actors.compare.tracing import Tracing
    from actors.record import Transcripts
    from actors.scenario import Resolved
    from protocol.cost.table import Costs
    from protocol.plan.scenario import Scenario, Threshold

    Run = Callable[..., Outcome]  # as actors.compare.run.run

CHANGES_SHOWN = 50
LINGER_S = 86_400.0
PROCESSES = 64
BETWEEN = ("unix", "tcp")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to do besides running: where results go, with what they are compared."""

    as_json: bool = False
    out: Path | None = None
    diff: Path | None = None
    record: Path | None = None
    metrics_port: int | None = None
    linger_s: float = 0.0
    quiet: bool = False
    processes: int = 1
    costs: Path | None = None
    trace: int = 0  # one operation in so many; 0: none
    seeds: int = 1  # how many are run, the scenario's among them


def compare(
    scenario: ScenarioName = None,
    arch: Arch = None,
    path: Paths = None,
    depth: Depth = None,
    seed: Seed = None,
    fidelity: Fidelity = None,
    transport: Transport = None,
    image: Image = None,
    settings: Settings = None,
    as_json: AsJson = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Directory of the results; nestbed-NAME if not given, none with --json.",
        ),
    ] = None,
    diff: Annotated[
        Path | None,
        typer.Option(
            "--diff", metavar="BASE", help="Compare all counts with this output or bundle; 99 if any changed."
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="DIR", help="Write what every host said, for `nestbed replay`."),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            metavar="N",
            min=0,
            max=65535,
            help="Serve metrics on this port of the loopback; 0: any.",
        ),
    ] = None,
    linger: Annotated[
        float,
        typer.Option(
            "--linger",
            metavar="SECONDS",
            min=0,
            max=LINGER_S,
            help="Keep serving metrics that long after the run.",
        ),
    ] = 0.0,
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            metavar="N",
            min=1,
            max=PROCESSES,
            help="Processes of the nested path: L0 in one, its guest hosts dealt to the others.",
        ),
    ] = 1,
    costs: Annotated[
        Path | None,
        typer.Option("--costs", metavar="FILE", help="Costs of your own, laid over the shipped table."),
    ] = None,
    trace: Annotated[
        int,
        typer.Option(
            "--trace",
            metavar="N",
            min=0,
            help="Follow one operation in N of each kind: trace.json, and pictures in the report; 0: none.",
        ),
    ] = 0,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            metavar="N",
            min=1,
            max=64,
            help="Run N seeds, this one and those behind it: the report has the range over them.",
        ),
    ] = 1,
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            metavar="HOST:PORT",
            help="Have a `nestbed agent` do the work; may be repeated, needs --keys.",
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys", metavar="DIR", help="Directory with ca.pem and a certificate of the role driver."
        ),
    ] = None,
    nats: Annotated[
        list[str] | None,
        typer.Option(
            "--nats",
            metavar="URL",
            help="Have the agents in the directory of these servers do the work; needs --keys.",
        ),
    ] = None,
    cell: CellName = "lab",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Run a scenario on every path with one seed and print what each of them costs.

    Counts are exact and depend on the scenario and its seed alone. The first Ctrl-C stops after the current
    step and still reports what is finished; the second stops at once.
    """
    flags = overrides(
        settings,
        arch=arch,
        paths=path,
        depth=depth,
        seed=seed,
        fidelity=fidelity,
        transport=transport,
        guest__image=image,
    )
    if linger and metrics_port is None:
        end(exit_codes.USAGE, "--linger keeps serving metrics: give --metrics-port, too")
    resolved = resolve(scenario, flags)
    if processes > 1:
        _may_be_split(resolved.scenario, record)
    elif resolved.scenario.transport in BETWEEN:
        how = resolved.scenario.transport
        end(exit_codes.USAGE, f"--transport {how}: is between processes; allowed: with --processes 2 or more")
    if trace and resolved.scenario.fidelity == "bulk":
        end(exit_codes.USAGE, "--trace: bulk folds what several levels do; allowed: --fidelity call")
    if on or nats:
        looks = processes > 1 or record is not None or bool(trace) or metrics_port is not None
        if seeds > 1:
            end(exit_codes.USAGE, "--seeds: agents are asked for one seed; allowed: without --on")
        may_be_elsewhere(resolved.scenario, looks)
        raise typer.Exit(
            perform(
                resolved,
                Wanted(as_json, out, diff, costs=costs, quiet=quiet),
                on_agents(on or [], keys, nats or [], cell),
            )
        )
    wanted = Wanted(as_json, out, diff, record, metrics_port, linger, quiet, processes, costs, trace, seeds)
    raise typer.Exit(perform(resolved, wanted))


def _may_be_split(scenario: Scenario, record: Path | None) -> None:
    """What needs everything in one process is refused with its reason."""
    if scenario.fidelity == "bulk":
        end(exit_codes.USAGE, "--processes: bulk folds what several levels do; allowed: --fidelity call")
    if record is not None:
        end(
            exit_codes.USAGE, "--record: hosts in other processes write no transcript; allowed: --processes 1"
        )


def perform(resolved: Resolved, wanted: Wanted, run: Run | None = None) -> int:
    """Run, report, judge; returns the exit code. `run` is that of actors.compare.run if none is given."""
    from actors.compare.bundle import bundle, document
    from actors.compare.diff import verdicts

    base = _base(wanted.diff)
    folder = _folder(resolved, wanted)
    recording = None if folder is None else _recording(wanted)
    tracing = _tracing(wanted, resolved.scenario.seed)
    outcome, error = _run(resolved, wanted, run, recording, tracing)
    judged = [each.as_dict() for each in verdicts(_judgeable(resolved.scenario, outcome), outcome.results)]
    content = bundle(resolved.scenario, outcome, resolved.origins, judged)
    if wanted.as_json:
        tell_json(document(resolved.scenario, outcome, judged))
    elif outcome.results or error is None:
        tell_answer(content)
    changed = base is not None and _tell_changes(base, content, outcome.stopped, wanted)
    for verdict in judged if wanted.as_json else ():
        word = "holds" if verdict["holds"] else "FAILED"
        say(f"threshold {verdict['what']} {verdict['wanted']} on {verdict['arch']}: {word}")
    if folder is not None and recording is not None:
        _leave(folder, content, recording, tracing, wanted)
    if error is not None:
        traceback.print_exception(error)
        say("the run failed; what was finished until then is reported")
        return exit_codes.FAILED
    if outcome.stopped:
        return exit_codes.INTERRUPTED
    return exit_codes.MISSED if changed or not all(each["holds"] for each in judged) else exit_codes.OK


# -- before ------------------------------------------------


def _base(path: Path | None) -> Json | None:
    from actors.compare.diff import BadBase, read_base

    if path is None:
        return None
    try:
        return read_base(path)
    except BadBase as error:
        end(exit_codes.USAGE, f"--diff {error}")


def _folder(resolved: Resolved, wanted: Wanted) -> Path | None:
    """Where the bundle goes; found out before the run whether it can."""
    if wanted.out is None and wanted.as_json:
        return None
    folder = wanted.out or Path(f"nestbed-{resolved.scenario.name}")
    _writable("--out", folder)
    return folder


def _writable(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        end(exit_codes.ENVIRONMENT, f"{option} {folder}: cannot be written: {error.strerror}")


# -- the run -----------------------------------------------


def _tracing(wanted: Wanted, seed: int) -> Tracing | None:
    from actors.compare.tracing import Tracing, sampled

    return Tracing(sampled(wanted.trace), seed) if wanted.trace else None


def _recording(wanted: Wanted) -> Recording:
    from actors.compare.openmetrics import Recording

    return Recording(books=wanted.processes == 1)


def _run(
    resolved: Resolved,
    wanted: Wanted,
    run: Run | None,
    recording: Recording | None,
    tracing: Tracing | None,
) -> tuple[Outcome, Exception | None]:
    """Run with everything around it. An error is returned with what was finished before it."""
    from actors.compare.interrupts import stoppable
    from actors.compare.outcome import Outcome
    from actors.compare.progress import Stopped, choose
    from actors.compare.tracing import waterfalls

    run = run or _runner()
    costs = _costs(wanted.costs)
    progress = choose(wanted.quiet)
    progress.recording = recording
    with ExitStack() as around:
        if wanted.metrics_port is not None:
            watching = around.enter_context(_metrics(wanted.metrics_port, resolved.scenario.depth))
            progress.on_attach, progress.on_staged = watching.attach, watching.staged
            if tracing is not None:
                watching.exemplify(lambda: dict(tracing.examples))
        transcripts = around.enter_context(closing(_transcripts(wanted.record))) if wanted.record else None
        error = None
        try:
            with stoppable(progress, say_from_a_signal):
                more = {} if tracing is None else {"tracing": tracing}
                outcome = run(resolved.scenario, progress, transcripts, wanted.processes, costs, **more)
                if wanted.seeds > 1 and not outcome.stopped:
                    outcome.seeds.update(_other_seeds(resolved, wanted, outcome, costs, progress))
            if tracing is not None:
                outcome.traces.extend(waterfalls(tracing, costs, resolved.scenario.depth))
        except Stopped:
            outcome = Outcome(list(progress.results), stopped=True)
        except Exception as failure:  # told at the end, after what was finished
            outcome, error = Outcome(list(progress.results), stopped=True), failure
        if wanted.record is not None and not any(wanted.record.iterdir()):
            say(f"--record {wanted.record}: nothing was recorded: no host of this run sat at a keyboard")
        if wanted.linger_s and error is None:
            _linger(wanted.linger_s)
    return outcome, error


def _other_seeds(
    resolved: Resolved, wanted: Wanted, first: Outcome, costs: Costs, progress: Progress
) -> Json:
    """What the seeds behind this one come to; a person who stops keeps the first alone."""
    from actors.compare.progress import Stopped
    from actors.compare.seeds import over_seeds

    try:
        return over_seeds(resolved.scenario, first, wanted.seeds, costs, progress)
    except Stopped:
        say("--seeds: stopped before the last one: the range over them is left out")
        return {}


def _costs(overlay: Path | None) -> Costs:
    from actors.costs import UnreadableCosts, load

    try:
        return load(overlay)
    except UnreadableCosts as error:
        end(exit_codes.USAGE, f"--costs {error}")


def _runner() -> Run:
    from actors.compare.run import run

    return run


def _transcripts(folder: Path) -> Transcripts:
    from actors.record import Transcripts

    _writable("--record", folder)
    return Transcripts(folder)


@contextmanager
def _metrics(port: int, depth: int) -> Iterator[Watching]:
    from actors.commands.metrics import served
    from actors.observe.exporter import CannotListen

    try:
        with served(port, depth) as (watching, chosen):
            say(f"metrics on http://127.0.0.1:{chosen}/metrics")
            yield watching
    except CannotListen as error:
        end(exit_codes.ENVIRONMENT, f"--metrics-port {port}: {error}")


def _linger(seconds: float) -> None:
    say(f"metrics stay for {seconds:g} s; Ctrl-C ends that")
    with suppress(KeyboardInterrupt):
        time.sleep(seconds)


# -- after -------------------------------------------------


def _judgeable(scenario: Scenario, outcome: Outcome) -> tuple[Threshold, ...]:
    """The thresholds; of a run that was stopped, those on paths that were finished."""
    finished = {result["path"] for result in outcome.results}
    counted = (t for t in scenario.thresholds if not t.what.startswith("load."))
    return tuple(t for t in counted if not outcome.stopped or t.what.split(".")[1] in finished)


def _leave(
    folder: Path, content: Json, recording: Recording, tracing: Tracing | None, wanted: Wanted
) -> None:
    from actors.compare.bundle import write, write_text
    from actors.compare.tracing import chrome_trace, exemplars

    try:
        write(folder, content)
        examples = {} if tracing is None else exemplars(tracing)
        write_text(folder / "metrics.om", recording.text(content["results"], examples))
        if tracing is not None:
            depth = content["scenario"]["depth"]
            picture = json.dumps(chrome_trace(tracing, _costs(wanted.costs), depth))
            write_text(folder / "trace.json", picture + "\n")
    except OSError as error:
        end(exit_codes.ENVIRONMENT, f"--out {folder}: cannot be written: {error.strerror}")
    leave_report(folder / "report.html", content)


def _tell_changes(base: Json, content: Json, stopped: bool, wanted: Wanted) -> bool:
    """Say what is different from `base`; returns whether any count is."""
    from actors.compare.diff import changes, identity, one_sided, other_scenario

    speak = say if wanted.as_json else tell
    before, now = base["results"], content["results"]
    if stopped:  # only what was finished can be compared
        finished = {identity(result) for result in now}
        before = [result for result in before if identity(result) in finished]
    found, alone = changes(before, now), one_sided(before, now)
    for setting in other_scenario(base, content):
        speak(f"other setting: {setting}")
    for which in alone:
        speak(which)
    for change in found[:CHANGES_SHOWN]:
        speak(f"changed: {change.text()}")
    if len(found) > CHANGES_SHOWN:
        speak(f"... and {len(found) - CHANGES_SHOWN:,} more")
    number = {0: "no count", 1: "1 count"}.get(len(found), f"{len(found):,} counts")
    where = " in what both have" if alone else ""
    speak(f"{number} changed{where} against {wanted.diff}")
    return bool(found or alone)
