"""Migration and service TDs: section 2.6 of the fact sheet, which only the profile `migration` offers.

What moves a TD from one op state to the next without a stream of data is here whole: PAUSE, ABORT, COMMIT,
END, and streams as donated pages. What exports or imports data needs a second machine and a migration key,
which no migration TD can have set here; it checks the TD and its op state as it must, and then answers
that its next operand is wrong, or that the key is missing. Which of these comes next is read in outline
only: a guess.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol.arch.tdx.front import Call
from protocol.arch.tdx.machine import checks
from protocol.arch.tdx.machine.entities import Td
from protocol.arch.tdx.status import FATAL, R8, R10, RCX, RDX, Operand, Refused, Status
from protocol.arch.tdx.structs import MIGRATABLE
from protocol.arch.tdx.tables import SERVICE_TD_OP_STATES, OpState, PageType
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine

MAX_STREAMS = 512
MIN_STREAMS = 2  # one in each direction
MBMD_SIZE = 48
MBMD_ALIGN = 128
SIZE_SHIFT = 52  # of a buffer's size in its register, above the address
BIND, EXPORT_ABORT, EXPORT_IMMUTABLE, PAUSE = 48, 64, 72, 70
IMPORT_ABORT, END, COMMIT, IMPORT_IMMUTABLE, STREAM = 80, 81, 82, 85, 96


def create_stream(m: Machine, call: Call) -> Step[int]:
    """TDH.MIG.STREAM.CREATE."""
    td = _exclusive_state(m, call, RDX, STREAM)
    if len(td.streams) >= MAX_STREAMS:
        raise Refused(Status.MAX_MIGS_NUM_EXCEEDED)
    frame = m.platform.private(call.held, call.r[RCX], RCX, PageType.NDA, exclusive=True)
    yield from call.commit()
    m.give(td, frame, PageType.TDCX)
    td.streams.append(frame)
    return Status.SUCCESS


def _exclusive_state(m: Machine, call: Call, operand: int, leaf: int) -> Td:
    """The TD shared, its op state and its migration exclusive."""
    td = checks.td_of(m, call, call.r[operand], operand, exclusive=False)
    checks.state(call, td, leaf, checks.OWN)
    if not call.held.own(("mig", td.frame)):  # pragma: no cover - who holds it holds the op state, too
        raise Refused(Status.OPERAND_BUSY | Operand.MIG)
    return td


def _whole(m: Machine, call: Call, leaf: int) -> Td:
    """The TD alone, in a state for this leaf."""
    td = checks.td_of(m, call, call.r[RCX], RCX, exclusive=True)
    checks.state(call, td, leaf, checks.IMPLIED)
    return td


def pause(m: Machine, call: Call) -> Step[int]:
    """TDH.EXPORT.PAUSE: nobody runs; the epoch goes on as by TRACK."""
    td = _whole(m, call, PAUSE)
    yield from call.commit()
    td.epoch += 1
    td.op_state = OpState.PAUSED_EXPORT
    return Status.SUCCESS


def commit(m: Machine, call: Call) -> Step[int]:
    """TDH.IMPORT.COMMIT."""
    td = _whole(m, call, COMMIT)
    yield from call.commit()
    td.op_state = OpState.LIVE_IMPORT
    return Status.SUCCESS


def end(m: Machine, call: Call) -> Step[int]:
    """TDH.IMPORT.END."""
    td = _whole(m, call, END)
    yield from call.commit()
    td.op_state = OpState.RUNNABLE
    return Status.SUCCESS


def abort_export(m: Machine, call: Call) -> Step[int]:
    """TDH.EXPORT.ABORT. Behind the export it takes a token of the destination, which nobody has."""
    td = _exclusive_state(m, call, RCX, EXPORT_ABORT)
    if call.r[R10]:
        raise Refused(Status.OPERAND_INVALID | R10)
    if td.op_state is OpState.POST_EXPORT:
        _mbmd(m, call)
        raise Refused(Status.INVALID_MBMD)
    yield from call.commit()
    td.op_state = OpState.RUNNABLE
    return Status.SUCCESS


def abort_import(m: Machine, call: Call) -> Step[int]:
    """TDH.IMPORT.ABORT: a success that is fatal. The token it makes is empty."""
    td = _whole(m, call, IMPORT_ABORT)
    if call.r[R10]:
        raise Refused(Status.OPERAND_INVALID | R10)
    buffer = _mbmd(m, call)
    yield from call.commit()
    td.op_state = OpState.FAILED_IMPORT
    m.poke(buffer, bytes(MBMD_SIZE))
    return Status.SUCCESS | FATAL


def _mbmd(m: Machine, call: Call) -> int:
    """The buffer for a bundle's metadata in R8: size above bit 52, address below."""
    if call.r[R8] >> SIZE_SHIFT < MBMD_SIZE:
        raise Refused(Status.OPERAND_INVALID | R8)
    return m.platform.shared(call.r[R8] & ((1 << SIZE_SHIFT) - 1), R8, MBMD_ALIGN)


def export_immutable(m: Machine, call: Call) -> Step[int]:
    """TDH.EXPORT.STATE.IMMUTABLE: it ends where the migration key would be needed."""
    td = _exclusive_state(m, call, RCX, EXPORT_IMMUTABLE)
    if not td.attributes & MIGRATABLE:
        raise Refused(Status.TD_NOT_MIGRATABLE)
    if len(td.streams) < MIN_STREAMS:
        raise Refused(Status.MIN_MIGS_NOT_CREATED)
    yield from call.commit()
    return Status.MIGRATION_DECRYPTION_KEY_NOT_SET


def import_immutable(m: Machine, call: Call) -> Step[int]:
    """TDH.IMPORT.STATE.IMMUTABLE: likewise."""
    _whole(m, call, IMPORT_IMMUTABLE)
    yield from call.commit()
    return Status.MIGRATION_DECRYPTION_KEY_NOT_SET


def bind(m: Machine, call: Call) -> Step[int]:
    """TDH.SERVTD.BIND: no slot takes a service TD here."""
    td = checks.td_of(m, call, call.r[RCX], RCX, exclusive=False)
    checks.state(call, td, BIND, checks.SHARE)
    service = checks.td_of(m, call, call.r[RDX], RDX, exclusive=False)
    if service.op_state not in SERVICE_TD_OP_STATES:
        raise Refused(Status.OP_STATE_INCORRECT)
    yield from call.commit()
    return Status.OPERAND_INVALID | R8


Leaf = Callable[["Machine", Call], Step[int]]


def data_leaf(number: int, handle: int, operand: int, tdr: str, op: str, vcpu: bool = False) -> Leaf:
    """A leaf that moves data: everything up to its first operand of its own.

    `handle` is the register that names the TD or the VCPU, `operand` the one that is refused then; `tdr`
    is how the TDR is locked (S or X), `op` how the op state is.
    """

    def leaf(m: Machine, call: Call) -> Step[int]:
        if vcpu:
            found = checks.vcpu_of(m, call, call.r[handle], handle, exclusive=True)
            checks.state(call, found.td, number, checks.SHARE)
        else:
            td = checks.td_of(m, call, call.r[handle], handle, exclusive=tdr == "X")
            lock = checks.IMPLIED if tdr == "X" else checks.OWN if op == "X" else checks.SHARE
            checks.state(call, td, number, lock)
        yield from call.commit()
        return Status.OPERAND_INVALID | operand

    return leaf
