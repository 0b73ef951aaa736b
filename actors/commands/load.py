"""`nestbed load`: requests that come when they come, on every path in turn, and what can be said of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors import exit_codes
from actors.commands.door import CellName, Certificate
from actors.commands.options import (
    Arch,
    AsJson,
    Depth,
    Paths,
    Seed,
    Settings,
    complete_scenario,
    overrides,
    resolve,
)
from actors.commands.speak import end, first_of, say, say_from_a_signal, tell, tell_json
from actors.commands.up import Directory, place_of

if TYPE_CHECKING:
    from actors.compare.progress import Progress
    from actors.deployment.place import Place
    from actors.deployment.reach import Reach
    from actors.deployment.settings import Deployment
    from protocol.arch.contract import Architecture
    from protocol.plan.scenario import Scenario

Json = dict[str, Any]
PROCESSES = 64
REPLAY_BYTES = 64 << 20
SCENARIO = "load"
LoadScenario = Annotated[
    str | None,
    typer.Argument(
        metavar="SCENARIO",
        help="A TOML file, or the name of a scenario that comes with nestbed; load if not given.",
        autocompletion=complete_scenario,
        show_default=False,
    ),
]


def load(
    scenario: LoadScenario = None,
    arch: Arch = None,
    path: Paths = None,
    depth: Depth = None,
    seed: Seed = None,
    settings: Settings = None,
    virtual: Annotated[
        bool,
        typer.Option("--virtual", help="In modelled time: recorded operations that queue (extra `model`)."),
    ] = False,
    costs: Annotated[
        Path | None,
        typer.Option("--costs", metavar="FILE", help="With --virtual: costs of your own over the table."),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option("--replay", metavar="FILE", help="Arrivals: a time in seconds on each line."),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            metavar="N",
            min=1,
            max=PROCESSES,
            help="So many processes, each with a deployment and its share of the rate.",
        ),
    ] = 1,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="K/N", help="Be process K of N, from 0 on: print what they merge."),
    ] = None,
    deployment: Annotated[
        Path | None,
        typer.Option(
            "--deployment", metavar="FILE", help="Against a deployment that `nestbed up` runs, load = false."
        ),
    ] = None,
    directory: Directory = None,
    nats: Annotated[
        list[str] | None,
        typer.Option(
            "--nats",
            metavar="URL",
            help="With --deployment: its machines are those in the directory of these servers.",
        ),
    ] = None,
    certificate: Certificate = None,
    cell: CellName = "lab",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write load.json there; a report beside it shows it."),
    ] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Put load on a deployment, path by path in turn, and compare how long requests take nested and hosted.

    What comes when is in the scenario's section load. Both paths meet the same requests at the same times;
    latency counts from when a request was meant to be sent. Thresholds load.PATH.FIGURE end with exit code
    99. With --deployment the load goes to the hosts and brokers of a deployment that runs. With --nats its
    machines are wherever the fleet's directory says: all at the same time, each with its share of the rate,
    and one answer.
    """
    flags = overrides(settings, arch=arch, paths=path, depth=depth, seed=seed)
    if replay is not None:
        flags["load.arrivals"] = "replay"
    if deployment is not None:
        if virtual or processes > 1 or shard or scenario or arch or depth:
            end(
                exit_codes.USAGE,
                "--deployment: allowed beside it: --path, --seed, --set, --replay, --directory, --out",
            )
        if nats and (replay is not None or directory is not None):
            end(exit_codes.USAGE, "--nats: allowed beside it: --deployment, --path, --seed, --set, --out")
        machines = Machines(directory, nats or [], certificate, cell)
        raise typer.Exit(_elsewhere(deployment, machines, flags, replay, out, as_json, quiet))
    if nats:
        end(exit_codes.USAGE, "--nats: is for machines of a fleet; allowed: with --deployment")
    plan = resolve(scenario or SCENARIO, flags).scenario
    times = _replay(plan, replay)
    which = _shard(shard)
    _may(plan, virtual, processes, which)
    found: Json = {}
    with _stoppable() as stop:
        for name in plan.arch:
            if stop.stopped:
                break
            if processes > 1:
                found[name] = _together(_children(scenario, flags | {"arch": name}, processes), name)
            else:
                found[name] = _sides(plan, name, virtual, costs, times, which, quiet, lambda: stop.stopped)
    if which is not None:
        tell_json(found)
        return
    clock = "virtual" if virtual else "wall"
    raise typer.Exit(_told(plan, found, clock, out, as_json, stop.stopped))


