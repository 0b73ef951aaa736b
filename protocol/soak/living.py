"""What a host's software does from its boot on: guests come, live and go, in an order that is drawn.

Each guest is a model beside the real thing: which pages it stored to, and what. A load must find the last
store; after an operation whose outcome is unknown (the host was refused half way) nothing is known of that
guest, and it is ended. What guests store begins with the deployment's tag, so that a byte of it can be
recognised wherever it turns up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from protocol.effects import Step
from protocol.errors import OperationFailed
from protocol.plan import operations as op
from protocol.plan.operations import Pages
from protocol.soak.options import Violation
from protocol.soak.ports import Software

if TYPE_CHECKING:
    from protocol.soak.island import Island

TAG = bytes.fromhex("a7c3915e2bd8f0644c197e83b5da2f61")  # what a secret begins with
SECRET = 32  # bytes of one
AT = 0x40  # where in its page: what only touches a page stores at its beginning
IN_VAIN = 12
GUESTS = 2  # of one host at a time
MEMORY_MIB, VCPUS = 16, 2
TOUCHED, KEPT, SHARED = 1100, 1600, 2048  # pages of a guest: for use, for secrets, for I/O
KEPT_PAGES, SHARED_PAGES, GRAIN = 8, 4, 16  # apart by what every architecture converts as one
ACTS = ("touch", "share", "change", "exits", "exits", "swap", "reset", "attest", "dump")
REASONS = ("diag_notify", "diag_500", "sclp", "wait")


@dataclass(slots=True)
class Model:
    """What must be true of a guest that runs."""

    number: int
    holds: dict[int, bytes] = field(default_factory=dict)  # page -> its beginning
    shared: set[int] = field(default_factory=set)


class Life:
    """One life of one host. `observed` is all that it could see, in order."""

    def __init__(
        self, name: str, software: Software, random: Random, island: Island, hostile: bool = False
    ) -> None:
        self.name, self.software, self.random, self.island = name, software, random, island
        self.hostile = hostile
        self.guests: dict[int, Model] = {}
        self.observed: list[tuple[str, str]] = []
        self.numbers = self.attested = 0
        self.stopping = False
        self.operations = 0
        self.in_vain = 0  # operations that failed since the last one that did not
        self.lacks = island.lacks

    # -- a life ----------------------------------------------------------------------------------------------

    def live(self) -> Step[str]:
        """Until told to stop, or until what is below refuses the host its boot."""
        if not (yield from self._do(op.BootHost())):
            return "refused"
        while not self.stopping:
            if self.in_vain > IN_VAIN:
                return "worn out"  # a host that gets nowhere is rebooted by whoever watches it
            yield from self._something()
        for number in list(self.guests):
            yield from self._end(number)
        yield from self._do(op.Shutdown())
        return "lived"

    def _something(self) -> Step[None]:
        random = self.random
        if not self.guests or (len(self.guests) < GUESTS and random.random() < 0.15):
            yield from self._arrive()
            return
        guest = self.guests[random.choice(sorted(self.guests))]
        if random.random() < 0.06:
            yield from self._end(guest.number)
        elif random.random() < 0.5:
            yield from self._remember(guest)
        else:
            act = self._act(guest)
            if act is not None and not (yield from self._do(act)):
                yield from self._end(guest.number, failed=True)

    def _arrive(self) -> Step[None]:
        number, self.numbers = self.numbers, self.numbers + 1
        for act in (op.Create(number, MEMORY_MIB, VCPUS), op.Load(number), op.Start(number)):
            if not (yield from self._do(act)):
                yield from self._end(number, failed=True)
                return
        self.guests[number] = Model(number)

    def _end(self, number: int, failed: bool = False) -> Step[None]:
        self.guests.pop(number, None)
        act = op.Kill(number) if failed or self.random.random() < 0.3 else op.Destroy(number)
        yield from self._do(act, failed)

    def _act(self, guest: Model) -> op.Operation | None:
        random, vcpu = self.random, self.random.randrange(VCPUS)
        kind = random.choice(ACTS)
        page = SHARED + GRAIN * random.randrange(SHARED_PAGES)
        if kind == "touch":
            return op.Touch(
                guest.number, vcpu, Pages(TOUCHED, 64, random.randrange(1, 9), random.getrandbits(32))
            )
        if kind == "share" and page not in guest.shared:
            guest.shared.add(page)
            return op.Share(guest.number, vcpu, Pages(page, 1, 1))
        if kind == "change" and page in guest.shared:
            guest.shared.discard(page)
            return op.Change(guest.number, vcpu, page, shared=False)
        if kind == "exits":
            by = random.choice(("kernel", "vmm"))
            return op.Exits(guest.number, vcpu, random.choice(REASONS), by, random.randrange(1, 4))
        if kind == "swap" and "swap" not in self.lacks and guest.holds:
            first = min(guest.holds)
            return op.Swap(guest.number, vcpu, Pages(first, 1, 1))
        if kind == "attest" and "attest" not in self.lacks:
            self.attested += 1
            return op.Attest(guest.number, vcpu, self.attested)
        if kind == "dump" and "dump" not in self.lacks and random.random() < 0.2:
            return op.Dump(guest.number)
        if kind == "reset" and "reset" not in self.lacks and random.random() < 0.2:
            guest.holds.clear()  # what a reset keeps differs between architectures
            guest.shared.clear()
            return op.Reset(guest.number, clear=random.random() < 0.5)
        return None

    # -- the model -------------------------------------------------------------------------------------------

    def _remember(self, guest: Model) -> Step[None]:
        """Store, or load and compare."""
        page = KEPT + GRAIN * self.random.randrange(KEPT_PAGES)
        vcpu = self.random.randrange(VCPUS)
        if page in guest.holds and self.random.random() < 0.6:
            found = yield from self._do(op.Read(guest.number, vcpu, page, SECRET, AT))
            self._compare(guest, page, found)
        else:
            data = TAG + self.random.randbytes(SECRET - len(TAG))
            guest.holds.pop(page, None)
            if (yield from self._do(op.Write(guest.number, vcpu, page, data, AT))):
                guest.holds[page] = data
                return
            found = False
        if not found:
            yield from self._end(guest.number, failed=True)

    def _compare(self, guest: Model, page: int, found: Any) -> None:
        self.island.tally.checks["history"] += 1
        if found and not self.hostile and found != guest.holds[page]:
            detail = f"page {page:#x} of guest {guest.number} of {self.name} holds {bytes(found).hex()}"
            raise Violation("history", f"{detail}, stored was {guest.holds[page].hex()}")

    def _do(self, act: op.Operation, failed: bool = False) -> Step[Any]:
        """Do one operation; its result, True where it has none, False where the host was refused."""
        self.operations += 1
        try:
            result = yield from self.software.perform(act)
        except OperationFailed as refused:
            self._refused(act, refused, failed)
            return False
        except ValueError:
            self.in_vain += 1
            if not failed and not self.hostile:
                raise
            return False
        self.island.tally.done[f"{act.name}_done"] += 1
        self.in_vain = 0
        if not isinstance(result, bytes) or isinstance(act, op.Attest):
            result = True  # evidence is drawn and signed: it is another one each time
        self.observed.append((act.name, repr(result)))
        return result

    def _refused(self, act: op.Operation, refused: OperationFailed, failed: bool) -> None:
        self.island.tally.done[f"{act.name}_refused"] += 1
        self.in_vain += 1
        self.observed.append((act.name, f"refused: {refused}"))
        if not self.hostile and not failed and not self.island.starved:
            raise Violation("service", f"{self.name} was refused {act}: {refused}") from refused
