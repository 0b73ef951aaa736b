"""One request in, one answer out: what every architecture's keyboard does alike.

Theory of operation. A call or an entry is a step. One that runs to its end is answered at once; one that
yields `Park` is kept with its locks until `resume`, one that yields `Idle` is a guest that its CPU stays in
until `kick`. A step that its host's reset or death overtakes is brought to an end first, as every parked step
is. A request is looked at whole before anything happens, so that an error has changed nothing.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from protocol.effects import Fault, Idle, Park, Step, run
from protocol.errors import LocalProtocolError, OwnerGone
from protocol.keyboard.fields import Complaint, Fields
from protocol.keyboard.host import Activity, Answer, Begun, Raised, SecureHost, Space
from protocol.memory.pool import OutOfFrames

READ_BYTES = 4 << 20  # of one answer, twice as many digits: what a line may have
SURVIVES_DEATH = ("reset", "kill")

H = TypeVar("H", bound=SecureHost)
Op = Callable[[H, Fields], Answer]


class Keyboard(Generic[H]):
    """The hosts of one console. `about` is what `info` answers for all of them."""

    _rig: Any  # the composition behind them

    def __init__(self, hosts: Sequence[H], about: Mapping[str, Any]) -> None:
        self.hosts = list(hosts)
        self._about = dict(about)
        self._counted: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, {}) for _ in hosts]
        self._ops: dict[str, Op[H]] = {
            "info": self._info,
            "alloc": self._alloc,
            "free": self._free,
            "read": self._read,
            "write": self._write,
            "fill": self._fill,
            "call": self._call,
            "insn": self._insn,
            "enter": self._enter,
            "guest": self._guest,
            "kick": self._kick,
            "resume": self._resume,
            "cpu": self._cpu,
            "reset": self._reset,
            "kill": self._kill,
            "audit": self._audit,
            "counts": self._counts,
            **self.more_ops(),
        }

    # -- what an architecture adds ---------------------------------------------------------------------------

    def more_ops(self) -> dict[str, Op[H]]:
        """Ops that only this architecture has."""
        return {}

    def tick(self) -> None:
        """A request came in: let the virtual clock go on."""

    @abstractmethod
    def audit(self) -> dict[str, Any]:
        """`hosts` and `leaks`: the books of the levels held against the TE's."""

    @abstractmethod
    def machine_counts(self) -> dict[str, Any]:
        """What the machine did since it was made, for all hosts: numbers, or objects of numbers."""

    def te(self, host: H) -> dict[str, Any]:
        """The facts about the TE that a host can discover."""
        return {}

    @property
    def seats(self) -> Sequence[Any]:
        """The places of the hosts, each with the level that it meets."""
        return tuple(self._rig.seats)

    @property
    def levels(self) -> Sequence[Any]:
        """What the hypervisors below the hosts stand on, the machine first."""
        return tuple(self._rig.levels)

    # -- a request -------------------------------------------------------------------------------------------

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one request."""
        self.tick()
        try:
            result = self._dispatch(request)
        except Complaint as complaint:
            return {"id": request.get("id"), "error": complaint.body()}
        if isinstance(result, Raised):
            return {"id": request.get("id"), "fault": result.body}
        return {"id": request.get("id"), "ok": result}

    def _dispatch(self, request: dict[str, Any]) -> Answer:
        name = request.get("op")
        if name is None:
            raise Complaint("bad_request", "op is missing", "op")
        op = self._ops.get(name) if name.__class__ is str else None
        if op is None:
            raise Complaint("unknown_op", f"no op {name!r:.60}; allowed: {', '.join(self._ops)}", "op")
        fields = Fields(request)
        host = self.hosts[fields.number("host", 0, 0, len(self.hosts) - 1)]
        if host.dead and name not in SURVIVES_DEATH:
            raise Complaint("dead", f"{host.dead}; allowed: {', '.join(SURVIVES_DEATH)}")
        return op(host, fields)

    def _info(self, host: H, fields: Fields) -> Answer:
        return self._about | {"memory": host.memory, "cpus": host.cpus, "te": self.te(host)}

    # -- memory ----------------------------------------------------------------------------------------------

    def _alloc(self, host: H, fields: Fields) -> Answer:
        length = fields.number("len", low=1)
        align = fields.number("align", host.book.page)
        if align.bit_count() != 1:
            raise fields.wrong("align", "a power of two")
        above = fields.number("above", 0)
        below = fields.number("below", host.memory)
        found = host.book.take(length, align, above, below, host.in_use)
        if found is None:
            raise Complaint(
                "limit", f"no {length:#x} free bytes, aligned to {align:#x}, in [{above:#x}, {below:#x})"
            )
        host.zero(found, -(-length // host.book.page) * host.book.page)
        return {"addr": hex(found)}

    def _free(self, host: H, fields: Fields) -> Answer:
        if not host.book.give(fields.number("addr")):
            raise fields.wrong("addr", "the address of an area that alloc gave and free has not taken back")
        return {}

    def _read(self, host: H, fields: Fields) -> Answer:
        length = fields.number("len")
        if length > READ_BYTES:
            raise Complaint("limit", f"len: at most {READ_BYTES:#x} in one answer", "len")
        data = self._space(host, fields).read(fields.number("addr"), length)
        return host.fault(data) if isinstance(data, Fault) else {"hex": data.hex()}

    def _write(self, host: H, fields: Fields) -> Answer:
        data = fields.data("hex")
        fault = self._space(host, fields).write(fields.number("addr"), data)
        return {} if fault is None else host.fault(fault)

    def _fill(self, host: H, fields: Fields) -> Answer:
        length, byte = fields.number("len"), fields.number("byte", 0, 0, 255)
        fault = self._space(host, fields).fill(fields.number("addr"), length, byte)
        return {} if fault is None else host.fault(fault)

    def _space(self, host: H, fields: Fields) -> Space:
        name = fields.text("space", "phys")
        found = host.space(name, self._cpu_number(host, fields))
        if found is None:
            raise fields.wrong("space", host.spaces)
        return found

    # -- instructions ----------------------------------------------------------------------------------------

    def _cpu_number(self, host: H, fields: Fields) -> int:
        return fields.number("cpu", 0, 0, host.cpus - 1)

    def _free_cpu(self, host: H, fields: Fields) -> int:
        """A CPU that can issue something now."""
        cpu = self._cpu_number(host, fields)
        busy = host.busy.get(cpu)
        if busy is not None:
            where = f"in the parked call {busy.id}" if busy.parked else "in a guest"
            raise Complaint("bad_request", f"CPU {cpu} is {where}; resume or kick it first", "cpu")
        host.may_issue(cpu)
        return cpu

    def _call(self, host: H, fields: Fields) -> Answer:
        cpu = self._free_cpu(host, fields)
        return self._begin(host, cpu, fields, host.call(fields, cpu, self._park(host, fields)))

    def _enter(self, host: H, fields: Fields) -> Answer:
        cpu = self._free_cpu(host, fields)
        begun = host.enter(fields, cpu, fields.flag("stay"), self._park(host, fields))
        return self._begin(host, cpu, fields, begun)

    def _insn(self, host: H, fields: Fields) -> Answer:
        return host.insn(fields, self._free_cpu(host, fields))

    def _park(self, host: H, fields: Fields) -> bool:
        """Whether to park; the id must then say later which call is meant."""
        if not fields.flag("park"):
            return False
        name = _name(fields)
        if any(activity.parked and activity.id == name for activity in host.busy.values()):
            raise Complaint("bad_request", f"a call with the id {name} is parked already", "id")
        return True

    def _begin(self, host: H, cpu: int, fields: Fields, begun: Begun) -> Answer:
        return self._go_on(host, cpu, Activity(begun.step, begun.vcpu, _name(fields)), None)

    def _go_on(self, host: H, cpu: int, activity: Activity, reply: object) -> Answer:
        """Drive a step until it ends or keeps its CPU."""
        try:
            effect = activity.step.send(reply)
        except StopIteration as stop:
            host.busy.pop(cpu, None)
            answer: Answer = stop.value
            return answer
        if not isinstance(effect, Park | Idle):
            raise LocalProtocolError(f"a step at the keyboard yielded {effect!r}")
        activity.parked = isinstance(effect, Park)
        host.busy[cpu] = activity
        return {"parked": True} if activity.parked else {"running": True, **host.staying(activity.vcpu)}

    def _resume(self, host: H, fields: Fields) -> Answer:
        wanted = json.dumps(fields.raw("call"))
        for cpu, activity in host.busy.items():
            if activity.parked and activity.id == wanted:
                return self._go_on(host, cpu, activity, None)
        raise fields.wrong("call", "the id of a call that is parked")

    def _kick(self, host: H, fields: Fields) -> Answer:
        cpu = self._cpu_number(host, fields)
        activity = host.busy.get(cpu)
        if activity is None or activity.parked:
            raise Complaint("bad_request", f"CPU {cpu} stays in no guest", "cpu")
        return self._go_on(host, cpu, activity, False)

    def _guest(self, host: H, fields: Fields) -> Answer:
        vcpu, queued = host.queue(fields, fields.flag("replace"))
        for cpu, activity in host.busy.items():
            if activity.vcpu == vcpu and not activity.parked:
                return self._run_at_once(host, cpu, activity, queued)
        return {"queued": queued}

    def _run_at_once(self, host: H, cpu: int, activity: Activity, queued: int) -> Answer:
        """New steps of a guest that a CPU stays in."""
        answer = self._go_on(host, cpu, activity, True)
        if isinstance(answer, Raised):
            return answer
        if cpu in host.busy:
            return {"queued": queued, "steps": answer.get("steps") or host.collect(activity.vcpu)}
        return {"queued": queued, "steps": answer.get("steps", []), "exit": answer}

    def _cpu(self, host: H, fields: Fields) -> Answer:
        return host.settings(fields, self._cpu_number(host, fields))

    # -- the end ---------------------------------------------------------------------------------------------

    def _reset(self, host: H, fields: Fields) -> Answer:
        kind = fields.choice("kind", host.reset_kinds)
        self._anew(host, host.reset(kind))
        if host.forgets(kind):
            host.book.clear()
        host.dead = ""
        return {}

    def _kill(self, host: H, fields: Fields) -> Answer:
        self._anew(host, host.kill())
        host.book.clear()
        host.dead = ""
        return {}

    def _anew(self, host: H, step: Step[None]) -> None:
        """The host restarts, or a fresh one comes; without memory for it the host stands still."""
        self._abandon(host)
        try:
            run(step)
        except OutOfFrames as short:
            host.dead = str(short)
            raise Complaint("limit", str(short)) from None

    def _abandon(self, host: H) -> None:
        """Bring every call and every stay of the host to an end; nobody gets an answer."""
        for cpu in list(host.busy):
            _end(host.busy.pop(cpu))

    # -- looking ---------------------------------------------------------------------------------------------

    def _audit(self, host: H, fields: Fields) -> Answer:
        return self.audit()

    def _counts(self, host: H, fields: Fields) -> Answer:
        """Counts since the last reset, each host's own; the machine's are those of all hosts in that time."""
        reset = fields.flag("reset", True)
        which = self.hosts.index(host)
        issued, machine = self._counted[which]
        now = host.issued(), self.machine_counts()
        if reset:
            self._counted[which] = now
        return difference(now[0], issued) | {"machine": difference(now[1], machine)}


def _name(fields: Fields) -> str:
    return json.dumps(fields.raw("id")) if "id" in fields else "null"


def _end(activity: Activity) -> None:
    """Its owner is gone: a parked step may still undo its work, a guest is kicked out."""
    step: Step[Answer] = activity.step
    try:
        if activity.parked:
            step.throw(OwnerGone("the host was reset or killed"))
        else:
            step.send(False)
        while True:
            step.send(None)
    except (StopIteration, OwnerGone):
        return


def difference(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What was added to nested counts since `before`; zeros are left out."""
    out: dict[str, Any] = {}
    for name, value in now.items():
        old = before.get(name)
        if isinstance(value, Mapping):
            grown: Any = difference(value, old or {})
        else:
            grown = value - (old or 0)
        if grown:
            out[name] = grown
    return out
