"""Random scripts for TDX consoles: what a host might do, sensible more often than not.

A script goes to several consoles at once, and every answer has to be the same. What comes next depends on the
answers so far, so a script gets far: TDs are built, run, shared memory is mapped, calls are parked.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Any

from driver import Json, Keyboard
from tdx_field import PRESENT_LEAF, PRESENT_TABLE, SHARED, TdxHost, td_params
from tdx_names import GIB, LEAVES, MIB2, PAGE

GPAS = (0, PAGE, 2 * PAGE, MIB2, MIB2 + PAGE, GIB)
FIELDS = (
    0x8010000000000001,
    0x8010000300000010,
    0x8010000300000013,
    0x8110000100000001,
    0x8110000300000002,
    0x1110000300000004,
    0x9010000200000001,
    0x9210000300000000,
)
VP_FIELDS = (
    0xA020000200000004,
    0xA020000300000010,
    0xA020000300000012,
    0x0024000300002016,
    0x002400030000203C,
    0x0024000200004000,
)
OP_STATES = (
    *("INITIALIZED", "RUNNABLE", "LIVE_EXPORT", "PAUSED_EXPORT", "POST_EXPORT", "MEMORY_IMPORT"),
    *("STATE_IMPORT", "POST_IMPORT", "LIVE_IMPORT", "FAILED_IMPORT"),
)
GOOD, ANY = 0.9, 0.6
ENOUGH = 3  # TDs: the others are found more often then


class Together:
    """Keyboards of one kind at several depths: one request to all, one answer back."""

    def __init__(self, keyboards: Sequence[Keyboard]) -> None:
        self.keyboards = keyboards
        self.depth = keyboards[0].depth

    @property
    def transcript(self) -> list[Any]:
        return self.keyboards[0].transcript

    def ask(self, op: str, **fields: Any) -> Json:
        answers = [keyboard.ask(op, **fields) for keyboard in self.keyboards]
        for keyboard, answer in zip(self.keyboards, answers, strict=True):
            if op == "info":  # which says the depth
                answer["ok"].pop("depth")
            assert answer == answers[0], f"depth {keyboard.depth}: {op} {fields}"
        return answers[0]

    def ok(self, op: str, **fields: Any) -> Json:
        answer = self.ask(op, **fields)
        assert "ok" in answer, f"{op} {fields}: {answer}"
        body: Json = answer["ok"]
        return body

    def fault(self, op: str, **fields: Any) -> Json:
        body: Json = self.ask(op, **fields)["fault"]
        return body

    def error(self, op: str, **fields: Any) -> Json:
        body: Json = self.ask(op, **fields)["error"]
        return body


class Script:
    def __init__(self, random: Random, host: TdxHost, migration: bool = False) -> None:
        self.random = random
        self.migration = migration
        self.host = host
        self.tdrs: list[int] = []
        self.vcpus: list[int] = []
        self.pages: list[int] = []  # given to TDs at some time
        self.roots: list[int] = []  # shared EPTs
        self.tables: list[int] = []
        self.parked: list[int] = []

    def step(self) -> None:
        action = self.random.choices(
            (
                *(self.seamcall, self.build, self.grow, self.shrink, self.run, self.shared),
                *(self.touch, self.settle, self.drop, self.migrate, self.system),
            ),
            (12, 2 if len(self.tdrs) < ENOUGH else 0.1, 6, 6, 8, 5, 3, 2, 0.5, 6 if self.migration else 0, 1),
        )[0]
        action()

    # -- operands ----------------------------------------------------------------------------------

    def tdr(self) -> int:
        return self._one(self.tdrs)

    def vcpu(self) -> int:
        return self._one(self.vcpus)

    def page(self, size: int = PAGE) -> int:
        """One that nobody has, or any other."""
        if self.random.random() < GOOD:
            page = self.host.alloc(size, size)
            self.pages.append(page)
            return page
        return self._one(self.pages)

    def gpa(self, level: int) -> int:
        gpa = self.random.choice(GPAS)
        if self.random.random() < GOOD:
            gpa &= ~((1 << (12 + 9 * level)) - 1)
        return gpa | level

    def _one(self, known: list[int]) -> int:
        if known and self.random.random() < GOOD:
            return self.random.choice(known)
        return self.random.choice(
            (*self.tdrs, *self.vcpus, *self.pages, 0, 0x123, GIB, 3 * GIB, 5 * GIB, 40 << 20, 17 << 46)
        )

    # -- actions -----------------------------------------------------------------------------------

    def ask(self, leaf: str, cpu: int | None = None, park: bool = False, version: int = 0, **r: int) -> Json:
        rax = LEAVES[leaf] | version << 16
        cpu = self.random.randrange(2) if cpu is None else cpu
        more = {"park": True} if park else {}
        asked = self.host.ask("call", rax=rax, cpu=cpu, **more, **r)
        if asked.get("ok") == {"parked": True}:
            self.parked.append(self.host.keyboard.transcript[-1][0]["id"])
        return asked

    def seamcall(self) -> None:
        leaf, version, operands = self.random.choice(self._leaves())
        self.ask(leaf, park=self.random.random() < 0.07, version=version, **operands)

    def _leaves(self) -> list[tuple[str, int, dict[str, int]]]:
        level = self.random.choice((0, 0, 0, 1, 1, 2, 3))
        where = {"rcx": self.gpa(level), "rdx": self.tdr()}
        mask = (1 << 64) - 1
        return [
            ("MNG.CREATE", 0, {"rcx": self.page(), "rdx": self.random.randrange(14, 24)}),
            ("MNG.KEY.CONFIG", 0, {"rcx": self.tdr()}),
            ("MNG.ADDCX", 0, {"rcx": self.page(), "rdx": self.tdr()}),
            ("MNG.INIT", 0, {"rcx": self.tdr(), "rdx": self.host.buffer(td_params())}),
            ("MNG.RD", self.random.randrange(2), {"rcx": self.tdr(), "rdx": self.random.choice(FIELDS)}),
            ("MNG.VPFLUSHDONE", 0, {"rcx": self.tdr()}),
            ("MNG.KEY.FREEID", 0, {"rcx": self.tdr()}),
            ("MR.FINALIZE", 0, {"rcx": self.tdr()}),
            ("MR.EXTEND", 0, where),
            ("VP.CREATE", 0, {"rcx": self.page(), "rdx": self.tdr()}),
            ("VP.ADDCX", 0, {"rcx": self.page(), "rdx": self.vcpu()}),
            ("VP.INIT", 0, {"rcx": self.vcpu()}),
            ("VP.FLUSH", 0, {"rcx": self.vcpu()}),
            ("VP.RD", self.random.randrange(3), {"rcx": self.vcpu(), "rdx": self.random.choice(VP_FIELDS)}),
            (
                "VP.WR",
                0,
                {
                    "rcx": self.vcpu(),
                    "rdx": self.random.choice(VP_FIELDS),
                    "r8": self._one([*self.pages, 0x100040]),
                    "r9": mask,
                },
            ),
            ("MEM.SEPT.ADD", 0, where | {"r8": self.page()}),
            ("MEM.SEPT.ADD", 0, {"rcx": where["rcx"], "rdx": where["rdx"] | 1, "r8": self.page()}),
            (
                "MEM.SEPT.ADD",
                1,
                {
                    "rcx": where["rcx"],
                    "rdx": where["rdx"] | 1,
                    "r8": self.random.choice((mask, self.page())),
                    "r9": mask,
                    "r10": mask,
                    "r11": mask,
                },
            ),
            ("MEM.SEPT.REMOVE", 0, where),
            ("MEM.SEPT.RD", 0, where),
            ("MEM.PAGE.ADD", 0, where | {"r8": self.page(), "r9": self.host.plain()}),
            ("MEM.PAGE.AUG", 0, where | {"r8": self.page(MIB2 if level == 1 else PAGE)}),
            ("MEM.RANGE.BLOCK", 0, where),
            ("MEM.RANGE.UNBLOCK", 0, where),
            ("MEM.TRACK", 0, {"rcx": self.tdr()}),
            ("MEM.PAGE.REMOVE", 0, where),
            ("MEM.PAGE.RELOCATE", 0, where | {"r8": self.page()}),
            ("MEM.PAGE.DEMOTE", 0, where | {"r8": self.page()}),
            ("MEM.PAGE.PROMOTE", 0, where),
            ("MEM.RD", 0, where),
            ("MEM.WR", 0, where | {"r8": 7}),
            ("PHYMEM.PAGE.RDMD", 0, {"rcx": self._one(self.pages)}),
            ("PHYMEM.PAGE.RECLAIM", 0, {"rcx": self._one(self.pages)}),
            ("PHYMEM.PAGE.WBINVD", 0, {"rcx": self._one(self.pages) | self.random.choice((0, 17 << 46))}),
            ("PHYMEM.CACHE.WB", 0, {"rcx": self.random.randrange(2)}),
        ]

    def build(self) -> None:
        """A TD, as far as it gets: calls that are parked may be in the way."""
        tdr, hkid = self.host.alloc(), self.random.randrange(17, 40)
        self.pages.append(tdr)
        if self.ask("MNG.CREATE", rcx=tdr, rdx=hkid).get("ok", {}).get("rax") != "0x0":
            return
        self.tdrs.append(tdr)
        self.ask("MNG.KEY.CONFIG", rcx=tdr)
        for _ in range(6):
            self.ask("MNG.ADDCX", rcx=self.fresh(), rdx=tdr)
        params = td_params(attributes=self.random.choice((0, 1, 1 << 28)))
        self.ask("MNG.INIT", rcx=tdr, rdx=self.host.buffer(params))
        for _ in range(self.random.choice((1, 2))):
            tdvpr = self.fresh()
            if self.ask("VP.CREATE", rcx=tdvpr, rdx=tdr).get("ok", {}).get("rax") == "0x0":
                self.vcpus.append(tdvpr)
            for _ in range(5):
                self.ask("VP.ADDCX", rcx=self.fresh(), rdx=tdvpr)
            self.ask("VP.INIT", rcx=tdvpr)
        for level in (3, 2, 1):
            self.ask("MEM.SEPT.ADD", rcx=level, rdx=tdr, r8=self.fresh())
        self.ask("MEM.PAGE.ADD", rcx=0, rdx=tdr, r8=self.fresh(), r9=self.host.plain())
        if self.random.random() < ANY:
            self.ask("MR.FINALIZE", rcx=tdr)

    def migrate(self) -> None:
        """Another op state, and calls that only a migration makes."""
        tdr, choice = self.tdr(), self.random.choice
        if self.random.random() < 0.4:
            self.host.ask("stage", vm=tdr, op_state=choice(OP_STATES))
            return
        leaf = choice([name for name in LEAVES if name.startswith(("EXPORT.", "IMPORT.", "SERVTD.", "MIG."))])
        by_rdx = leaf in ("EXPORT.BLOCKW", "EXPORT.UNBLOCKW", "EXPORT.MEM", "EXPORT.RESTORE", "IMPORT.MEM")
        if leaf == "MIG.STREAM.CREATE":
            registers = {"rcx": self.page(), "rdx": tdr}
        elif leaf.endswith("STATE.VP"):
            registers = {"rcx": self.vcpu()}
        else:
            registers = {"rcx": self.gpa(0), "rdx": tdr} if by_rdx else {"rcx": tdr, "rdx": self.tdr()}
        buffer = choice((0, 48 << 52 | self.host.plain(), 48 << 52 | 8, 48 << 52 | 33 << 20))
        self.ask(leaf, park=self.random.random() < 0.05, r8=buffer, r10=choice((0, 0, 1)), **registers)

    def system(self) -> None:
        """Calls about the platform, which is up already."""
        choice, buffer = self.random.choice, self.host.plain()
        leaf, registers = choice(
            (
                ("SYS.INIT", {}),
                ("SYS.LP.INIT", {}),
                ("SYS.KEY.CONFIG", {}),
                ("SYS.TDMR.INIT", {"rcx": choice((0, GIB, 2 * GIB, 3 * GIB))}),
                ("SYS.CONFIG", {"rcx": buffer, "rdx": choice((0, 1, 65)), "r8": choice((16, 40, 90))}),
                ("SYS.INFO", {"rcx": buffer, "rdx": choice((0, 1024)), "r8": buffer + 1024, "r9": 32}),
                ("SYS.RD", {"rdx": choice((0x0A00000300000008, 0x9000000100000000, 5))}),
                ("SYS.RDALL", {"rdx": self._one([buffer]), "r8": choice((0, (1 << 64) - 1))}),
                ("SYS.UPDATE", {}),
                ("SYS.LP.SHUTDOWN", {}),
                ("MNG.KEY.RECLAIMID", {"rcx": self.tdr()}),
            )
        )
        self.ask(leaf, **registers)
        self.host.ask("read", addr=buffer, len=1600)

    def grow(self) -> None:
        """Tables and pages for a guest address, added or to be accepted."""
        tdr, gpa = self.tdr(), self.random.choice(GPAS)
        for level in (3, 2, 1):
            first = gpa & ~((1 << (12 + 9 * level)) - 1)
            if self.random.random() < ANY:
                self.ask("MEM.SEPT.ADD", rcx=first | level, rdx=tdr, r8=self.fresh())
        large = self.random.random() < 0.3
        size = MIB2 if large else PAGE
        page = self.host.alloc(size, size)
        self.pages.append(page)
        self.ask("MEM.PAGE.AUG", rcx=gpa & ~(size - 1) | large, rdx=tdr, r8=page)

    def shrink(self) -> None:
        """Take something from a TD, or change its place or size, in the right order or not."""
        tdr, level = self.tdr(), self.random.choice((0, 0, 1, 1, 2))
        rcx = self.random.choice(GPAS) & ~((1 << (12 + 9 * level)) - 1) | level
        if self.random.random() < GOOD:
            self.ask("MEM.RANGE.BLOCK", rcx=rcx, rdx=tdr)
        for _ in range(self.random.randrange(3)):
            self.ask("MEM.TRACK", rcx=tdr)
        last = self.random.choice(
            ("MEM.PAGE.REMOVE", "MEM.PAGE.RELOCATE", "MEM.PAGE.DEMOTE", "MEM.PAGE.PROMOTE", "MEM.SEPT.REMOVE")
        )
        more = {"r8": self.fresh()} if last in ("MEM.PAGE.RELOCATE", "MEM.PAGE.DEMOTE") else {}
        self.ask(last, rcx=rcx, rdx=tdr, park=self.random.random() < 0.1, **more)
        if self.random.random() < ANY:
            self.ask("MEM.RANGE.UNBLOCK", rcx=rcx, rdx=tdr)

    def fresh(self) -> int:
        self.pages.append(self.host.alloc())
        return self.pages[-1]

    def run(self) -> None:
        """Enter a VCPU whose guest touches, reads, accepts, calls."""
        vcpu = self.vcpu()
        steps: list[Json] = []
        for _ in range(self.random.randrange(1, 4)):
            shared = SHARED if self.random.random() < 0.5 else 0
            gpa = hex(self.random.choice(GPAS) | shared)
            steps.append(
                self.random.choice(
                    (
                        {"touch": gpa, "write": True, "value": "0x5a"[2:]},
                        {"touch": gpa, "write": False},
                        {"read": gpa, "len": 16},
                        {"call": {"rax": "0x6", "rcx": hex(self.random.choice(GPAS))}},
                        {"call": {"rax": "0x1"}},
                        {"call": {"rax": "0x3"}},
                        {"call": {"rax": "0x0", "rcx": "0xc00", "r11": "0xc"}},
                        {"exit": self.random.choice(("external_interrupt", "nmi"))},
                    )
                )
            )
        if self.random.random() < ANY:
            self.settle()
        asked = self.host.ask("guest", vm=0, vcpu=vcpu, do=steps, replace=self.random.random() < 0.5)
        if "ok" in asked:
            self.host.ask("enter", vcpu=vcpu, cpu=self.random.randrange(2), stay=self.random.random() < 0.2)

    def shared(self) -> None:
        """Make, change or set a shared EPT."""
        write, choice = self.host.write, self.random.choice
        if not self.roots or self.random.random() < 0.2:
            chain = [self.host.plain() for _ in range(4)]
            for upper, lower in pairwise(chain):
                slot = 256 if upper == chain[0] else 0
                write(upper + 8 * slot, struct.pack("<Q", lower | PRESENT_TABLE))
            write(chain[3], struct.pack("<Q", self.host.plain() | PRESENT_LEAF))
            self.roots.append(chain[0])
            self.tables.extend(chain)
        elif self.random.random() < 0.5:
            entry = choice(
                (
                    0,
                    1 << 63,
                    choice(self.tables) | PRESENT_TABLE,
                    self.host.plain() | PRESENT_LEAF,
                    (self.host.plain() | PRESENT_LEAF) & ~2,
                    choice((0, GIB, 8 * GIB)) | PRESENT_LEAF | 1 << 7,
                    2,
                )
            )
            at = choice(self.tables) + 8 * choice((0, 1, 2, 256))
            self.host.ask("write", addr=at, hex=struct.pack("<Q", entry).hex())
        else:
            root = choice(self.roots)
            self.ask("VP.WR", rcx=self.vcpu(), rdx=0x002400030000203C, r8=root, r9=(1 << 64) - 1)

    def touch(self) -> None:
        """The host's own accesses, to its memory and to what it gave away."""
        page = self._one(self.pages) & ((1 << 46) - 1)
        kind = self.random.randrange(4)
        if kind == 0:
            self.host.ask("write", addr=page & ~7, hex="a5" * 8)
        elif kind == 1:
            self.host.ask("insn", name="movdir64b", address=page & ~63, hex="5a" * 64)
        else:
            self.host.ask("read", addr=page, len=32)

    def settle(self) -> None:
        """Let go on what is parked or stays."""
        while self.parked:
            of = {"host": self.host.which} if self.host.which else {}
            self.host.keyboard.ask("resume", **of, call=self.parked.pop())
        for cpu in (0, 1):
            self.host.ask("kick", cpu=cpu)
        self.host.ask("cpu", cpu=self.random.randrange(2), interrupt=self.random.random() < ANY)

    def drop(self) -> None:
        """Take a TD's key away, perhaps; the whole machine, seldom."""
        self.settle()
        if self.random.random() < 0.15:
            if self.random.random() < 0.5:
                self.host.ask("kill")
            else:
                self.host.ask("reset", kind="boot")
            self.tdrs.clear()
            self.vcpus.clear()
            self.host.boot((1, 2))
            return
        tdr = self.tdr()
        for vcpu in self.vcpus:
            self.ask("VP.FLUSH", rcx=vcpu)
        self.ask("MNG.VPFLUSHDONE", rcx=tdr)
        for cpu in (0, 1, 0, 1):
            self.ask("PHYMEM.CACHE.WB", cpu, rcx=0)
        self.ask("MNG.KEY.FREEID", rcx=tdr)
        for page in self.pages:
            if self.random.random() < ANY:
                self.ask("PHYMEM.PAGE.RECLAIM", rcx=page)


def pages_of(audit: Json) -> list[dict[str, int]]:
    """What the module holds, of each host."""
    return [host["te"] for host in audit["hosts"]]
