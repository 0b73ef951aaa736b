"""The mailbox: what comes before and after every command. Sections 2.0, 2.1 and 3.2 of the fact sheet.

The machine and every emulation of it go through this one file, so a guest host meets the same order at any
depth: number, state of the buffer's page, copy-in, the command's own checks, write-back, and the firmware's
dropping of the buffer's page. A buffer is read once: another CPU may change it meanwhile.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from protocol.arch.sev.books import Platform, reachable, writable
from protocol.arch.sev.cpu import Cpu
from protocol.arch.sev.held import Held
from protocol.arch.sev.profiles import Profile
from protocol.arch.sev.reply import Reply
from protocol.arch.sev.rmp import IMMUTABLE, PageState, Rmp
from protocol.arch.sev.status import SnpState, Status
from protocol.arch.sev.structs import C_MASK, LAYOUTS, LENGTH_BACK, WRITTEN, Buffer
from protocol.calls import CallSpec
from protocol.effects import Step, parked

READY = 1 << 31


class Front:
    """What the machine and its emulations share."""

    calls: Mapping[int, CallSpec]
    profile: Profile
    size: int
    rmp: Rmp
    cpus: list[Cpu]
    platform: Platform[Any, Any]
    _park = False
    _under_way = False

    @property
    def locks(self) -> Held:
        """What keeps others away just now."""
        return Held(self.rmp, self._under_way)

    # -- what differs -----------------------------------------------------------------------------------

    @abstractmethod
    def fetch(self, address: int, length: int) -> bytes:
        """Bytes of memory as the firmware reads them; `reachable` was asked before."""

    @abstractmethod
    def deposit(self, address: int, data: bytes) -> None:
        """Store as the firmware does: the RMP does not stop it."""

    def make_way(self, address: int, length: int) -> Step[None]:
        """The firmware is about to store there.

        An emulation may have to take a page back from below first.
        """
        yield from ()

    # -- what an emulation has to do besides ------------------------------------------------------------

    def before_rebuild(self) -> Step[None]:
        """The RMP is about to be built anew: no page belongs to anybody then."""
        yield from ()

    def end_guests(self) -> Step[None]:
        """All legacy guests are about to end."""
        raise NotImplementedError

    def end_contexts(self) -> Step[None]:
        """All SNP guests are about to end, their pages staying what they are."""
        yield from ()

    def marks_changed(self) -> None:
        """The trusted region, or the whole RMP, is another one now."""

    @abstractmethod
    def perform(self, spec: CallSpec, cpu: Cpu, b: Buffer) -> Reply | Step[Reply]:
        """Do what the command is about, its own checks first.

        A step where it can be stopped, or has to ask.
        """

    # -- the mailbox ------------------------------------------------------------------------------------

    def mailbox(self, cpu: Cpu, cmdresp: int, address: int, park: bool = False) -> Step[int]:
        """One command: CmdResp afterwards. The caller sees to it that there is one at a time."""
        code = cmdresp >> 16 & 0x7FF
        address &= ~C_MASK
        spec = self.calls.get(code)
        if spec is None:
            return _response(code, Status.INVALID_COMMAND)
        layout = LAYOUTS[spec.name]
        guarded = spec.name in WRITTEN and self.platform.snp is SnpState.INIT
        if guarded and not writable(self, address, layout.length):
            return _response(code, Status.INVALID_PAGE_STATE + self.profile.leftover)
        raw = b""
        if layout.length:
            if not reachable(self, address, layout.length):
                return _response(code, Status.INVALID_ADDRESS)
            raw = self.fetch(address, layout.length)
        self._park = park
        try:
            answer = self.perform(spec, cpu, Buffer(layout, raw))
            reply = answer if isinstance(answer, Reply) else (yield from answer)
        finally:
            self._park = False
            self.rmp.busy.clear()
        if reply.status == Status.SUCCESS or (
            reply.status == Status.INVALID_LENGTH and spec.name in LENGTH_BACK
        ):
            if reply.out:
                yield from self.make_way(address, layout.length)
            for offset, data in reply.out:
                self.deposit(address + offset, data)
        if guarded and self.rmp.state(address >> 12) is PageState.FIRMWARE:
            self.rmp.change(address >> 12, clear=IMMUTABLE)
        return _response(code, reply.status)

    def hold(self, frames: Iterable[int] = ()) -> Step[None]:
        """All checks passed.

        These RMP entries are busy until the command ends; stop here if the caller wants that.
        """
        self.rmp.busy.update(frames)
        yield from parked(self._park)


def _response(code: int, status: int) -> int:
    return READY | code << 16 | status
