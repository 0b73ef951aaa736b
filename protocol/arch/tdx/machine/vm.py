"""TDs: create, key, control pages, parameters, and the way down. Sections 2.3, 3.3, 4.2 and 4.3."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from protocol.arch.tdx.front import Call
from protocol.arch.tdx.machine import checks, metadata
from protocol.arch.tdx.machine.entities import Td
from protocol.arch.tdx.machine.init import own_key_table
from protocol.arch.tdx.machine.params import examine
from protocol.arch.tdx.machine.sept import SecureEpt
from protocol.arch.tdx.profiles import TDCS_LIMIT, TDCS_PAGES
from protocol.arch.tdx.status import FATAL, R8, R9, RAX, RCX, RDX, Operand, Refused, Status
from protocol.arch.tdx.structs import TD_PARAMS_SIZE
from protocol.arch.tdx.tables import KeyState, Lifecycle, OpState, PageType
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.tdx.machine import Machine

KOT = "kot"
SEPT_ROOT = 3  # the page of the TDCS that is the root of the Secure EPT
ADDCX, INIT, RD, WR, FINALIZE = 1, 21, 11, 13, 17


def create(m: Machine, call: Call) -> Step[int]:
    """TDH.MNG.CREATE."""
    hkid = call.r[RDX]
    if not m.profile.is_private(hkid):
        raise Refused(Status.OPERAND_INVALID | RDX)
    frame = m.platform.private(call.held, call.r[RCX], RCX, PageType.NDA, exclusive=True)
    own_keys(call)
    if m.platform.kot[hkid].state is not KeyState.FREE:
        raise Refused(Status.HKID_NOT_FREE)
    yield from call.commit()
    m.platform.kot[hkid].state = KeyState.ASSIGNED
    m.platform.assign(frame, PageType.TDR, 0)
    m.seize(frame)
    m.tds[frame] = Td(frame, hkid, m.new_secret("uuid", 32))
    return Status.SUCCESS


def own_keys(call: Call) -> None:
    if not call.held.own(KOT):
        raise Refused(Status.OPERAND_BUSY | Operand.KOT)


def key_config(m: Machine, call: Call) -> Step[int]:
    """TDH.MNG.KEY.CONFIG, once for each package. The key's bytes never matter: what a TD owns lies apart."""
    td = checks.td_of(m, call, call.r[RCX], RCX, exclusive=True)
    if td.fatal:
        raise Refused(Status.TD_FATAL | FATAL)
    if td.lifecycle is not Lifecycle.HKID_ASSIGNED:
        raise Refused(Status.LIFECYCLE_STATE_INCORRECT)
    bit = 1 << call.lp.package
    if td.configured & bit:
        raise Refused(Status.KEY_CONFIGURED)
    own_key_table(call)
    yield from call.commit()
    td.configured |= bit
    if td.configured == m.platform.all_packages:
        td.lifecycle = Lifecycle.KEYS_CONFIGURED
    return Status.SUCCESS


def add_page(m: Machine, call: Call) -> Step[int]:
    """TDH.MNG.ADDCX. The op state is looked at from the seventh page on, when there is one."""
    td = checks.td_of(m, call, call.r[RDX], RDX, exclusive=True)
    if td.fatal:
        raise Refused(Status.TD_FATAL | FATAL)
    if td.lifecycle is not Lifecycle.KEYS_CONFIGURED:
        raise Refused(Status.TD_KEYS_NOT_CONFIGURED)
    if len(td.tdcs) >= TDCS_LIMIT:
        raise Refused(Status.TDCX_NUM_INCORRECT)
    frame = m.platform.private(call.held, call.r[RCX], RCX, PageType.NDA, exclusive=True)
    if len(td.tdcs) >= TDCS_PAGES and td.op_state is not OpState.UNINITIALIZED:
        raise Refused(Status.OP_STATE_INCORRECT)
    yield from call.commit()
    m.give(td, frame, PageType.TDCX)
    td.tdcs.append(frame)
    return Status.SUCCESS


