"""Hosts that do anything: actions drawn by seed, each a step that may go right or wrong.

Nothing is asserted here but that the emulation answers. A host's own view (its guests, its free frames) goes
along with what it was answered, as a careless kernel's would.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random

from nested_host import IMAGE_AT, MIB, Guest, NestedHost, Refused

from protocol.arch.s390 import cpu as z
from protocol.arch.s390.guest import Diag, GuestStep, Read, Sclp, Spx, Touch, Uvc
from protocol.arch.s390.structs import EXECUTED, SECURE, SHARE, SIE_MSL, SIE_SDF, U64, SieExit, block
from protocol.effects import Fault, Step
from protocol.memory.store import PAGE, PAGE_SHIFT

CTS, CFS, DSS, PIN = 0x0200, 0x0201, 0x0202, 0x0341
GUEST_PAGES = (0, 1, 2, 8, IMAGE_AT >> PAGE_SHIFT, 20, 21, 200)
WORK = 8
MOST_GUESTS = 3


class Careless:
    """One CPU of a host."""

    def __init__(self, host: NestedHost, cpu: int, random: Random) -> None:
        self.host = host
        self.cpu = cpu
        self.random = random
        self.actions: list[Callable[[], Step[object]]] = [
            *[self.boot] * 3,
            self.create,
            *[self.run] * 8,
            *[self.page_call] * 4,
            *[self.convert] * 4,
            *[self.remap] * 3,
            self.unmap,
            self.unpin,
            self.lifecycle,
            self.destroy,
            self.normal_guest,
            self.look,
        ]

    def act(self, times: int) -> Step[None]:
        """Do some of it."""
        for _ in range(times):
            with suppress(Refused):  # another CPU had other plans for the same guest
                yield from self.random.choice(self.actions)()

    def _guest(self) -> Guest | None:
        return self.random.choice(self.host.guests) if self.host.guests else None

    # -- guests ------------------------------------------------------------------------------------

    def boot(self) -> Step[None]:
        if len(self.host.guests) < MOST_GUESTS:
            yield from self.host.boot(cpu=self.cpu, vcpus=self.random.randint(1, 2))

    def create(self) -> Step[None]:
        if len(self.host.guests) < MOST_GUESTS:
            yield from self.host.create(self.random.choice((1, 2)), self.random.randint(0, 2), self.cpu)

    def destroy(self) -> Step[None]:
        """In the right order or not; what could not be destroyed stays."""
        guest = self._guest()
        if guest is None:
            return
        for vcpu in guest.vcpus:
            yield from self.host.handle_call(0x0121, vcpu.handle, self.cpu)
        outcome = yield from self.host.handle_call(0x0101, guest.handle, self.cpu)
        if outcome.rc == EXECUTED and guest in self.host.guests:
            self.host.guests.remove(guest)
            if self.random.random() < 0.7:
                for frame in list(guest.pages.values()):
                    yield from self.host.page_call(DSS, frame << PAGE_SHIFT, self.cpu)

    def lifecycle(self) -> Step[None]:
        guest = self._guest()
        if guest is None:
            return
        if guest.vcpus and self.random.random() < 0.5:
            vcpu = self.random.choice(guest.vcpus)
            code = self.random.choice((0x0310, 0x0311, 0x0321))
            yield from self.host.handle_call(code, vcpu.handle, self.cpu)
        else:
            yield from self.host.handle_call(self.random.choice((0x0320, 0x0340)), guest.handle, self.cpu)

    # -- pages -------------------------------------------------------------------------------------

    def page_call(self) -> Step[None]:
        guest = self._guest()
        if guest is not None and guest.pages:
            frame = self.random.choice(list(guest.pages.values()))
            code = self.random.choice((CFS, CFS, DSS, PIN))
            yield from self.host.page_call(code, frame << PAGE_SHIFT, self.cpu)

    def convert(self) -> Step[None]:
        guest = self._guest()
        if guest is not None:
            yield from self.host.convert(guest, self.random.choice(GUEST_PAGES), self.cpu)

    def unpin(self) -> Step[None]:
        guest = self._guest()
        if guest is not None:
            yield from self.host.unpin(guest, self.random.choice(GUEST_PAGES), self.cpu)

    def remap(self) -> Step[None]:
        """Another frame for a page: a new one, one that is elsewhere, too, or one that is not its own."""
        guest = self._guest()
        if guest is None:
            return
        page = self.random.choice(GUEST_PAGES)
        known = [frame for other in self.host.guests for frame in other.pages.values()]
        known += [guest.base >> PAGE_SHIFT]
        if known and self.random.random() < 0.4:
            frame = guest.pages[page] = self.random.choice(known)
            guest.table.map(page, frame, protect=self.random.random() < 0.2)
        else:
            self.host.map(guest, page)
        return
        yield

    def unmap(self) -> Step[None]:
        guest = self._guest()
        if guest is not None:
            page = self.random.choice(GUEST_PAGES)
            if self.random.random() < 0.8:
                guest.table.unmap(page)
            else:
                guest.table.unmap_segment(0)
            guest.pages.pop(page, None)
        return
        yield

    def look(self) -> Step[None]:
        for guest in self.host.guests:
            for frame in guest.pages.values():
                self.host.read(frame << PAGE_SHIFT, 8)
                if self.random.random() < 0.3:
                    self.host.level.write((frame << PAGE_SHIFT) + 8 * self.random.randrange(512), b"scribble")
        return
        yield

    # -- running -------------------------------------------------------------------------------------

    def run(self) -> Step[None]:
        """Enter a guest, and do about its exits what a kernel does, for a while."""
        guest = self._guest()
        if guest is None or not guest.vcpus:
            return
        vcpu = self.random.randrange(len(guest.vcpus))
        if len(guest.vcpus[vcpu].program.steps) < 10:
            guest.vcpus[vcpu].program.steps.extend(self._steps())
        for _ in range(self.random.randint(1, 6)):
            left = yield from self.host.enter(guest, cpu=self.cpu, vcpu=vcpu)
            if isinstance(left, SieExit):
                if left.code == 0x70:
                    yield from self._prefix(guest)
                elif left.code in (0x1C, 0x20):
                    return
            else:
                yield from self._answer(guest, left)

    def _steps(self) -> list[GuestStep]:
        page = self.random.choice(GUEST_PAGES)
        address = page << PAGE_SHIFT
        share = bytes(block(0x30, self.random.choice((0x1000, 0x1000, 0x1001)), SHARE, address))
        at = WORK << PAGE_SHIFT
        return self.random.choice(
            [
                [Touch(address + 5, True, self.random.randbytes(4))],
                [Read(address, 16)],
                [Read(address + PAGE - 4, 8)],
                [Touch(at, True, share), Uvc(at), Read(at, 0x30)],
                [Diag(0x500)],
                [Diag(0x9C, r1=3)],
                [Spx(0x14000)],
                [Spx(0)],
                [Touch(at, True, b"\0\x40" + bytes(62)), Sclp(0x20001, at)],
            ]
        )

    def _answer(self, guest: Guest, fault: Fault) -> Step[None]:
        page = fault.address >> PAGE_SHIFT
        if fault.code in z.NOT_MAPPED and page < guest.length >> PAGE_SHIFT:
            self.host.map(guest, page)
        elif fault.code in (z.NON_SECURE_ACCESS, z.SECURE_VIOLATION):
            yield from self.host.convert(guest, page, self.cpu)

    def _prefix(self, guest: Guest) -> Step[None]:
        for page in (0, 1, 0x14, 0x15):
            if page not in guest.pages:
                self.host.map(guest, page)
            yield from self.host.convert(guest, page, self.cpu)

    def normal_guest(self) -> Step[None]:
        """A guest that is not secure, on top of the same table."""
        guest = self._guest()
        if guest is None or not guest.vcpus:
            return
        vcpu = self.random.choice(guest.vcpus)
        self.host.write(vcpu.block + SIE_SDF, b"\0")
        self.host.write(vcpu.block + SIE_MSL, U64.pack(guest.length - MIB))
        for _ in range(3):
            left = yield from self.host.enter(
                guest, Read(self.random.choice(GUEST_PAGES) << PAGE_SHIFT, 8), cpu=self.cpu
            )
            if isinstance(left, Fault) and left.code in z.NOT_MAPPED:
                self.host.map(guest, left.address >> PAGE_SHIFT)
        self.host.write(vcpu.block + SIE_SDF, bytes((SECURE,)))
        guest.vcpus[0].program.replace()
