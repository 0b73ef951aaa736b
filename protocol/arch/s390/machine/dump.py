"""Dump of a secure guest by its host, readable by the owner alone: calls 0x0400 to 0x0403.

Follows sections 2.1 L and M, 2.3, 5.2 and 8.2. The owner has to allow it (plaintext control flag 34), and an
add-secret request can take the permission away. A dump is a mark on the configuration: its state stays what
it was, and SIE is refused until the dump completes. A CPU that is in SIE when a dump begins goes on until it
leaves (inferred: Add Secret has a return code for "dump in progress").

Guesses: the return codes, which are the sheet's proposals where it has any; that no call is ever partial, as
the ABI itself cuts storage state into pieces of 1 MiB; that each call fills the whole area that the query
reports, with zeroes behind the format; that a page which is secure when its state is taken shows as mapped
and no more; that nothing but SIE is refused while a dump is active.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.machine.entities import Config, ConfigState, Dump, PageState, SecureCpu
from protocol.arch.s390.profiles import DUMP_FINALIZE_LEN, DUMP_STORAGE_LEN
from protocol.arch.s390.structs import DONE, DUMP_AREA, DUMP_STORAGE, NODATA, Outcome
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.machine import Machine

WRONG_STATE = Outcome(0x0101)
NO_ACCESS = Outcome(0x0102)
NOT_ALLOWED = Outcome(0x0103)
NOT_NOW = Outcome(0x0104)  # a dump is active already, or none is
OUTSIDE = Outcome(0x0105)
UNALIGNED = Outcome(0x0106)

PIECE = 1 << 20  # guest storage that one call is about
PIECE_PAGES = PIECE >> PAGE_SHIFT


def init(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    config = uv.configs[NODATA.unpack_from(block)[0]]
    if config.state < ConfigState.VERIFIED or config.params is None:
        return WRONG_STATE
    from protocol.arch.s390.evidence import dump as form
    from protocol.arch.s390.image import PCF_ALLOW_DUMP
    from protocol.arch.s390.image.keys import derive

    if not config.params.pcf & PCF_ALLOW_DUMP or config.dump_disabled:
        return NOT_ALLOWED
    if config.dump is not None:
        return NOT_NOW
    config.dumps += 1
    name = f"{config.handle:x}/{config.dumps}".encode()
    seed = derive("dump/seed", uv.seed, name, form.SEED_BYTES)
    config.dump = Dump(seed, form.dump_key(config.params.cck, seed))
    return DONE


def storage_state(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    handle, area, gaddr = DUMP_STORAGE.unpack_from(block)
    config = uv.configs[handle]
    if uv.home_refusal(cpu, area, DUMP_STORAGE_LEN) is not None:
        return NO_ACCESS
    if config.dump is None:
        return NOT_NOW
    if gaddr >= config.length:
        return OUTSIDE
    if gaddr % PIECE:
        return UNALIGNED
    return _fill(uv, cpu, area, DUMP_STORAGE_LEN, _components(uv, config, gaddr >> PAGE_SHIFT))


def cpu_state(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    handle, area = DUMP_AREA.unpack_from(block)
    secure = uv.secure_cpus[handle]
    if secure.inside:
        return WRONG_STATE
    if uv.home_refusal(cpu, area, uv.profile.cpu_len) is not None:
        return NO_ACCESS
    if secure.config.dump is None:
        return NOT_NOW
    return _fill(uv, cpu, area, uv.profile.cpu_len, _sealed_cpu(secure, secure.config.dump))


def complete(uv: Machine, cpu: Cpu, block: bytes) -> Outcome:
    handle, area = DUMP_AREA.unpack_from(block)
    config = uv.configs[handle]
    dump = config.dump
    if uv.home_refusal(cpu, area, DUMP_FINALIZE_LEN) is not None:
        return NO_ACCESS
    if dump is None:
        return NOT_NOW
    from protocol.arch.s390.evidence import dump as form

    key = config.key
    data = form.seal_completion(dump.key, dump.next_iv(), dump.seed, key.nonce, key.xts_key)
    config.dump = None
    return _fill(uv, cpu, area, DUMP_FINALIZE_LEN, data)


def _fill(uv: Machine, cpu: Cpu, area: int, length: int, data: bytes) -> Outcome:
    fault = uv.home_write(cpu, area, data.ljust(length, b"\0"))
    assert fault is None, f"an area that was accessible is not: {fault}"
    return DONE


def _sealed_cpu(secure: SecureCpu, dump: Dump) -> bytes:
    from protocol.arch.s390.evidence import dump as form

    state = form.CpuState(
        gprs=secure.gprs,
        psw=_psw(secure),
        prefix=secure.prefix,
        timer=secure.guest_timer,
        interrupted=secure.completing is not None,
    )
    return form.seal_cpu(dump.key, dump.next_iv(), state)


def _psw(secure: SecureCpu) -> bytes:
    """The PSW that the CPU was started with, in its program's state; the program itself has no addresses."""
    problem_state = 1 << (127 - 15)
    psw = int.from_bytes(secure.psw, "big") & ~problem_state
    return (psw | (problem_state if secure.problem_state else 0)).to_bytes(16, "big")


def _components(uv: Machine, config: Config, first: int) -> bytes:
    """What 256 pages from page `first` on are to the owner."""
    from protocol.arch.s390.evidence import dump as form
    from protocol.arch.s390.image import tweak_component

    out = bytearray(form.special(form.ZERO) * PIECE_PAGES)

    def put(page: int, component: bytes) -> None:
        at = (page - first) * form.COMPONENT_BYTES
        out[at : at + form.COMPONENT_BYTES] = component

    for page in range(first, min(first + PIECE_PAGES, config.pages)):
        exported = config.exported.get(page)
        if exported is not None:
            put(page, tweak_component(page << PAGE_SHIFT, exported[0]))
    for offset in np.flatnonzero(config.resident[first : first + PIECE_PAGES]).tolist():
        frame = int(config.resident[first + offset]) - 1
        secure = uv.states[frame] == PageState.SECURE
        put(first + offset, form.special(form.MAPPED if secure else form.MAPPED | form.SHARED))
    return bytes(out)
