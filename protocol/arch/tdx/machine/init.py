"""TDH.SYS.*: the platform comes up, is described, and goes down. Sections 2.2, 3.3 and 4.1.

These leaves touch the platform's tables and the host's memory and nothing else, so an emulation of the
module for a guest host runs the same code on its own tables: there they are its treatment.
"""

from __future__ import annotations

from protocol.arch.tdx import fields
from protocol.arch.tdx.cpu import Lp
from protocol.arch.tdx.front import Call, Front
from protocol.arch.tdx.machine import system
from protocol.arch.tdx.platform import Tdmr
from protocol.arch.tdx.profiles import MAX_CMRS, MAX_TDMRS, Range
from protocol.arch.tdx.status import R8, R9, RCX, RDX, Operand, Refused, Status
from protocol.arch.tdx.structs import (
    SYSINFO_SIZE,
    TDMR_INFO_SIZE,
    U64,
    TdmrInfo,
    pack_cmrs,
    pack_sysinfo,
)
from protocol.arch.tdx.tables import KeyState, SysState
from protocol.arch.tdx.tdmr import check
from protocol.effects import Step

GIB = 1 << 30
GLOBAL = "sys"  # the module's global lock
HANDOFF_VERSION = 0
LIST_SIZE = 4096


def initialize(m: Front, call: Call) -> Step[int]:
    """TDH.SYS.INIT. The machine is consistent, so nothing behind the state check can fail."""
    _own_global(call)
    if call.r[RCX]:
        raise Refused(Status.OPERAND_INVALID | RCX)
    if m.platform.state is not SysState.INIT_PENDING:
        raise Refused(Status.SYS_INIT_NOT_PENDING)
    yield from call.commit()
    m.platform.state = SysState.INIT_DONE
    return Status.SUCCESS


def lp_init(m: Front, call: Call) -> Step[int]:
    """TDH.SYS.LP.INIT."""
    if not call.held.share(GLOBAL):
        raise Refused(Status.SYS_BUSY)
    if m.platform.state is not SysState.INIT_DONE:
        raise Refused(Status.SYS_LP_INIT_NOT_PENDING)
    if call.lp.number in m.platform.lps:
        raise Refused(Status.SYS_LP_INIT_DONE)
    yield from call.commit()
    m.platform.lps.add(call.lp.number)
    return Status.SUCCESS


def configure(m: Front, call: Call) -> Step[int]:
    """TDH.SYS.CONFIG. The KeyID is reserved before the TDMRs are looked at, and stays reserved."""
    platform = m.platform
    _own_global(call)
    if platform.state is not SysState.INIT_DONE or len(platform.lps) < platform.cpus:
        raise Refused(Status.SYS_CONFIG_NOT_PENDING)
    pointers = platform.shared(call.r[RCX], RCX, TDMR_INFO_SIZE)
    count = call.r[RDX]
    if not 1 <= count <= MAX_TDMRS:
        raise Refused(Status.OPERAND_INVALID | RDX)
    hkid = call.r[R8]
    if not platform.profile.is_private(hkid):
        raise Refused(Status.OPERAND_INVALID | R8)
    platform.kot[hkid].state = KeyState.RESERVED
    described: list[TdmrInfo] = []
    tdmrs: list[Tdmr] = []
    for i in range(count):
        pointer = U64.unpack(m.load(pointers + 8 * i, 8))[0]
        at = platform.shared(pointer, RCX, TDMR_INFO_SIZE)
        info = TdmrInfo.unpack(m.load(at, TDMR_INFO_SIZE))
        tdmrs.append(check(platform, described, info))
        described.append(info)
    yield from call.commit()
    platform.tdmrs = tdmrs
    platform.global_hkid = hkid
    platform.packages = 0
    platform.state = SysState.CONFIG_DONE
    return Status.SUCCESS


def key_config(m: Front, call: Call) -> Step[int]:
    """TDH.SYS.KEY.CONFIG, once for each package."""
    platform = m.platform
    _own_global(call)
    if platform.state is not SysState.CONFIG_DONE:
        raise Refused(Status.SYS_KEY_CONFIG_NOT_PENDING)
    bit = 1 << call.lp.package
    if platform.packages & bit:
        raise Refused(Status.KEY_CONFIGURED)
    own_key_table(call)
    yield from call.commit()
    platform.packages |= bit
    if platform.packages == platform.all_packages:
        platform.state = SysState.READY
    return Status.SUCCESS


