"""What a person or a program gives the command: console lines, scenarios, policies, images, transcripts."""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from draw import EDGES, anything, changed

from actors.console import answer_line
from actors.record import BadTranscript, read
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
            path.write_bytes(_mistaken(random, text))
            try:
                load_scenario(str(path))
            except (BrokenScenario, UnreadableScenario) as error:
                assert str(error) or error.args
                yield "refused"
            else:
                yield "taken"


def _mistaken(random: Random, text: bytes) -> bytes:
    """Lines left out, doubled, with another value; then perhaps a wrong byte."""
    lines = text.splitlines(keepends=True)
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(lines))
        way = random.randrange(4)
        if way == 0:
            del lines[at]
        elif way == 1:
            lines.insert(at, lines[random.randrange(len(lines))])
        elif b"=" in lines[at]:
            values = ("-1", "0", "1e9", '"x"', "[]", "true", "99999999999999999999", "{a=1}", '"\\u0000"')
            name = lines[at].split(b"=")[0]
            lines[at] = name + b"= " + random.choice(values).encode() + b"\n"
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
    """Policies with mistakes."""
    for _ in range(20):
        try:
            tables = tomllib.loads(_mistaken(random, POLICY).decode())
        except ValueError:
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


def transcript(random: Random) -> Iterator[str]:
    """Transcripts with mistakes."""
    lines = [
        {"nestbed": "0", "arch": "pef", "depth": 1},
        {"id": 1, "op": "info"},
        {"id": 1, "ok": {}},
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.jsonl"
        for _ in range(5):
            text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
            path.write_bytes(_mistaken(random, changed(random, text)))
            try:
                read(path)
            except BadTranscript as error:
                assert str(error)
                yield "refused"
            else:
                yield "taken"


def image(random: Random) -> Iterator[str]:
    """Image files of s390 with mistakes, and other bytes."""
    owner: Any = load("s390").owner  # type: ignore[attr-defined]
    made, _ = owner.build(
        {"kernel": random.randbytes(8192), "initrd": b"", "cmdline": b""}, seed=1, machines=[1]
    )
    for _ in range(10):
        data = changed(random, made) if random.random() < 0.8 else random.randbytes(5000)
        for look in (owner.measure, partial(owner.describe, machines=[1])):
            try:
                look(data)
            except ValueError as error:
                assert str(error)
                yield "refused"
            else:
                yield "taken"