@dataclass(frozen=True, slots=True)
class Machines:
    """Where the machines of a deployment are: here, or in the directory of a fleet."""

    directory: Path | None
    nats: list[str]
    certificate: Path | None
    cell: str

    def where(self, settings: Deployment) -> str:
        return f"--nats {', '.join(self.nats)}" if self.nats else str(self._place(settings).root)

    def _place(self, settings: Deployment) -> Place:
        return place_of(self.directory, settings.name)

    def reach(self, file: Path, settings: Deployment) -> Reach:
        """The way to them, or the end of the command."""
        from actors.commands.fleet import reach_of
        from actors.deployment.reach import Here

        if self.nats:
            return reach_of(settings.machines, self.nats, self.certificate, self.cell)
        place = self._place(settings)
        if place.control("load").exists():
            end(exit_codes.USAGE, f"{file}: its own load drives it; allowed: load = false in it")
        return Here(place)


@contextmanager
def _stoppable() -> Iterator[Progress]:
    """Within: the first Ctrl-C lets the block that runs be the last one, the second ends at once."""
    from actors.compare.interrupts import stoppable
    from actors.compare.progress import Progress

    progress = Progress()
    with stoppable(progress, say_from_a_signal):
        yield progress


def _elsewhere(
    file: Path,
    machines: Machines,
    flags: dict[str, str],
    replay: Path | None,
    out: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Load on a deployment that runs."""
    from actors.compare import interrupts
    from actors.deployment.settings import read_deployment, scenario_of
    from actors.load.elsewhere import against, fleet_blocks
    from actors.load.run import added, blocks
    from actors.load.text import board
    from actors.scenario import BrokenScenario, UnreadableScenario
    from protocol.errors import NestbedError

    try:
        settings, _ = read_deployment(file)
        merged = settings.model_copy(update={"set": {"paths": "nested,hosted", **settings.set, **flags}})
        plan = scenario_of(merged, file.parent).scenario
    except UnreadableScenario as error:
        end(exit_codes.USAGE, str(error))
    except BrokenScenario as error:
        end(exit_codes.USAGE, error.text())
    _may(plan, False, 1, None)
    wrong = [path for path in plan.paths if path not in ("nested", "hosted")]
    if wrong:
        end(exit_codes.USAGE, f"--deployment: {', '.join(wrong)}: allowed: paths nested and hosted")
    times = _replay(plan, replay)
    if machines.nats:  # as `nestbed node` runs machines: whole
        settings = settings.model_copy(update={"placement": "together"})
    reach = machines.reach(file, settings)
    by_machine: Json = {}
    try:
        with board(quiet) as seen, _stoppable() as stop:
            if machines.nats:
                act = partial(fleet_blocks, plan, settings, reach, seen.watch, lambda: stop.stopped)
                by_machine = interrupts.run(act)
                sides = added(by_machine.values())
            else:
                run_block = against(reach, settings, plan, seen.watch, times)
                sides = interrupts.run(blocks, plan, 0, run_block, lambda: stop.stopped)
    except* OSError as errors:
        end(exit_codes.ENVIRONMENT, f"{machines.where(settings)}: no part answers there: {first_of(errors)}")
    except* NestbedError as errors:
        end(exit_codes.FAILED, f"{machines.where(settings)}: {first_of(errors)}")
    return _told(plan, {settings.arch: sides}, "wall", out, as_json, stop.stopped, by_machine)


def _told(
    plan: Scenario,
    found: Json,
    clock: str,
    out: Path | None,
    as_json: bool,
    stopped: bool = False,
    by_machine: Json | None = None,
) -> int:
    """Say what was found, write it down, and judge it."""
    from actors.compare.bundle import environment, versions, write_text
    from actors.load.run import judged, verdicts
    from actors.load.text import lines
    from nestbed import __version__
    from protocol.plan.scenario import as_dict

    answers = {name: judged(plan, sides) for name, sides in found.items()}
    machines = {name: judged(plan, sides) for name, sides in (by_machine or {}).items()}
    bounds = [each for name, answer in answers.items() for each in verdicts(plan.thresholds, name, answer)]
    document: Json = {
        "nestbed": __version__,
        "seed": plan.seed,
        "clock": clock,
        "scenario": as_dict(plan),
        "load": answers,
        "thresholds": bounds,
        **({"machines": machines} if machines else {}),
        "versions": versions(),
        "environment": environment(),
    }
    if as_json:
        tell_json(document)
    else:
        tell(f"load on scenario {plan.name}, seed {plan.seed}")
        for name, answer in answers.items():
            tell(*lines(name, answer, document["scenario"]["load"], clock))
        for name, answer in machines.items():
            tell(*lines(name, answer, document["scenario"]["load"], clock))
    for each in bounds:
        word = "holds" if each["holds"] else "FAILED"
        say(f"threshold {each['what']} {each['wanted']} on {each['arch']}: {word} ({each['value']})")
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_text(out / "load.json", json.dumps(document, indent=2) + "\n")
        except OSError as error:
            end(exit_codes.ENVIRONMENT, f"--out {out}: cannot be written: {error.strerror}")
    if stopped:
        return exit_codes.INTERRUPTED
    return exit_codes.OK if all(each["holds"] for each in bounds) else exit_codes.MISSED


def _sides(
    plan: Scenario,
    name: str,
    virtual: bool,
    costs: Path | None,
    times: list[float],
    which: tuple[int, int] | None,
    quiet: bool,
    stopped: Callable[[], bool],
) -> Json:
    """What one architecture's blocks found in this process."""
    from actors.load import run as runs
    from actors.load.text import board
    from protocol.arch import load as load_architecture

    arch: Architecture = load_architecture(name)
    if virtual:
        return runs.run_virtual(plan, arch, _costs(costs), times)
    shard, shards = which or (0, 1)
    with board(quiet or which is not None) as seen:
        return runs.run(plan, arch, shard, shards, times, seen.watch, stopped)


def _together(parts: list[Json], name: str) -> Json:
    from actors.load.run import added

    return added(part[name] for part in parts)


def _children(scenario: str | None, flags: dict[str, str], processes: int) -> list[Json]:
    """The same load in so many processes, each a shard; what they print. Ends where one fails."""
    common = [sys.executable, "-P", "-m", "nestbed", "load", scenario or SCENARIO]
    for name, value in flags.items():
        common += ["--set", f"{name}={value}"]
    running = [
        subprocess.Popen(  # noqa: S603, this very program with settings that were read already
            [*common, "--shard", f"{k}/{processes}"], stdout=subprocess.PIPE, text=True
        )
        for k in range(processes)
    ]
    try:
        said = [child.communicate()[0] for child in running]
    finally:
        for child in running:
            child.kill()
    failed = [str(k) for k, child in enumerate(running) if child.returncode]
    if failed:
        end(exit_codes.FAILED, f"process {', '.join(failed)} of {processes} failed; see above")
    return [json.loads(text) for text in said]


# -- before ------------------------------------------------


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,3})/(\d{1,3})", text)
    if found is None or not int(found[1]) < int(found[2]) <= PROCESSES:
        end(exit_codes.USAGE, f"--shard {text}: allowed: K/N with 0 <= K < N <= {PROCESSES}")
    return int(found[1]), int(found[2])