def tdmr_init(m: Front, call: Call) -> Step[int]:
    """TDH.SYS.TDMR.INIT: one whole GiB a call, where the module of 1.5.01 does 4 MiB."""
    platform = m.platform
    base = call.r[RCX]
    call.r[RDX] = 0
    platform.form(base, RCX, 2)
    tdmr = next((tdmr for tdmr in platform.tdmrs if tdmr.base == base), None)
    if tdmr is None:
        raise Refused(Status.OPERAND_INVALID | RCX)
    if not call.held.own(("tdmr", base)):
        raise Refused(Status.OPERAND_BUSY | RCX)
    if tdmr.ready >= tdmr.base + tdmr.size:
        raise Refused(Status.TDMR_ALREADY_INITIALIZED)
    yield from call.commit()
    for area in pamt_of(tdmr):
        m.pamt_written(area)
    platform.cover(tdmr)
    call.r[RDX] = tdmr.ready
    return Status.SUCCESS


def pamt_of(tdmr: Tdmr) -> list[Range]:
    """What of the PAMT areas describes the next GiB of a TDMR, in whole pages."""
    gib = (tdmr.ready - tdmr.base) // GIB
    areas = []
    for area, size in zip(tdmr.pamt, (16, 16 * 512, 16 * 512 * 512), strict=True):
        start = area.base + gib * size & ~0xFFF
        end = area.base + (gib + 1) * size + 0xFFF & ~0xFFF
        areas.append(Range(start, end - start))
    return areas


def info(m: Front, call: Call) -> Step[int]:
    """TDH.SYS.INFO."""
    platform = m.platform
    size, entries = call.r[RDX], call.r[R9]
    call.r[RDX] = call.r[R9] = 0
    _lp_ready(m, call.lp)
    buffer = platform.shared(call.r[RCX], RCX, SYSINFO_SIZE)
    if size < SYSINFO_SIZE:
        raise Refused(Status.OPERAND_INVALID | RDX)
    cmrs = platform.shared(call.r[R8], R8, 16 * MAX_CMRS)
    if entries < MAX_CMRS:
        raise Refused(Status.OPERAND_INVALID | R9)
    yield from call.commit()
    m.poke(buffer, pack_sysinfo(system.sysinfo(m.profile), system.cpuid_config()))
    m.poke(cmrs, pack_cmrs(platform.cmrs))
    call.r[RDX], call.r[R9] = SYSINFO_SIZE, MAX_CMRS
    return Status.SUCCESS


def read(m: Front, call: Call) -> Step[int]:
    """TDH.SYS.RD."""
    field_id = call.r[RDX]
    call.r[RDX], call.r[R8] = fields.NO_FIELD, 0
    _lp_ready(m, call.lp)
    yield from call.commit()
    status, call.r[RDX], call.r[R8] = system.read(m, field_id, guest=False)
    return status


def read_all(m: Front, call: Call) -> Step[int]:
    """TDH.SYS.RDALL."""
    first = call.r[R8]
    call.r[R8] = fields.NO_FIELD
    _lp_ready(m, call.lp)
    buffer = m.platform.shared(call.r[RDX], RDX, LIST_SIZE)
    yield from call.commit()
    status, call.r[R8], data = system.dump(m, first, guest=False)
    m.poke(buffer, data)
    return status


def shutdown(m: Front, call: Call) -> Step[int]:
    """TDH.SYS.SHUTDOWN. Handoff data are there afterwards; what is in them is not modelled."""
    if call.r[RCX] != HANDOFF_VERSION:
        raise Refused(Status.OPERAND_INVALID | RCX)
    _own_global(call)
    if m.platform.in_seam > 1:
        raise Refused(Status.SYS_BUSY)
    yield from call.commit()
    m.platform.state = SysState.SHUTDOWN
    m.platform.handoff_valid = True
    return Status.SUCCESS


def update(m: Front, call: Call) -> Step[int]:
    """TDH.SYS.UPDATE: handoff data lie in SEAMRR and do not survive a restart, so there never are any."""
    _own_global(call)
    if m.platform.state is not SysState.INIT_DONE or len(m.platform.lps) < m.platform.cpus:
        raise Refused(Status.SYS_STATE_INCORRECT)
    yield from call.commit()
    return Status.SYS_INVALID_HANDOFF


def lp_shutdown(m: Front, call: Call) -> Step[int]:
    """TDH.SYS.LP.SHUTDOWN does nothing and succeeds, in any state."""
    yield from call.commit()
    return Status.SUCCESS


def own_key_table(call: Call) -> None:
    """The package's table of keys, which another call may be programming. One per package is a guess."""
    if not call.held.own(("ket", call.lp.package)):
        raise Refused(Status.OPERAND_BUSY | Operand.KET)


def _own_global(call: Call) -> None:
    if not call.held.own(GLOBAL):
        raise Refused(Status.SYS_BUSY)


def _lp_ready(m: Front, lp: Lp) -> None:
    if lp.number not in m.platform.lps:
        raise Refused(Status.SYS_LP_INIT_NOT_DONE)
