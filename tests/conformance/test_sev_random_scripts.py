"""Random hosts, right or wrong: whatever they do is answered alike at every depth.

A script is drawn from a seed and typed at depth 0, 1 and 2. What depends on keys (ciphertext, and what a
guest reads through a wrong key) is blanked; all else has to be equal: statuses, codes, faults, exits, RMP
entries, counts.
"""

from __future__ import annotations

import struct
from random import Random
from typing import Any

import pytest
from driver import Json, Keyboard, in_process
from sev_field import (
    C_BIT,
    HSAVE,
    IDS,
    MIB,
    PAGE,
    POLICY,
    RMP_AT,
    RMP_LEN,
    Sev,
    buffer,
)

BLOCK = 0x1000000  # 2 MiB of pages that the scripts fight over
SMALL = [0x2000000 + n * PAGE for n in range(10)]
BUFFER, STATE = 0x120000, 0x121000
TABLES = 0x130000  # a nested table for GPAs below 4 MiB
VMCBS = [0x140000, 0x141000, 0x142000]
SAVE = 0x150000
GPAS = [n * PAGE for n in range(8)] + [0x200000, 0x201000, 0x3FF000]

LEGACY = (
    "DECOMMISSION",
    "ACTIVATE",
    "DEACTIVATE",
    "GUEST_STATUS",
    "COPY",
    "LAUNCH_START",
    "LAUNCH_UPDATE_DATA",
    "LAUNCH_UPDATE_VMSA",
    "LAUNCH_MEASURE",
    "LAUNCH_FINISH",
    "ATTESTATION",
    "SEND_FINISH",
    "SEND_CANCEL",
    "RECEIVE_FINISH",
    "DBG_DECRYPT",
    "DBG_ENCRYPT",
    "SWAP_OUT",
    "SWAP_IN",
    "PLATFORM_STATUS",
    "DF_FLUSH",
    "GET_ID",
    "SHUTDOWN",
)
SNP = (
    "SNP_DECOMMISSION",
    "SNP_ACTIVATE",
    "SNP_GUEST_STATUS",
    "SNP_GCTX_CREATE",
    "SNP_LAUNCH_START",
    "SNP_LAUNCH_UPDATE",
    "SNP_LAUNCH_FINISH",
    "SNP_DBG_DECRYPT",
    "SNP_DBG_ENCRYPT",
    "SNP_PAGE_SWAP_OUT",
    "SNP_PAGE_SWAP_IN",
    "SNP_PAGE_MOVE",
    "SNP_PAGE_MD_INIT",
    "SNP_PAGE_RECLAIM",
    "SNP_PAGE_UNSMASH",
    "SNP_DF_FLUSH",
    "SNP_PLATFORM_STATUS",
    "SNP_GUEST_REQUEST",
    "SNP_CONFIG",
    "SNP_FEATURE_INFO",
)