def _may(plan: Scenario, virtual: bool, processes: int, which: tuple[int, int] | None) -> None:
    """What makes no sense together is refused with its reason."""
    from actors.load.target import lacking
    from protocol.arch import load as load_architecture

    mix = plan.load.mix
    if not any((mix.run, mix.restart, mix.page_change, mix.swap)):
        end(exit_codes.USAGE, "load.mix: every weight is 0; allowed: one of them above it")
    if mix.page_change and plan.run.page_changes % 2:
        end(
            exit_codes.USAGE,
            f"run.page_changes = {plan.run.page_changes}: allowed: an even number, as pages are given and "
            "taken back in turn; or load.mix.page_change = 0",
        )
    for name in plan.arch:
        for kind, why in lacking(plan, load_architecture(name)).items():
            end(exit_codes.USAGE, f"load.mix.{kind}: {name}: {why}; allowed: 0")
    if virtual and (processes > 1 or which):
        end(exit_codes.USAGE, "--virtual: virtual time needs one process; allowed: --processes 1")
    if plan.load.arrivals == "replay" and processes > 1:
        end(exit_codes.USAGE, "--replay: every process would replay all of it; allowed: --processes 1")
    if virtual:
        try:
            import protocol.queueing.engine  # noqa: F401, whether it is there
        except ImportError:
            end(exit_codes.ENVIRONMENT, "--virtual needs SimPy: pip install 'nestbed[model]'")


def _costs(overlay: Path | None) -> Any:
    from actors.costs import UnreadableCosts
    from actors.costs import load as load_costs

    try:
        return load_costs(overlay)
    except UnreadableCosts as error:
        end(exit_codes.USAGE, f"--costs {error}")


def _replay(plan: Scenario, file: Path | None) -> list[float]:
    """Times of arrival from a file: sorted, from 0 on."""
    if plan.load.arrivals != "replay":
        return []
    if file is None:
        end(exit_codes.USAGE, "load.arrivals = replay: allowed: with --replay FILE")
    try:
        with file.open("rb") as opened:
            data = opened.read(REPLAY_BYTES + 1)
    except OSError as error:
        end(exit_codes.USAGE, f"--replay {file}: {error.strerror}")
    if len(data) > REPLAY_BYTES:
        end(exit_codes.USAGE, f"--replay {file}: more than {REPLAY_BYTES} bytes")
    found = []
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        try:
            found.append(float(line))
        except ValueError:
            end(exit_codes.USAGE, f"--replay {file}:{number}: {line[:40]!r}: allowed: a time in seconds")
    if any(not 0 <= at < 1e9 for at in found) or found != sorted(found):
        end(exit_codes.USAGE, f"--replay {file}: allowed: times in seconds, 0 and above, in order")
    return found
