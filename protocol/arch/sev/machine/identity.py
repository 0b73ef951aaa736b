"""Who the legacy platform is: its keys, its certificates, and where they are kept. Sections 2.3 and 3.3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.sev.checks import platform as checks
from protocol.arch.sev.crypto.identity import PDH, PEK, Identity
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.status import Status
from protocol.arch.sev.structs import CERT_LEN, CHAIN_LEN, CHIP_ID_LEN, NV_LEN, Buffer

if TYPE_CHECKING:
    from protocol.arch.sev.machine import Machine


def load(fw: Machine, nv: int) -> bool:
    """Read the NV area of INIT_EX. False if it is damaged: it is erased then.

    An erased area (all ones, or never written) is a new platform's.
    """
    raw = fw.fetch(nv, NV_LEN)
    if raw in (b"\xff" * NV_LEN, bytes(NV_LEN)):
        return True
    found = Identity.load(fw.seed, raw)
    if found is None:
        fw.deposit(nv, b"\xff" * NV_LEN)
        return False
    _become(fw, found)
    return True


def save(fw: Machine) -> None:
    """Keep the NV area, if there is one, true."""
    if fw.platform.nv:
        fw.deposit(fw.platform.nv.start, fw.identity.save())


def _become(fw: Machine, identity: Identity) -> None:
    fw.identity = identity
    fw.platform.owned = identity.owned or identity.imported is not None
    save(fw)


def platform_reset(fw: Machine, b: Buffer) -> Reply:
    """Persistent state is that of a new platform again."""
    if status := checks.uninit(fw, b):
        return Reply(status)
    _become(fw, fw.identity.factory_reset())
    return DONE


def pek_gen(fw: Machine, b: Buffer) -> Reply:
    if status := checks.pek_gen(fw, b):
        return Reply(status)
    _become(fw, fw.identity.with_new(PEK))
    return DONE


def pdh_gen(fw: Machine, b: Buffer) -> Reply:
    if status := checks.initialised(fw, b):
        return Reply(status)
    _become(fw, fw.identity.with_new(PDH))
    return DONE


def pek_csr(fw: Machine, b: Buffer) -> Reply:
    status = checks.pek_csr(fw, b)
    if status == Status.SUCCESS:
        fw.deposit(b.pa, fw.identity.csr())
    return Reply(status, b.out(len=CERT_LEN))


def pek_cert_import(fw: Machine, b: Buffer) -> Reply:
    if status := checks.pek_cert_import(fw, b):
        return Reply(status)
    taken = fw.identity.with_owner(fw.fetch(b.pek, CERT_LEN), fw.fetch(b.oca, CERT_LEN))
    if isinstance(taken, Status):
        return Reply(taken)
    _become(fw, taken)
    return DONE


def pdh_cert_export(fw: Machine, b: Buffer) -> Reply:
    status = checks.pdh_cert_export(fw, b)
    if status == Status.SUCCESS:
        fw.deposit(b.pdh, fw.identity.pdh())
        fw.deposit(b.chain, fw.identity.chain())
    return Reply(status, b.out(len=CERT_LEN, chain_len=CHAIN_LEN))


def get_id(fw: Machine, b: Buffer) -> Reply:
    """One socket: one chip id of 64 bytes."""
    status = checks.get_id(fw, b)
    if status == Status.SUCCESS:
        fw.deposit(b.pa, fw.chip)
    return Reply(status, b.out(len=CHIP_ID_LEN))
