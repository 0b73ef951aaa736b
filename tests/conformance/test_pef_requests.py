"""Requests that make little sense, on a host with work under way: each has an answer, nothing leaks."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from driver import OUTCOMES, Json, in_process
from pef_field import DEPTHS, HCALLS, MIB, PAGE, UCALLS

REQUESTS = 200
NUMBERS = [0, 1, 2, 3, 16, PAGE, PAGE + 1, MIB, 2 * MIB, 4 * MIB, 1 << 40, 1 << 48, 1 << 52, (1 << 64) - 1]
ODD = [-1, 1 << 64, "0x10", "0x", None, [], {}, True, 1.5, "é"]
CALLS = [*UCALLS.values(), *HCALLS.values(), 0xF800, 0xF804, 0xF808, 0xF80C, 0x300, 0xE0, 0xF000, 0x3C, 0]
SYSTEM_CALLS = [
    *("KVM_CREATE_VM", "KVM_CREATE_VCPU", "KVM_SET_USER_MEMORY_REGION", "KVM_ENABLE_CAP"),
    *("KVM_PPC_SVM_OFF", "KVM_PPC_CONFIGURE_V3_MMU", "close", "KVM_RUN"),
]
FIELDS = {
    "kvm": ("name", "vm", "vcpu", "slot", "gpa", "size", "cap"),
    "enter": ("vm", "vcpu", "stop", "stay", "gpr"),
    "guest": ("vm", "vcpu", "do", "replace"),
    "call": ("r3", "r4", "r5", "r6", "r8", "cpu"),
    "hcall": ("vm", "vcpu", "r3", "r4", "r5", "r6", "srr1"),
    "load": ("vm", "at", "kernel", "initrd", "cmdline"),
    "read": ("addr", "len", "space"),
    "write": ("addr", "hex", "space"),
    "fill": ("addr", "len", "byte", "space"),
    "cpu": ("lpidr", "pidr", "hv", "tm"),
    "alloc": ("len",),
    "free": ("addr",),
    "kick": ("cpu",),
}
OFTEN = ("kvm", "enter", "enter", "guest", "guest", "call", "call", "hcall")


class Typist:
    """Types whatever comes to mind."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def request(self) -> Json:
        op = self.random.choice((*FIELDS, *OFTEN, "audit", "counts", "info", "resume", "insn"))
        fields = {name: self.value(name) for name in FIELDS.get(op, ()) if self.random.random() < 0.9}
        if op == "enter":
            fields = {
                name: value for name, value in fields.items() if name in ("vm", "vcpu") or self.seldom()
            }
        return {"id": 1, "op": op, **fields}

    def seldom(self) -> bool:
        return self.random.random() < 0.2

    def value(self, name: str) -> Any:
        pick = self.random.choice
        if self.random.random() < 0.04:
            return pick(ODD)
        plain: dict[str, list[Any]] = {
            "name": SYSTEM_CALLS,
            "vm": [1, 1, 2, 2, 7],
            "vcpu": [0, 0, 0, 1],
            "cpu": [0, 0, 1],
            "slot": [0, 1, 2],
            "r3": CALLS,
            "space": ["phys", "vm:1", "vm:2", "vm:9"],
            "cap": ["KVM_CAP_PPC_SECURE_GUEST", "KVM_CAP_PPC_NESTED_HV", "x"],
            "hex": ["", "00", "ab" * 300],
            "len": [0, 1, PAGE, 4 * MIB],
            "cmdline": ["", "quiet"],
            "stay": [True, False],
            "hv": [True, True, True, False],
            "tm": ["none", "none", "active"],
            "replace": [False, True],
            "byte": [0, 255],
            "gpr": [{}, {"r3": 0}, {"r3": 1, "r12": 2}],
            "stop": [[], ["H_SVM_PAGE_IN"], ["0xe00", "H_SVM_INIT_DONE"], ["H_RTAS"]],
        }
        if name == "do":
            return [self.step() for _ in range(self.random.randrange(4))]
        return pick(plain.get(name, NUMBERS))

    def step(self) -> Json:
        gpa, other = self.random.choice(NUMBERS), self.random.choice(NUMBERS)
        registers = {"r3": self.random.choice(CALLS), "r4": gpa, "r5": other, "r6": 16}
        return self.random.choice(
            [
                {"touch": gpa},
                {"touch": gpa, "write": True, "value": "ab" * self.random.choice([0, 1, 9, 70])},
                {"read": gpa, "len": self.random.choice([0, 1, 70000])},
                {"fetch": gpa},
                {"exit": self.random.choice([0x500, 0xE40, 0x980, 0xF80])},
                {"call": registers, "pr": self.seldom()},
                {"hcall": registers},
                {"hcall": {"r3": 0xF804, "r4": gpa, "r5": other}, "do": [{"touch": gpa}]},
            ]
        )


def prepared(console: Any, lpid: int, secure: bool) -> None:
    def ok(op: str, **fields: Any) -> Json:
        body: Json = console.answer({"id": 0, "op": op, "vm": lpid, **fields})["ok"]
        return body

    ok("kvm", name="KVM_CREATE_VM")
    ok("kvm", name="KVM_SET_USER_MEMORY_REGION", slot=0, gpa=0, size=4 * MIB)
    for vcpu in (0, 1):
        ok("kvm", name="KVM_CREATE_VCPU", vcpu=vcpu)
    for cap in ("KVM_CAP_PPC_SECURE_GUEST", "KVM_CAP_PPC_NESTED_HV"):
        ok("kvm", name="KVM_ENABLE_CAP", cap=cap)
    areas = ok("load", at=MIB, kernel=PAGE, initrd=0, cmdline="")
    if secure:
        esm = {"r3": "0xf110", "r4": areas["kernel"], "r5": areas["fdt"]}
        ok("guest", vcpu=0, do=[{"call": esm}])
        assert ok("enter", vcpu=0)["secure"]


@pytest.mark.parametrize("seed", range(30))
def test_every_request_has_an_answer(seed: int) -> None:
    typist = Typist(seed)
    console = in_process("pef", DEPTHS[seed % 3], profile="small", memory_mib=32)
    for lpid in (1, 2):
        prepared(console, lpid, secure=bool(seed & lpid))
    for _ in range(REQUESTS):
        request = json.loads(json.dumps(typist.request()))
        answer = console.answer(request)
        assert [name in answer for name in OUTCOMES].count(True) == 1, (request, answer)
        json.dumps(answer)
        if "error" in answer and answer["error"]["code"] == "dead":
            assert console.answer({"id": 2, "op": "kill"})["ok"] == {}
    audit = console.answer({"id": 3, "op": "audit"})
    assert audit["ok"]["leaks"] == []