def initialize(m: Machine, call: Call) -> Step[int]:
    """TDH.MNG.INIT. What fails leaves the TD uninitialised, so the call can be repeated."""
    pointer = call.r[RDX]
    tdr = call.r[RCX]
    call.r[RCX] = 0
    td = checks.td_of(m, call, tdr, RCX, exclusive=True)
    checks.state(call, td, INIT, checks.IMPLIED)
    buffer = m.platform.shared(pointer, RDX, TD_PARAMS_SIZE)
    params = examine(m, call, m.load(buffer, TD_PARAMS_SIZE), len(td.tdcs))
    yield from call.commit()
    td.attributes, td.xfam = params.attributes, params.xfam
    td.max_vcpus, td.num_l2_vms = params.max_vcpus, params.num_l2_vms
    td.config_flags, td.gpaw = params.config_flags, params.config_flags & 1
    td.tsc_frequency = params.tsc_frequency
    td.mrconfigid, td.mrowner, td.mrownerconfig = params.mrconfigid, params.mrowner, params.mrownerconfig
    td.pending_ve_disable = bool(params.attributes >> 28 & 1)
    td.eptp = params.eptp | td.tdcs[SEPT_ROOT] << 12
    td.sept = SecureEpt(td.tdcs[SEPT_ROOT], params.eptp >> 3 & 7)
    td.epoch = 1
    td.hashing = hashlib.sha384()
    td.op_state = OpState.INITIALIZED
    return Status.SUCCESS


def finalize(m: Machine, call: Call) -> Step[int]:
    """TDH.MR.FINALIZE: the measurement is done, the TD may run."""
    td = checks.td_of(m, call, call.r[RCX], RCX, exclusive=True)
    checks.state(call, td, FINALIZE, checks.IMPLIED)
    if not td.num_vcpus:
        raise Refused(Status.NO_VCPUS)
    yield from call.commit()
    assert td.hashing is not None
    td.mrtd = td.hashing.digest()
    td.op_state = OpState.RUNNABLE
    return Status.SUCCESS


def read(m: Machine, call: Call) -> Step[int]:
    """TDH.MNG.RD."""
    field_id = call.r[RDX]
    if call.version:
        call.r[RDX] = metadata.NO_FIELD
    call.r[R8] = 0
    if call.version > 1:
        raise Refused(Status.OPERAND_INVALID | RAX)
    td = checks.td_of(m, call, call.r[RCX], RCX, exclusive=False)
    checks.state(call, td, RD, checks.SHARE)
    yield from call.commit()
    status, following, call.r[R8] = metadata.read_td(m, td, field_id, call.version)
    if call.version:
        call.r[RDX] = following
    return status


def write(m: Machine, call: Call) -> Step[int]:
    """TDH.MNG.WR."""
    value, mask = call.r[R8], call.r[R9]
    call.r[R8] = 0
    td = checks.td_of(m, call, call.r[RCX], RCX, exclusive=False)
    checks.state(call, td, WR, checks.SHARE)
    yield from call.commit()
    status, call.r[R8] = metadata.write_td(m, td, call.r[RDX], value, mask)
    return status


def flush_done(m: Machine, call: Call) -> Step[int]:
    """TDH.MNG.VPFLUSHDONE: nobody runs the TD any more; its KeyID has to leave the caches."""
    td = checks.td_of(m, call, call.r[RCX], RCX, exclusive=True)
    own_keys(call)
    if td.lifecycle not in (Lifecycle.HKID_ASSIGNED, Lifecycle.KEYS_CONFIGURED):
        raise Refused(Status.LIFECYCLE_STATE_INCORRECT)
    if td.associated:
        raise Refused(Status.FLUSHVP_NOT_DONE)
    yield from call.commit()
    key = m.platform.kot[td.hkid]
    key.state, key.pending = KeyState.FLUSHED, m.platform.all_packages
    td.lifecycle = Lifecycle.BLOCKED
    return Status.SUCCESS


def free_key(m: Machine, call: Call) -> Step[int]:
    """TDH.MNG.KEY.FREEID."""
    td = checks.td_of(m, call, call.r[RCX], RCX, exclusive=True)
    if td.lifecycle is not Lifecycle.BLOCKED:
        raise Refused(Status.LIFECYCLE_STATE_INCORRECT)
    own_keys(call)
    key = m.platform.kot[td.hkid]
    if key.pending:
        raise Refused(Status.WBCACHE_NOT_COMPLETE)
    yield from call.commit()
    key.state = KeyState.FREE
    td.lifecycle = Lifecycle.TEARDOWN
    return Status.SUCCESS


def reclaim_key(m: Machine, call: Call) -> Step[int]:
    """TDH.MNG.KEY.RECLAIMID does nothing and succeeds."""
    yield from call.commit()
    return Status.SUCCESS
