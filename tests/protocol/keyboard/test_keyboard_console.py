"""What every keyboard does alike, on an architecture that is nothing but its smallest example."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pytest

from protocol.effects import Fault, Idle, Park, Step, issue, parked
from protocol.errors import LocalProtocolError, OwnerGone
from protocol.keyboard import (
    AllocationBook,
    Answer,
    Begun,
    Complaint,
    Fields,
    Keyboard,
    Raised,
    SecureHost,
    Space,
)

PAGE = 256
MEMORY = 16 * PAGE


class ToySpace:
    """Bytes; the last page is refused."""

    def __init__(self, data: bytearray) -> None:
        self.data = data

    def read(self, address: int, length: int) -> bytes | Fault:
        return self._refusal(address, length, False) or bytes(self.data[address : address + length])

    def write(self, address: int, data: bytes) -> Fault | None:
        fault = self._refusal(address, len(data), True)
        if fault is None:
            self.data[address : address + len(data)] = data
        return fault

    def fill(self, address: int, length: int, byte: int) -> Fault | None:
        return self.write(address, bytes((byte,)) * length)

    def _refusal(self, address: int, length: int, write: bool) -> Fault | None:
        return Fault(5, "addressing", address, write) if address + length > MEMORY - PAGE else None


class Toy(SecureHost):
    """A call holds a lock and answers it; a guest echoes; `die` kills the machine."""

    memory, cpus = MEMORY, 2

    def __init__(self) -> None:
        super().__init__(AllocationBook([(PAGE, MEMORY - PAGE)], PAGE))
        self.data = bytearray(MEMORY)
        self.locked: set[str] = set()
        self.undone: list[str] = []
        self.programs: dict[Hashable, list[str]] = {}
        self.results: dict[Hashable, list[dict[str, Any]]] = {}
        self.stopped: set[int] = set()
        self.acts = {"calls": {"lock": 0}, "resets": 0}
        self.log: list[str] = []

    spaces = "phys"

    def space(self, name: str, cpu: int) -> Space | None:
        return ToySpace(self.data) if name == "phys" else None

    def in_use(self, address: int, length: int) -> int | None:
        return 2 * PAGE if address <= 2 * PAGE < address + length else None

    def zero(self, address: int, length: int) -> None:
        self.data[address : address + length] = bytes(length)

    def may_issue(self, cpu: int) -> None:
        if cpu in self.stopped:
            raise Complaint("bad_value", "stopped", "cpu")

    def call(self, fields: Fields, cpu: int, park: bool) -> Begun:
        return Begun(self._lock(fields.text("lock"), park))

    def _lock(self, lock: str, park: bool) -> Step[Answer]:
        self.acts["calls"]["lock"] += 1  # type: ignore[index]
        if lock == "die":
            self.dead = "the machine stands still"
        if lock == "undo":
            yield from self._undoing()
        if lock == "away":
            yield from issue("elsewhere")
        if lock in self.locked:
            return {"busy": True}
        self.locked.add(lock)
        try:
            yield from parked(park)
        except OwnerGone:
            self.undone.append(lock)
            raise
        finally:
            self.locked.discard(lock)
        return {"locked": lock}

    def _undoing(self) -> Step[None]:
        try:
            yield Park()
        except OwnerGone:
            yield Park()
            self.undone.append("in two steps")
            raise

    def insn(self, fields: Fields, cpu: int) -> Answer:
        return {"name": fields.choice("name", ("nop",))}

    def enter(self, fields: Fields, cpu: int, stay: bool, park: bool) -> Begun:
        vcpu = fields.number("vcpu")
        return Begun(self._run(vcpu, stay, park), vcpu)

    def _run(self, vcpu: int, stay: bool, park: bool) -> Step[Answer]:
        yield from parked(park)
        program = self.programs.setdefault(vcpu, [])
        while True:
            while program:
                step = program.pop(0)
                if step == "exit":
                    return {"reason": "exit", "steps": self.collect(vcpu)}
                if step == "fault":
                    return self.fault(Fault(5, "addressing", 0))
                self.results.setdefault(vcpu, []).append({"echo": step})
            if not stay:
                return {"reason": "idle", "steps": self.collect(vcpu)}
            if not (yield Idle()):
                return {"reason": "kicked", "steps": self.collect(vcpu)}

    def queue(self, fields: Fields, replace: bool) -> tuple[Hashable, int]:
        vcpu = fields.number("vcpu")
        steps = [step.text("do") for step in fields.objects("do", 10)]
        program = self.programs.setdefault(vcpu, [])
        program[:] = steps if replace else [*program, *steps]
        return vcpu, len(program)

    def collect(self, vcpu: Hashable) -> list[dict[str, Any]]:
        done, self.results[vcpu] = self.results.get(vcpu, []), []
        return done

    def settings(self, fields: Fields, cpu: int) -> dict[str, Any]:
        if fields.flag("stopped"):
            self.stopped.add(cpu)
        return {"stopped": cpu in self.stopped}

    def fault(self, fault: Fault) -> Raised:
        return Raised({"code": hex(fault.code), "write": fault.write})

    reset_kinds = ("soft", "hard")

    def reset(self, kind: str) -> Step[None]:
        assert not self.busy, "a reset meets no CPU in a call"
        self.acts["resets"] += 1  # type: ignore[operator]
        self.log.append(kind)
        return
        yield

    def forgets(self, kind: str) -> bool:
        return kind == "hard"

    def kill(self) -> Step[None]:
        self.log.append("kill")
        return
        yield

    def issued(self) -> dict[str, Any]:
        return {"calls": dict(self.acts["calls"]), "resets": self.acts["resets"]}  # type: ignore[call-overload]


class ToyKeyboard(Keyboard[Toy]):
    ticks = 0

    def tick(self) -> None:
        self.ticks += 1

    def more_ops(self) -> dict[str, Any]:
        return {"extra": lambda host, fields: {"extra": True}}

    def audit(self) -> dict[str, Any]:
        return {"hosts": [{} for _ in self.hosts], "leaks": []}

    def machine_counts(self) -> dict[str, Any]:
        return {"ticks": self.ticks}


class Typed:
    """Types requests and looks at one part of the answer."""

    def __init__(self, hosts: int = 1) -> None:
        self.keyboard = ToyKeyboard([Toy() for _ in range(hosts)], {"arch": "toy"})
        self.host = self.keyboard.hosts[0]
        self.number = 0

    def ask(self, op: object, **fields: Any) -> dict[str, Any]:
        self.number += 1
        request = {"id": self.number, "op": op, **fields}
        answer = self.keyboard.answer(request)
        assert answer["id"] == request["id"]
        return answer

    def ok(self, op: str, **fields: Any) -> dict[str, Any]:
        answer = self.ask(op, **fields)
        assert "ok" in answer, answer
        ok: dict[str, Any] = answer["ok"]
        return ok

    def error(self, op: object, **fields: Any) -> tuple[str, str]:
        error = self.ask(op, **fields)["error"]
        return error["code"], error.get("field", "")


@pytest.fixture
def toy() -> Typed:
    return Typed()


# -- requests ----------------------------------------


def test_any_id_comes_back_and_none_is_null(toy: Typed) -> None:
    for name in (None, [1, {"a": 2}], "x", 1.5, True):
        assert toy.ask("info", id=name)["id"] == name
    assert toy.keyboard.answer({"op": "info"})["id"] is None


@pytest.mark.parametrize("op", ["", "Info", 5, ["info"], {}, True], ids=repr)
def test_what_names_no_op_is_unknown(toy: Typed, op: object) -> None:
    assert toy.error(op) == ("unknown_op", "op")


def test_a_request_without_an_op_is_a_bad_request(toy: Typed) -> None:
    assert toy.error(None) == ("bad_request", "op")


def test_every_request_is_a_tick_of_the_clock(toy: Typed) -> None:
    for op in ("info", "nonsense", "free"):
        toy.ask(op)
    assert toy.keyboard.ticks == 3


def test_info_has_what_the_console_knows_of_the_host(toy: Typed) -> None:
    assert toy.ok("info") == {"arch": "toy", "memory": MEMORY, "cpus": 2, "te": {}}


def test_an_architecture_may_have_ops_of_its_own(toy: Typed) -> None:
    assert toy.ok("extra") == {"extra": True}


def test_hosts_and_cpus_are_named_by_number() -> None:
    toy = Typed(hosts=2)
    toy.ok("write", host=1, addr=0, hex="ff")
    assert toy.ok("read", addr=0, len=1) == {"hex": "00"}
    assert toy.ok("read", host="0x1", addr=0, len=1) == {"hex": "ff"}
    for wrong in (2, -1, "zero", True, None, 0.0):
        assert toy.error("info", host=wrong) == ("bad_value", "host")
    for wrong in (2, -1, "zero", True, None):
        assert toy.error("insn", cpu=wrong, name="nop") == ("bad_value", "cpu")


# -- memory ----------------------------------------


def test_memory_that_is_given_out_is_zero_and_nobodys(toy: Typed) -> None:
    toy.ok("write", addr=PAGE, hex="ff")
    assert toy.ok("alloc", len=1) == {"addr": hex(PAGE)}
    assert toy.ok("read", addr=PAGE, len=1) == {"hex": "00"}
    assert toy.ok("alloc", len=1) == {"addr": hex(3 * PAGE)}, "page 2 is kept by the TE"
    assert toy.ok("free", addr=PAGE) == {}
    assert toy.error("free", addr=PAGE) == ("bad_value", "addr")


def test_what_cannot_be_given_is_a_limit_and_changes_nothing(toy: Typed) -> None:
    assert toy.error("alloc", len=MEMORY) == ("limit", "")
    assert toy.error("alloc", len=1, above=hex(3 * PAGE + 1), below=hex(4 * PAGE)) == ("limit", "")
    for wrong in (0, 3, 1 << 65):
        assert toy.error("alloc", len=1, align=wrong) == ("bad_value", "align")
    assert toy.ok("alloc", len=1) == {"addr": hex(PAGE)}


def test_an_access_that_is_refused_is_a_fault(toy: Typed) -> None:
    end = MEMORY - PAGE
    assert toy.ask("read", addr=end - 1, len=2)["fault"] == {"code": "0x5", "write": False}
    assert toy.ask("write", addr=end - 1, hex="ffff")["fault"] == {"code": "0x5", "write": True}
    assert toy.ask("fill", addr=end - 1, len=2)["fault"] == {"code": "0x5", "write": True}
    assert toy.ok("read", addr=end - 1, len=1) == {"hex": "00"}
    assert toy.ok("fill", addr=end - 1, len=1, byte=7) == {}
    assert toy.ok("read", addr=end - 1, len=1, space="phys") == {"hex": "07"}


def test_a_read_has_a_limit_and_a_space_has_a_name(toy: Typed) -> None:
    assert toy.error("read", addr=0, len=(4 << 20) + 1) == ("limit", "len")
    assert toy.error("read", addr=0, len=1, space="moon") == ("bad_value", "space")
    assert toy.error("read", addr=0, len=1, space=3) == ("bad_value", "space")


# -- parked calls ----------------------------------------


def test_a_parked_call_keeps_its_lock_and_its_cpu_until_it_is_resumed(toy: Typed) -> None:
    assert toy.ok("call", id="first", lock="a", park=True) == {"parked": True}
    assert toy.ok("call", cpu=1, lock="a") == {"busy": True}
    for op, fields in (("call", {"lock": "b"}), ("enter", {"vcpu": 1}), ("insn", {"name": "nop"})):
        assert toy.error(op, **fields) == ("bad_request", "cpu")
    assert toy.ok("read", addr=0, len=1) == {"hex": "00"}, "looking is no work"
    assert toy.ok("cpu") == {"stopped": False}
    assert toy.ok("resume", call="first") == {"locked": "a"}
    assert toy.error("resume", call="first") == ("bad_value", "call")
    assert toy.ok("call", lock="b") == {"locked": "b"}


def test_a_parked_call_is_found_by_an_id_of_any_kind(toy: Typed) -> None:
    names = [1, "1"]
    for cpu, name in enumerate(names):
        toy.ok("call", id=name, cpu=cpu, lock=str(cpu), park=True)
    for other in (True, 1.5, None, ["1"], "0x1"):
        assert toy.error("resume", call=other) == ("bad_value", "call")
    for cpu, name in reversed(list(enumerate(names))):
        assert toy.ok("resume", call=name) == {"locked": str(cpu)}


def test_two_parked_calls_cannot_have_one_id(toy: Typed) -> None:
    toy.ok("call", id=5, lock="a", park=True)
    assert toy.error("call", id=5, cpu=1, lock="b", park=True) == ("bad_request", "id")
    assert toy.ok("call", id=5, cpu=1, lock="b") == {"locked": "b"}
    assert toy.ok("resume", call=5) == {"locked": "a"}


def test_a_call_that_ends_before_it_parks_answers_at_once(toy: Typed) -> None:
    toy.ok("call", id=1, lock="a", park=True)
    assert toy.ok("call", cpu=1, lock="a", park=True) == {"busy": True}
    assert toy.ok("insn", cpu=1, name="nop") == {"name": "nop"}


def test_an_entry_may_be_parked_and_then_stay(toy: Typed) -> None:
    assert toy.ok("enter", id="e", vcpu=1, park=True, stay=True) == {"parked": True}
    assert toy.error("kick", cpu=0) == ("bad_request", "cpu")
    assert toy.ok("resume", call="e") == {"running": True}
    assert toy.ok("kick")["reason"] == "kicked"


@pytest.mark.parametrize("end", ["soft", "hard", "kill"])
def test_a_host_that_ends_takes_its_calls_and_stays_with_it(toy: Typed, end: str) -> None:
    toy.ok("call", id="p", lock="a", park=True)
    toy.ok("enter", cpu=1, vcpu=1, stay=True)
    toy.ok("kill") if end == "kill" else toy.ok("reset", kind=end)
    assert toy.host.undone == ["a"], "a parked step may undo its work"
    assert toy.host.log == [end]
    assert toy.error("resume", call="p") == ("bad_value", "call")
    assert toy.error("kick", cpu=1) == ("bad_request", "cpu")
    assert toy.ok("call", lock="a") == {"locked": "a"}


@pytest.mark.parametrize("end", ["reset", "kill"])
def test_an_undo_may_take_more_than_one_step(toy: Typed, end: str) -> None:
    toy.ok("call", id="p", lock="undo", park=True)
    toy.ok("kill") if end == "kill" else toy.ok("reset", kind="soft")
    assert toy.host.undone == ["in two steps"]


def test_an_architecture_without_ops_of_its_own_has_those_of_all() -> None:
    class Plain(ToyKeyboard):
        more_ops = Keyboard.more_ops

    plain = Typed()
    plain.keyboard = Plain([Toy()], {"arch": "toy"})
    assert plain.error("extra") == ("unknown_op", "op")
    assert plain.ok("info")["arch"] == "toy"


def test_a_step_that_asks_for_what_a_keyboard_has_not_is_a_mistake_of_ours(toy: Typed) -> None:
    with pytest.raises(LocalProtocolError):
        toy.ask("call", lock="away")


def test_a_cpu_that_cannot_issue_says_so(toy: Typed) -> None:
    toy.ok("cpu", cpu=1, stopped=True)
    for op, fields in (("call", {"lock": "b"}), ("enter", {"vcpu": 1}), ("insn", {"name": "nop"})):
        assert toy.error(op, cpu=1, **fields) == ("bad_value", "cpu")


# -- guests ----------------------------------------


def do(*steps: str) -> list[dict[str, str]]:
    return [{"do": step} for step in steps]


def test_a_program_waits_for_its_entry(toy: Typed) -> None:
    assert toy.ok("guest", vcpu=1, do=do("one", "two")) == {"queued": 2}
    assert toy.ok("guest", vcpu=1, do=do("three")) == {"queued": 3}
    assert toy.ok("guest", vcpu=1, do=do("four"), replace=True) == {"queued": 1}
    assert toy.ok("enter", vcpu=1) == {"reason": "idle", "steps": [{"echo": "four"}]}


def test_steps_of_a_guest_that_stays_run_at_once(toy: Typed) -> None:
    toy.ok("guest", vcpu=1, do=do("zero"))
    assert toy.ok("enter", vcpu=1, stay=True) == {"running": True}
    assert toy.ok("guest", vcpu=1, do=do("one")) == {
        "queued": 1,
        "steps": [{"echo": "zero"}, {"echo": "one"}],
    }
    assert toy.ok("guest", vcpu=2, do=do("other")) == {"queued": 1}
    left = toy.ok("guest", vcpu=1, do=do("two", "exit"))
    assert left["steps"] == [{"echo": "two"}]
    assert left["exit"] == {"reason": "exit", "steps": [{"echo": "two"}]}
    assert toy.error("kick") == ("bad_request", "cpu")
    assert toy.ok("insn", name="nop") == {"name": "nop"}


def test_a_guest_that_stays_and_faults_answers_with_the_fault(toy: Typed) -> None:
    toy.ok("enter", vcpu=1, stay=True)
    assert "fault" in toy.ask("guest", vcpu=1, do=do("fault"))
    assert toy.error("kick") == ("bad_request", "cpu")


def test_a_kick_brings_a_cpu_out_of_its_guest(toy: Typed) -> None:
    toy.ok("enter", cpu=1, vcpu=1, stay=True)
    assert toy.error("kick", cpu=0) == ("bad_request", "cpu")
    assert toy.ok("kick", cpu=1) == {"reason": "kicked", "steps": []}


# -- the end, and looking ----------------------------------------


def test_the_book_survives_a_reset_unless_the_architecture_says_otherwise(toy: Typed) -> None:
    first = toy.ok("alloc", len=1)
    toy.ok("reset", kind="soft")
    assert toy.ok("alloc", len=1) != first
    for end in ("hard", "kill"):
        toy.ok("kill") if end == "kill" else toy.ok("reset", kind=end)
        assert toy.ok("alloc", len=1) == first
    assert toy.error("reset", kind="gentle") == ("bad_value", "kind")
    assert toy.error("reset") == ("bad_request", "kind")


def test_a_dead_machine_is_reset_or_killed_and_asked_nothing_else(toy: Typed) -> None:
    toy.ok("call", lock="die")
    for op in ("info", "read", "counts", "extra"):
        assert toy.error(op) == ("dead", "")
    toy.ok("reset", kind="soft")
    assert toy.ok("info")
    toy.ok("call", lock="die")
    toy.ok("kill")
    assert toy.ok("info")


def test_a_sibling_of_a_dead_machine_lives(toy: Typed) -> None:
    toy = Typed(hosts=2)
    toy.ok("call", lock="die")
    assert toy.error("info") == ("dead", "")
    assert toy.ok("info", host=1)


def test_counts_are_those_since_the_hosts_own_last_reset() -> None:
    toy = Typed(hosts=2)
    toy.ok("call", lock="a")
    toy.ok("call", lock="a")
    assert toy.ok("counts", reset=False) == {"calls": {"lock": 2}, "machine": {"ticks": 3}}
    assert toy.ok("counts") == {"calls": {"lock": 2}, "machine": {"ticks": 4}}
    toy.ok("call", lock="a")
    assert toy.ok("counts", reset=False) == {"calls": {"lock": 1}, "machine": {"ticks": 2}}
    assert toy.ok("counts", host=1) == {"machine": {"ticks": 7}}, "what its sibling issued is not its own"


def test_the_audit_is_the_architectures(toy: Typed) -> None:
    assert toy.ok("audit") == {"hosts": [{}], "leaks": []}
