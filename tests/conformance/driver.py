"""A keyboard under test: one console, in this process or in another, and what was said on it.

Nothing here knows an architecture. A test speaks to a console by requests and answers alone, so that the same
test can be put to any program that keeps the console's contract.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from nestbed.testing import SecureHost

Json = dict[str, Any]

HEX = re.compile("0x[0-9a-f]+")
OUTCOMES = ("ok", "fault", "error")


class Console(Protocol):
    """What a test needs of a console: one request in, one answer out."""

    def answer(self, request: Json) -> Json: ...


class ProcessConsole:
    """A console in a process of its own, spoken to in lines of JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def answer(self, request: Json) -> Json:
        """Send one request and wait for its answer."""
        return self.answer_line(json.dumps(request))

    def answer_line(self, line: str) -> Json:
        """Send `line` as it is and wait for the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer: Json = json.loads(self.process.stdout.readline())
        return answer


def in_process(arch: str, depth: int, hosts: int = 1, **options: Any) -> Console:
    """The console core itself, without a process around it."""
    return SecureHost.open(arch, depth, hosts=hosts, **options).keyboard


@contextmanager
def in_own_process(arch: str, depth: int, *arguments: str) -> Iterator[ProcessConsole]:
    """`nestbed console` as a user starts it. The end of input must end it with exit 0."""
    command = [sys.executable, "-m", "nestbed", "console", "--arch", arch, "--depth", str(depth), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield ProcessConsole(process)
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            assert process.stdout.read() == "", "something but answers went to stdout"
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()


def number(value: Any) -> int:
    """An integer of an answer: a count, or a string `"0x..."`."""
    if isinstance(value, str):
        assert HEX.fullmatch(value), f"{value!r} is not in the form 0x..."
        return int(value, 16)
    assert isinstance(value, int) and not isinstance(value, bool), f"{value!r} is not an integer"
    return value


class Keyboard:
    """Types requests on a console and keeps what was said."""

    def __init__(self, console: Console, depth: int) -> None:
        self.console = console
        self.depth = depth
        self.transcript: list[tuple[Json, Json]] = []

    def ask(self, op: str, **fields: Any) -> Json:
        """Put one request and return the whole answer, checked for the form that every answer has."""
        request: Json = {"id": len(self.transcript) + 1, "op": op, **fields}
        # Through JSON and back: an answer shares no state with the implementation and holds what JSON can.
        answer: Json = json.loads(json.dumps(self.console.answer(json.loads(json.dumps(request)))))
        self.transcript.append((request, answer))
        assert answer.get("id") == request["id"], f"{request} -> {answer}"
        assert len([key for key in OUTCOMES if key in answer]) == 1, f"{request} -> {answer}"
        return answer

    def _want(self, outcome: str, op: str, fields: Json) -> Json:
        answer = self.ask(op, **fields)
        assert outcome in answer, f"wanted {outcome}: {self.transcript[-1][0]} -> {answer}"
        body: Json = answer[outcome]
        return body

    def ok(self, op: str, **fields: Any) -> Json:
        """Put a request that must succeed and return what it answers."""
        return self._want("ok", op, fields)

    def fault(self, op: str, **fields: Any) -> Json:
        """Put a request that must end in an exception of the architecture and return that."""
        return self._want("fault", op, fields)

    def error(self, op: str, **fields: Any) -> Json:
        """Put a request that makes no sense and return the console's complaint."""
        return self._want("error", op, fields)
