"""The console: JSON lines in, JSON lines out, in order.

What the requests mean is the architecture's keyboard, pure and elsewhere. Here are the lines: their limit,
what is no JSON, the end of input, a client that went away. Starts quickly: no Trio, no Typer, no Pydantic.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol

from actors import exit_codes

LINE_BYTES = 8 << 20  # of a request, without its newline
HOSTS = 64
DEPTH = 3
MEMORY_MIB = 65536
CPUS = 64
NESTING = (
    256  # of a request; an answer and a transcript put it a little deeper, and JSON has its limit there, too
)
HELP = {
    "arch": "architecture of the machine",
    "depth": "0: L0 itself, 1: an L1 host, ...",
    "hosts": "siblings at that depth",
    "memory": "memory of each host in MiB; as the profile says if not given",
    "cpus": "CPUs of each host; as the profile says if not given",
    "profile": "sizes and limits",
    "seed": "of keys, handles and the like",
    "explain": "say with each refused call which level refused it, by which check",
    "record": "write a transcript for `nestbed replay`",
}

Json = dict[str, object]
Heard = Callable[[Json | None, bytes | None, Json], None]


class Keyboard(Protocol):
    """What an architecture offers: one request, already parsed, in; one answer out."""

    def answer(self, request: Json) -> Json: ...


@dataclass(frozen=True, slots=True)
class Options:
    """Which host sits at the keyboard. None: what the profile says."""

    arch: str
    depth: int = 0
    hosts: int = 1
    memory_mib: int | None = None
    cpus: int | None = None
    profile: str = "small"
    seed: int = 0
    shares: int = 1  # each host has what so many of the profile have together
    strategy: tuple[tuple[str, str], ...] = ()  # words of a scenario, for the levels below the hosts


class WrongOptions(Exception):
    """Options that name nothing, or no such machine; the message says what is allowed."""


def keyboard(options: Options, explain: bool = False) -> Keyboard:
    """The keyboard of a fresh machine; with `explain` it says who refused a call. Raises WrongOptions."""
    from protocol.arch import kinds, load

    _within("--depth", options.depth, 0, DEPTH)
    _within("--hosts", options.hosts, 1, HOSTS)
    if options.memory_mib is not None:
        _within("--memory", options.memory_mib, 1, MEMORY_MIB)
    if options.cpus is not None:
        _within("--cpus", options.cpus, 1, CPUS)
    _within("--seed", options.seed, 0, 2**63 - 1)
    names = kinds()
    if options.arch not in names:
        raise WrongOptions(f"--arch {options.arch}: no such architecture; allowed: {', '.join(names)}")
    architecture = load(options.arch)
    if options.profile not in architecture.profiles:
        allowed = ", ".join(architecture.profiles)
        why = getattr(architecture, "refused_profiles", {}).get(options.profile, "no such profile")
        raise WrongOptions(f"--profile {options.profile}: {why}; allowed: {allowed}")
    try:
        made: Keyboard = architecture.keyboard(
            depth=options.depth,
            hosts=options.hosts,
            memory_mib=options.memory_mib,
            cpus=options.cpus,
            profile=options.profile,
            seed=options.seed,
            shares=options.shares,
            strategy=dict(options.strategy),
        )
    except ValueError as error:
        raise WrongOptions(str(error)) from error
    return _explaining(architecture, made) if explain else made


def _explaining(architecture: object, made: Keyboard) -> Keyboard:
    """The same keyboard, wrapped by the architecture: what is not asked for costs nothing."""
    from protocol.arch import architectures, load

    explaining = getattr(architecture, "explaining", None)
    if explaining is None:
        able = [name for name in architectures() if hasattr(load(name), "explaining")]
        raise WrongOptions(
            f"--explain: this architecture cannot say where an answer comes from; allowed: {', '.join(able)}"
        )
    watched: Keyboard = explaining(made)
    return watched


def _within(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise WrongOptions(f"{option} {value}: allowed: {low} to {high}")


def serve(keys: Keyboard, lines: BinaryIO, answers: BinaryIO, heard: Heard | None = None) -> None:
    """Answer every line until the input ends. `heard` gets each request, its line and the answer.

    Where a line is no request that is None; where it is over the limit the line is None, too.

    Raises BrokenPipeError when nobody reads the answers any more.
    """
    while line := lines.readline(LINE_BYTES + 2):
        request: Json | None = None
        kept: bytes | None = line
        if len(line.removesuffix(b"\n").removesuffix(b"\r")) > LINE_BYTES:
            kept = None
            while line and not line.endswith(b"\n"):
                line = lines.readline(LINE_BYTES)
            answer = error_answer("limit", f"a line has more than {LINE_BYTES} bytes")
        else:
            request, answer = answer_line(keys, line)
        answers.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
        answers.flush()
        if heard is not None:
            heard(request, kept, answer)


def answer_line(keys: Keyboard, line: bytes) -> tuple[Json | None, Json]:
    """The request that `line` is, None if it is none, and its answer."""
    try:
        request = _DECODER.decode(line.decode())
    except RecursionError:
        return None, error_answer("bad_json", "nested too deeply")
    except ValueError as error:  # not JSON, not UTF-8, or a number that no machine has
        return None, error_answer("bad_json", str(error))
    if line.count(b"[") + line.count(b"{") > NESTING and nesting(request) > NESTING:
        return None, error_answer("bad_json", f"nested more than {NESTING} deep")
    if not isinstance(request, dict):
        return None, error_answer("bad_request", "a request is a JSON object")
    return request, keys.answer(request)


def error_answer(code: str, message: str) -> Json:
    """The answer to a line that has no id."""
    return {"id": None, "error": {"code": code, "message": message}}


def nesting(value: object) -> int:
    """How many lists and objects stand inside each other, at most."""
    deep, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        deep += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return deep


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large a number")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


def parser() -> argparse.ArgumentParser:
    """The options of `nestbed console`."""
    made = argparse.ArgumentParser(
        prog="nestbed console",
        description="The keyboard of a secure host: one JSON request per line in, one answer per line out.",
        epilog='Example: echo \'{"id": 1, "op": "info"}\' | nestbed console --arch s390 --depth 1',
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--arch", required=True, help=HELP["arch"])
    add("--depth", type=_number, default=0, metavar="N", help=HELP["depth"])
    add("--hosts", type=_number, default=1, metavar="K", help=HELP["hosts"])
    add("--memory", type=_number, metavar="MIB", help=HELP["memory"])
    add("--cpus", type=_number, metavar="N", help=HELP["cpus"])
    add("--profile", default="small", metavar="P", help=HELP["profile"])
    add("--seed", type=_number, default=0, metavar="S", help=HELP["seed"])
    add("--explain", action="store_true", help=HELP["explain"])
    add("--record", type=Path, metavar="FILE", help=HELP["record"])
    return made


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def main(arguments: Sequence[str]) -> int:
    """Run the console on standard input and output; returns the exit code."""
    given = parser().parse_args(arguments)
    options = Options(
        given.arch,
        given.depth,
        given.hosts,
        given.memory,
        given.cpus,
        given.profile,
        given.seed,
    )
    return run(options, given.record, given.explain)


def run(options: Options, record: Path | None = None, explain: bool = False) -> int:
    """Serve standard input and output until the input ends; returns the exit code."""
    try:
        keys = keyboard(options, explain)
    except WrongOptions as wrong:
        complain(str(wrong))
        return exit_codes.USAGE
    heard: Heard | None = None
    with ExitStack() as stack:
        if record is not None:
            from actors.record import Transcript, header_of

            try:
                heard = _plainly(stack.enter_context(Transcript.create(record, header_of(options))).heard)
            except OSError as error:
                complain(f"--record {record}: {error.strerror}")
                return exit_codes.ENVIRONMENT
        try:
            serve(keys, sys.stdin.buffer, sys.stdout.buffer, heard)
        except BrokenPipeError:
            # Nobody reads: what is still buffered must not complain once more when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return exit_codes.FAILED
        except KeyboardInterrupt:
            return exit_codes.INTERRUPTED
        except OSError as error:  # a full disk, an input that cannot be read
            complain(str(error))
            return exit_codes.ENVIRONMENT
    return exit_codes.OK


def _plainly(heard: Heard) -> Heard:
    """A transcript holds what the contract says: explanations are for who sits at the keyboard."""

    def without(request: Json | None, line: bytes | None, answer: Json) -> None:
        heard(request, line, {name: value for name, value in answer.items() if name != "explain"})

    return without


def complain(message: str) -> None:
    """Say something to the person, not to the program that reads the answers."""
    sys.stderr.write(f"nestbed console: {message}\n")
