"""Anything that is JSON gets one answer: requests of every op with values of every kind, on a living host.

Nothing here knows what an answer should be; held are its form, that an error changes nothing that can be
read, and that the host goes on afterwards.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from driver import Json
from s390_blocks import MIB, PAGE
from s390_field import Host
from s390_guest import FREE, IMAGE_AT, SecureGuest, boot_guest

OPS = [
    "info", "alloc", "free", "read", "write", "fill", "call", "insn", "enter", "guest", "kick", "resume",
    "cpu", "reset", "kill", "audit", "counts", "image", "nonsense", "", None, 5,
]  # fmt: skip
RARE = {"reset", "kill"}
FIELDS = {
    "alloc": ["len", "align", "above", "below"],
    "free": ["addr"],
    "read": ["addr", "len", "space", "cpu"],
    "write": ["addr", "hex", "space", "cpu"],
    "fill": ["addr", "len", "byte", "space", "cpu"],
    "call": ["r2", "r1", "m3", "m4", "park", "cpu"],
    "insn": ["name", "cpu"],
    "enter": ["vcpu", "stay", "park", "cpu"],
    "guest": ["vcpu", "do", "replace", "vm"],
    "kick": ["cpu"],
    "resume": ["call"],
    "cpu": ["cpu", "running", "problem_state", "dat", "prefix", "cr"],
    "reset": ["kind"],
    "counts": ["reset"],
    "image": ["components", "psw", "pcf", "scf", "keys"],
}
CODES = {"bad_json", "bad_request", "unknown_op", "bad_value", "limit", "dead"}


class Monkey:
    """Types requests; `random` decides everything."""

    def __init__(self, host: Host, guest: SecureGuest, seed: int) -> None:
        self.host, self.guest, self.random = host, guest, random.Random(seed)
        self.addresses = [
            0, 1, MIB, guest.sie, guest.sida, guest.plan["base"], guest.space.top,
            guest.space.target(IMAGE_AT), 2200 * MIB - 4, 2200 * MIB, (1 << 64) - 1, 1 << 64,
        ]  # fmt: skip

    def number(self) -> Any:
        value = self.random.choice([*self.addresses, 3, 8, PAGE, 255, -1, self.random.getrandbits(70)])
        return self.random.choice([value, hex(value)])

    def anything(self, deep: int = 0) -> Any:
        kinds = [
            self.number,
            lambda: self.random.choice(
                [True, False, None, 1.5, "", "x", "0x", "phys", "real", "home", "stck", "00ff"]
            ),
            lambda: self.random.choice(["modified-clear", "load-normal", "load-clear", "host", "other"]),
        ]
        if deep < 3:
            kinds += [lambda: [self.anything(deep + 1) for _ in range(self.random.randrange(3))], self.step]
            kinds.append(
                lambda: {self.random.choice(["touch", "len", "7", "gaddr"]): self.anything(deep + 1)}
            )
        return self.random.choice(kinds)()

    def step(self) -> Json:
        made: Json = self.random.choice(
            [
                {"touch": self.number(), "write": self.random.random() < 0.5},
                {"read": self.random.choice([hex(IMAGE_AT), hex(FREE)]), "len": 8},
                {"exit": "diag", "code": "0x500"},
                {"exit": "wait"},
                {"cpu": {"gprs": {"2": self.number()}}},
                {"call": {"r2": self.number()}},
            ]
        )
        return made

    def likely(self, field: str) -> Any:
        """A value of the kind that the field takes, most of the time."""
        if self.random.random() < 0.3:
            return self.anything()
        if field in ("addr", "r2", "vcpu", "above", "below", "prefix"):
            return hex(self.random.choice(self.addresses[:-1]))
        likely: dict[str, list[Any]] = {
            "cpu": [0, 0, 1, 2], "len": [1, 8, PAGE], "hex": ["00", "aabb" * 8],
            "space": ["phys", "real", "home"],
            "park": [False, False, True], "stay": [False, True], "name": ["stck", "stfle"],
            "do": [[self.step()], [self.step(), self.step()]],
            "running": [True, False],
            "cr": [{"1": hex(self.guest.space.asce)}, {"13": self.number()}], "kind": ["load-normal"],
            "components": [[{"gaddr": "0x10000", "len": 5}]], "align": [PAGE, 2 * PAGE], "call": [1, 2, 3],
        }  # fmt: skip
        return self.random.choice(likely.get(field, [self.anything()]))

    def request(self) -> Json:
        op = self.random.choice([op for op in OPS if op not in RARE or self.random.random() < 0.02])
        names = FIELDS.get(str(op), ["addr", "len"])
        made = {name: self.likely(name) for name in names if self.random.random() < 0.75}
        if self.random.random() < 0.05:
            made["host"] = self.anything()
        return {"op": op, **made}


@pytest.mark.parametrize("seed", range(3))
def test_any_request_gets_an_answer_of_the_contracts_form(host: Host, seed: int) -> None:
    monkey = Monkey(host, boot_guest(host), seed)
    host.cpu(1, running=True)
    for number in range(250):
        request = monkey.request()
        answer = host.keyboard.console.answer({"id": number, **request})
        assert answer["id"] == number
        (kind,) = set(answer) - {"id"}
        if kind == "error":
            assert answer["error"]["code"] in CODES, answer
            assert answer["error"]["message"], answer
        else:
            assert kind in ("ok", "fault"), answer
    host.ok("kill")
    host.forget()
    assert host.audit()["leaks"] == []
    host.init()
    assert boot_guest(host).fetch(IMAGE_AT, 7) == b"this is"


@pytest.mark.parametrize("seed", range(2))
def test_an_error_changes_nothing_that_can_be_read(host: Host, seed: int) -> None:
    guest = boot_guest(host)
    monkey = Monkey(host, guest, seed)
    watched = [MIB, guest.sie, guest.sida, guest.space.top]

    def looks() -> list[object]:
        cpus = [host.cpu(cpu) for cpu in range(3)]
        memory = [host.ask("read", addr=hex(at), len=PAGE) for at in watched]
        return [
            cpus,
            [{key: one for key, one in read.items() if key != "id"} for read in memory],
            host.books(),
        ]

    before = looks()
    for _ in range(60):
        answer = host.keyboard.console.answer({"id": 0, **monkey.request()})
        after = looks()
        if "error" in answer:
            assert after == before, answer
        before = after
