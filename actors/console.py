"""The console: JSON lines in, JSON lines out, in order.

What a line says and who answers it is `keyboard`'s. Here are the lines as they come: their limit, the end of
input, a client that went away, the transcript. Starts quickly: no Trio, no Typer, no Pydantic.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from actors import exit_codes
from actors.keyboard import Json, Keyboard, Options, WrongOptions, answer_line, error_answer, keyboard

LINE_BYTES = 8 << 20  # of a request, without its newline
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
Heard = Callable[[Json | None, bytes | None, Json], None]


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
            from actors.record import Transcript, header_of  # where one is asked for: a start is quick

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