class Script:
    """Requests, drawn one after the other."""

    def __init__(self, seed: int, snp: bool) -> None:
        self.random = Random(seed)
        self.snp = snp
        self.requests: list[Json] = []

    def ask(self, op: str, **fields: Any) -> None:
        self.requests.append({"op": op} | {n: hex(v) if type(v) is int else v for n, v in fields.items()})

    def write(self, address: int, data: bytes) -> None:
        self.ask("write", addr=address, hex=data.hex())

    def page(self) -> int:
        r = self.random
        if r.random() < 0.15:
            return BLOCK + r.choice((0, 0, PAGE, 511 * PAGE))
        return r.choice(SMALL)

    def asid(self) -> int:
        return self.random.choice((1, 1, 2, 2, 3, 8, 9, 0, 16))

    def update(self, page: int | None = None, **fields: int) -> None:
        r = self.random
        page = self.page() if page is None else page
        asid = fields.get("asid", r.choice((0, 0, self.asid())))
        gpa = fields.get("gpa", r.choice(GPAS) if asid else 0)
        size = fields.get("size", int(page == BLOCK and r.random() < 0.6))
        if size and "gpa" not in fields:
            gpa &= ~0x1FFFFF
        assigned = fields.get("assigned", int(r.random() < 0.75))
        immutable = fields.get("immutable", int(assigned and r.random() < 0.6))
        self.write(STATE, struct.pack("<QBBBxI", gpa, assigned, size, immutable, asid if assigned else 0))
        self.ask("insn", name="rmpupdate", rax=page, rcx=STATE)

    def command(self, name: str, **fields: Any) -> None:
        raw = buffer(name, **fields)
        at = BUFFER
        if self.snp and name in (
            "GUEST_STATUS",
            "PLATFORM_STATUS",
            "LAUNCH_START",
            "LAUNCH_MEASURE",
            "GET_ID",
        ):
            at = self.random.choice(SMALL[-2:])
        if raw:
            self.write(at, raw)
            if at != BUFFER:
                self.update(at, asid=0, assigned=1, immutable=1)
        self.ask("call", cmdresp=IDS[name] << 16, lo=at)
        if at != BUFFER:
            self.ask("call", cmdresp=IDS["SNP_PAGE_RECLAIM"] << 16, lo=BUFFER)

    def drawn(self) -> None:
        """A command with fields that may make sense."""
        r = self.random
        name = r.choice(SNP if self.snp and r.random() < 0.75 else LEGACY)
        fields: dict[str, Any] = {}
        wanted = {
            "gctx": lambda: r.choice(SMALL[:3]),
            "pa": self.page,
            "src": self.page,
            "dst": self.page,
            "req": self.page,
            "resp": self.page,
            "status": self.page,
            "mdata": lambda: r.choice(SMALL) + 64 * r.randrange(3),
            "asid": self.asid,
            "handle": lambda: r.choice((1, 1, 2, 3)),
            "len": lambda: r.choice((48, 64, 208, PAGE, PAGE, 2 * PAGE)),
            "policy": lambda: (
                r.choice((POLICY, POLICY | 1 << 19)) if name.startswith("SNP") else r.choice((0, 4, 1))
            ),
        }
        from sev_field import LAYOUT_OF, LAYOUTS

        for field in LAYOUTS.get(LAYOUT_OF.get(name, name), ("", ""))[1].split():
            if field in wanted:
                fields[field] = wanted[field]()
        if name == "LAUNCH_START":
            fields["handle"] = 0
        if name == "SNP_LAUNCH_UPDATE":
            fields["flags"] = r.choice((1, 1, 2, 3, 4, 0)) << 1 | (r.random() < 0.2)
        if name in ("SNP_PAGE_SWAP_OUT", "SNP_PAGE_SWAP_IN"):
            fields["flags"] = r.choice((0, 0, 2, 4, 0x12))
        if name == "SNP_FEATURE_INFO":
            fields["length"] = 0x10
        if name == "SNP_PAGE_RECLAIM" and r.random() < 0.2:
            fields["pa"] |= 1
        self.command(name, **fields)

    def release(self, *pages: int) -> None:
        """Take pages back, whatever they are."""
        for page in pages:
            self.write(BUFFER, struct.pack("<Q", page))
            self.ask("call", cmdresp=IDS["SNP_PAGE_RECLAIM"] << 16, lo=BUFFER)
            self.update(page, assigned=0, asid=0, gpa=0, size=0, immutable=0)

    def flush(self) -> None:
        for cpu in range(4):
            self.ask("insn", name="wbinvd", cpu=cpu)
        self.ask("call", cmdresp=IDS["SNP_DF_FLUSH" if self.snp else "DF_FLUSH"] << 16)

    def firmware_pages(self) -> None:
        """A few pages that commands may fill or turn into something."""
        for page in self.random.sample(SMALL[5:], 2):
            self.release(page)
            self.update(page, asid=0, gpa=0, assigned=1, immutable=1, size=0)

    def guest(self, number: int) -> None:
        """A whole guest at once, mapped and with a control block, so that scripts get further."""
        r = self.random
        gctx, vmsa, asid = SMALL[number], SMALL[3 + number], number + 1
        self.command("SNP_DECOMMISSION", gctx=gctx)
        self.release(gctx, vmsa, *SMALL[5:9])
        if r.random() < 0.8:
            self.flush()
        self.update(gctx, asid=0, assigned=1, immutable=1)
        self.command("SNP_GCTX_CREATE", gctx=gctx)
        self.command("SNP_LAUNCH_START", gctx=gctx, policy=r.choice((POLICY, POLICY | 1 << 19)))
        self.command("SNP_ACTIVATE", gctx=gctx, asid=asid)
        for gpa in r.sample(GPAS[:4], 2):
            page = SMALL[5 + gpa // PAGE]
            self.update(page, asid=asid, gpa=gpa, assigned=1, immutable=1, size=0)
            self.command("SNP_LAUNCH_UPDATE", gctx=gctx, pa=page, flags=2)
            self.write(TABLES + 3 * PAGE + 8 * (gpa // PAGE), struct.pack("<Q", page | 7))
        self.write(vmsa, bytes(0x3B0) + b"\1")
        self.update(vmsa, asid=asid, gpa=0x7000, assigned=1, immutable=1, size=0)
        self.command("SNP_LAUNCH_UPDATE", gctx=gctx, pa=vmsa, flags=4)
        if r.random() < 0.9:
            self.command("SNP_LAUNCH_FINISH", gctx=gctx)
        self.control(number, asid, 7, vmsa)
        self.enter(number)

    def control(self, n: int, asid: int, mode: int, vmsa: int) -> None:
        for at, data in (
            (0x58, struct.pack("<I", asid)),
            (0x90, struct.pack("<Q", mode)),
            (0xB0, struct.pack("<Q", TABLES)),
            (0x108, struct.pack("<Q", vmsa)),
        ):
            self.write(VMCBS[n] + at, data)

    def enter(self, n: int) -> None:
        self.ask("guest", vcpu=VMCBS[n], do=self.steps(), replace=True)
        self.ask("enter", vcpu=VMCBS[n], cpu=self.random.randrange(3))

    def stay(self) -> None:
        """A CPU stays in a guest while others act: more steps for it, tables and the RMP change under it."""
        r = self.random
        n, cpu = r.randrange(3), r.randrange(4)
        self.ask("guest", vcpu=VMCBS[n], do=self.steps()[:1], replace=True)
        self.ask("enter", vcpu=VMCBS[n], cpu=cpu, stay=True)
        for _ in range(r.randrange(1, 4)):
            r.choice((self.leaf, self.leaf, self.drawn, lambda: self.update() if self.snp else self.leaf()))()
            self.ask("guest", vcpu=VMCBS[n], do=self.steps())
        self.ask("kick", cpu=cpu)

    def park(self) -> None:
        """A command stands still behind its checks."""
        r = self.random
        self.drawn()
        called = self.requests.pop()
        if called["op"] != "call":
            self.requests.append(called)
            return
        self.requests.append(called | {"park": True, "id": "parked"})
        for _ in range(r.randrange(1, 4)):
            self.update() if self.snp else self.enter(r.randrange(3))
        self.ask("insn", name="psmash", rax=BLOCK)
        self.requests.append({"op": "resume", "call": "parked"})

    def legacy_guest(self, number: int) -> None:
        r = self.random
        policy = r.choice((0, 4))
        self.command("LAUNCH_START", policy=policy)
        self.command("ACTIVATE", handle=number, asid=number + (7 if not policy else 0))
        self.command("LAUNCH_UPDATE_DATA", handle=number, pa=SMALL[5 + number], len=r.choice((64, PAGE)))
        if policy:
            self.command("LAUNCH_UPDATE_VMSA", handle=number, pa=SMALL[3 + number], len=PAGE)
        self.command("LAUNCH_MEASURE", handle=number, pa=SMALL[9], len=48)
        self.command("LAUNCH_FINISH", handle=number)
        self.write(TABLES + 3 * PAGE, struct.pack("<Q", SMALL[5 + number] | 7))
        self.control(number, number + (7 if not policy else 0), 3 if not policy else 7, SMALL[3 + number])
        self.enter(number)

    def vcpu(self) -> None:
        r = self.random
        n = r.randrange(3)
        asid = r.choice((n + 1, n + 8, self.asid()))
        mode = r.choice((7, 7, 3, 1)) if asid < 8 else r.choice((3, 3, 1))
        self.control(n, asid, mode, r.choice((SMALL[3 + n % 2], self.page())))

    def leaf(self) -> None:
        """One entry of the nested table."""
        r = self.random
        if r.random() < 0.2:
            entry = r.choice((BLOCK | 0x87, TABLES + 4 * PAGE | 7, 0))
            self.write(TABLES + 2 * PAGE + 8, struct.pack("<Q", entry))
            return
        gpa = r.choice(GPAS)
        table = TABLES + (4 if gpa >> 21 else 3) * PAGE
        address = r.choice((self.page(), SMALL[5 + gpa // PAGE % 4], BLOCK + gpa % 0x200000))
        flags = r.choice((7, 7, 7, 5, 0))
        self.write(table + 8 * (gpa >> 12 & 0x1FF), struct.pack("<Q", address | flags if flags else 0))

    def steps(self) -> list[Json]:
        r = self.random
        made: list[Json] = []
        for _ in range(r.randrange(1, 4)):
            gpa = r.choice(GPAS)
            made.append(
                r.choice(
                    (
                        {"read": hex(gpa | C_BIT), "len": 4},
                        {"read": hex(gpa), "len": 4},
                        {"touch": hex(gpa | C_BIT), "write": True, "value": "2a2b"},
                        {"touch": hex(gpa), "write": True},
                        {"touch": hex(gpa | C_BIT), "write": False},
                        {
                            "insn": "pvalidate",
                            "rax": hex(gpa),
                            "ecx": int(gpa == 0x200000),
                            "edx": r.randrange(2),
                        },
                        {"insn": "pvalidate", "rax": hex(gpa), "edx": 1},
                        {"insn": "rmpadjust", "rax": hex(gpa), "rdx": hex(r.choice((0x101, 0x302, 0x10001)))},
                        {"exit": r.choice(("vmgexit", "hlt"))},
                    )
                )
            )
        return made

    def draw(self, length: int) -> list[Json]:
        r = self.random
        while len(self.requests) < length:
            what = r.random()
            if what < 0.3:
                self.drawn()
            elif what < 0.42 and self.snp:
                self.update()
            elif what < 0.46:
                self.ask("insn", name="psmash", rax=BLOCK)
            elif what < 0.5:
                (self.guest(r.randrange(2)) if self.snp else self.legacy_guest(r.randrange(1, 3)))
            elif what < 0.52:
                self.vcpu()
            elif what < 0.6:
                self.leaf()
            elif what < 0.64:
                self.stay()
            elif what < 0.67:
                self.park()
            elif what < 0.78:
                self.enter(r.randrange(3))
            elif what < 0.82:
                self.write(self.page() + 16 * r.randrange(3), r.randbytes(16))
            elif what < 0.84:
                self.flush()
            elif what < 0.87 and self.snp:
                self.release(self.page())
            elif what < 0.9 and self.snp:
                self.firmware_pages()
            else:
                page = self.page()
                self.ask("read", addr=RMP_AT + 0x4000 + 16 * (page // PAGE), len=16)
        return self.requests


def prepared(depth: int, snp: bool, **options: Any) -> Keyboard:
    """A host with its platform up, a nested table and save areas at fixed places."""
    keyboard = Keyboard(in_process("sev", depth, **options), depth)
    host = Sev(keyboard)
    if snp:
        host.snp_up()
    tmr = host.alloc(2 * MIB, 2 * MIB, above=RMP_AT + RMP_LEN)
    if snp:
        host.firmware(*range(tmr, tmr + 2 * MIB, PAGE))
    host.did("INIT", flags=1, tmr=tmr, tmr_len=2 * MIB if snp else MIB)
    host.flush()
    for n, below in enumerate((1, 2, 3)):
        host.write(TABLES + n * PAGE, struct.pack("<Q", TABLES + below * PAGE | 7))
    host.write(TABLES + 2 * PAGE + 8, struct.pack("<Q", TABLES + 4 * PAGE | 7))
    for cpu in range(host.cpus):
        host.wrmsr(HSAVE, SAVE + cpu * PAGE, cpu)
    host.ok("counts")
    return keyboard


def answered(keyboard: Keyboard, request: Json) -> Json:
    """Most requests are numbered by the keyboard; one that is parked has an id that can be named again."""
    if "id" not in request:
        return keyboard.ask(**request)
    answer: Json = keyboard.console.answer(request)
    return answer


def blanked(request: Json, answer: Json) -> Json:
    """Without what depends on keys: bytes that a guest read, and host reads outside of the RMP."""
    if request["op"] == "read" and "ok" in answer and not _in_the_rmp(request):
        answer["ok"]["hex"] = len(answer["ok"]["hex"])
    if request["op"] in ("enter", "kick", "guest"):
        bodies = [answer.get("ok") or {}, answer.get("fault") or {}]
        for body in (*bodies, bodies[0].get("exit", {})):
            for step in body.get("steps", []):
                if "hex" in step:
                    step["hex"] = len(step["hex"])
    return answer


def _in_the_rmp(request: Json) -> bool:
    return RMP_AT <= int(request["addr"], 16) < RMP_AT + RMP_LEN


def played(depth: int, script: Script, requests: list[Json], **options: Any) -> list[Json]:
    keyboard = prepared(depth, script.snp, **options)
    answers = [blanked(request, answered(keyboard, request)) for request in requests]
    counts = keyboard.ok("counts")
    del counts["machine"]
    assert keyboard.ok("audit")["leaks"] == [], f"after the script, depth {depth}"
    keyboard.ok("reset", kind="power")
    book = keyboard.ok("audit")
    assert book["leaks"] == []
    assert not any(book["hosts"][0]["te"].values()), f"left behind: {book}"
    return [*answers, counts]


def compare(seed: int, snp: bool, length: int, kind: type[Script] = Script) -> None:
    script = kind(seed, snp)
    requests = script.draw(length)
    truth = played(0, script, requests)
    for depth in (1, 2):
        other = played(depth, script, requests)
        for n, (wanted, got) in enumerate(zip(truth, other, strict=True)):
            asked = requests[n] if n < len(requests) else "counts"
            assert wanted == got, f"seed {seed}, request {n} at depth {depth}: {asked}\n{wanted}\n{got}"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("snp", [True, False], ids=["snp", "legacy"])
def test_a_random_host_cannot_tell_how_deep_it_is(seed: int, snp: bool) -> None:
    compare(seed, snp, 60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
@pytest.mark.parametrize("snp", [True, False], ids=["snp", "legacy"])
def test_many_random_hosts_cannot_tell_how_deep_they_are(seed: int, snp: bool) -> None:
    compare(seed, snp, 300)
