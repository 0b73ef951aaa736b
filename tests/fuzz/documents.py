"""What a person or a program gives the command: console lines, scenarios, policies, images, transcripts."""

from __future__ import annotations

import io
import json
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from random import Random
from typing import Any

import typer
from draw import EDGES, anything, changed

from actors.commands.hosted_serve import read_policy
from actors.exit_codes import USAGE
from actors.keyboard import Options, answer_line
from actors.record import BadTranscript, header_of, read, replay
from actors.scenario import BrokenScenario, UnreadableScenario, shipped, text_of
from actors.scenario import load as load_scenario
from protocol.arch import architectures, load
from protocol.hosting.messages import MESSAGES
from protocol.hosting.policy import BrokenPolicy, policy_from

FIELDS = (
    "addr", "len", "hex", "space", "cpu", "r2", "align", "above", "below", "byte", "park", "stay", "vcpu",
    "do", "kind", "call", "gpr", "rax", "rcx", "regs", "cmd", "name", "running", "vmcb", "host", "id",
)  # fmt: skip
CODES = {"bad_json", "bad_request", "unknown_op", "bad_value", "limit", "dead"}


def console(random: Random) -> Iterator[str]:
    """Lines to the console of any architecture: one answer each, of the contract's form."""
    arch = random.choice(architectures())
    keys: Any = load(arch).keyboard(depth=random.choice((0, 1)), hosts=2)
    ops = [op for op in keys._ops if op not in ("kill", "reset") or random.random() < 0.1]
    for number in range(60):
        request = {"id": number, "op": random.choice(ops)}
        for field in random.sample(FIELDS, random.randrange(6)):
            request[field] = _typed(random)
        line = json.dumps(request).encode()
        if random.random() < 0.2:
            line = changed(random, line)
        _, answer = answer_line(keys, line)
        (kind,) = set(answer) - {"id"}
        assert kind in ("ok", "fault", "error"), answer
        if kind == "error":
            assert answer["error"]["code"] in CODES, answer
        yield kind
    assert keys.answer({"op": "audit"})["ok"]["leaks"] == []


def _typed(random: Random) -> Any:
    way = random.randrange(6)
    if way < 3:
        value = random.choice((*EDGES, 4096, 8192, 3))
        return random.choice((value, hex(value)))
    if way == 3:
        return random.choice(("phys", "00" * 8, "stck", True, False, [], {}, None, "load-normal", ["0x1"]))
    made = anything(random)
    try:
        json.dumps(made)
    except (TypeError, ValueError):
        return 0
    return made


def scenario(random: Random) -> Iterator[str]:
    """Scenario files with mistakes: every one is read, or refused with a reason."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "some.toml"
        for _ in range(5):
            text = text_of(random.choice(sorted(shipped()))).encode()
            path.write_bytes(mistaken(random, text))
            try:
                load_scenario(str(path))
            except (BrokenScenario, UnreadableScenario) as error:
                assert str(error) or error.args
                yield "refused"
            else:
                yield "taken"


VALUES = (
    *("-1", "0", "1e9", '"x"', "[]", "true", "99999999999999999999", "{a=1}", '"\\u0000"', "nan", "-inf"),
    *("9" * 5000, "0x" + "f" * 5000, "[[[[1]]]]", "1979-05-27", '"\\u0000.toml"', '["x", ["y"]]', '"a..b"'),
)


def mistaken(random: Random, text: bytes) -> bytes:
    """Lines left out, doubled, with another value; then perhaps a wrong byte."""
    lines = text.splitlines(keepends=True)
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(lines))
        way = random.randrange(4)
        if way == 0:
            del lines[at]
        elif way == 1 and random.random() < 0.1:
            lines.insert(at, b"x = " + b"[" * 3000 + b"\n")
        elif way == 1:
            lines.insert(at, lines[random.randrange(len(lines))])
        elif b"=" in lines[at]:
            name = lines[at].split(b"=")[0]
            name = name.rstrip() + b".a" * random.choice((1, 9, 500)) if random.random() < 0.02 else name
            lines[at] = name + b"= " + random.choice(VALUES).encode() + b"\n"
        if not lines:
            break
    whole = b"".join(lines)
    return changed(random, whole) if random.random() < 0.3 else whole


POLICY = b"""[[rule]]
allow = true
calls = ["start", "stop"]
sources = [3, 4]
vcpus = 8
"""


def policy(random: Random) -> Iterator[str]:
    """Policies with mistakes, in a file and as tables."""
    for _ in range(20):
        data = mistaken(random, POLICY)
        yield _in_a_file(data)
        try:
            tables = tomllib.loads(data.decode())
        except (ValueError, RecursionError):
            yield "no toml"
            continue
        if random.random() < 0.3:
            tables[random.choice(("rule", "rules", "x"))] = anything(random)
        try:
            policy_from(tables, MESSAGES)
        except BrokenPolicy as error:
            assert error.wrong
            yield "refused"
        else:
            yield "taken"


def _in_a_file(data: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()) as told:
        path = Path(folder) / "policy.toml"
        path.write_bytes(data)
        try:
            read_policy(path)
        except typer.Exit as end:
            assert end.exit_code == USAGE
            assert str(path) in told.getvalue()
            return "refused"
    return "taken"


def transcript(random: Random) -> Iterator[str]:
    """Transcripts with mistakes: one is played again, or refused with the line that is wrong."""
    arch = random.choice(architectures())
    keys: Any = load(arch).keyboard(depth=1, hosts=1)
    lines: list[Any] = [header_of(Options(arch, 1))]
    for op in ("info", "alloc", "audit"):
        request = {"id": 1, "op": op, "len": 4096}
        lines.append({"request": request, "answer": keys.answer(request)})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.jsonl"
        for _ in range(5):
            text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
            data = mistaken(random, text) if random.random() < 0.5 else text
            path.write_bytes(changed(random, data) if random.random() < 0.5 else data)
            try:
                found = read(path)
                replay(found, load(arch).keyboard(depth=1, hosts=1), 1)  # type: ignore[arg-type]
            except BadTranscript as error:
                assert str(error)
                yield "refused"
            else:
                yield "taken"
