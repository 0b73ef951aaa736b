"""Checks of the commands about the platform: sections 2.3, 2.5, 3.3, 3.4 of the fact sheet."""

from __future__ import annotations

from protocol.arch.sev.books import View, is_dram, reachable, writable
from protocol.arch.sev.cpu import SME, SNP_EN, Cpu
from protocol.arch.sev.rmp import PageState
from protocol.arch.sev.status import SevState, SnpState, Status
from protocol.arch.sev.structs import (
    C_MASK,
    CERT_LEN,
    CHAIN_LEN,
    CHIP_ID_LEN,
    MAX_RANGES,
    NV_LEN,
    PAGE,
    TWO_MIB,
    U32,
    U64,
    Buffer,
)

MIB = 1 << 20
ES_FLAG = 1
INIT_RMP, LIST_EN = 1, 2
IOMMU_SHUTDOWN, X86_SHUTDOWN = 1, 2
_UP = (SevState.INIT, SevState.WORKING)


# -- legacy --------------------------------------------------------------------------------------------


def init(view: View, b: Buffer, extended: bool) -> Status:
    """INIT and INIT_EX. With SNP_EN on all CPUs, SNP has to be initialised first."""
    platform = view.platform
    if platform.sev is not SevState.UNINIT:
        return Status.INVALID_PLATFORM_STATE.because("not UNINIT")
    if not all(cpu.syscfg & SME for cpu in view.cpus):
        return Status.HARDWARE_PLATFORM
    if b.strays:
        return Status.INVALID_CONFIG
    if all(cpu.snp for cpu in view.cpus) and not view.rmp.live:
        return Status.INVALID_PLATFORM_STATE.because("SNP_EN is on and there is no RMP")
    if extended and (status := _nv(b)):
        return status
    tmr_len = b.tmr_len if b.flags & ES_FLAG else 0
    nv_len = b.nv_len if extended else 0
    if tmr_len and nv_len and b.tmr < b.nv + nv_len and b.nv < b.tmr + tmr_len:
        return Status.INVALID_ADDRESS.because("NV and TMR overlap")
    if extended and not reachable(view, b.nv, nv_len):
        return Status.INVALID_ADDRESS.because("NV misplaced")
    if (tmr_len and not writable(view, b.tmr, tmr_len)) or (nv_len and not writable(view, b.nv, nv_len)):
        return Status.INVALID_PAGE_STATE
    return _tmr(view, b) if b.flags & ES_FLAG else Status.SUCCESS


def _nv(b: Buffer) -> Status:
    if b.length != 0x24:
        return Status.INVALID_LENGTH.because("length")
    if b.nv % PAGE:
        return Status.INVALID_ADDRESS.because("NV misplaced")
    return Status.SUCCESS if b.nv_len == NV_LEN else Status.INVALID_LENGTH.because("NV length")


def _tmr(view: View, b: Buffer) -> Status:
    size = tmr_size(view)
    if b.tmr % size or not reachable(view, b.tmr, size):
        return Status.INVALID_ADDRESS.because("TMR misplaced")
    return Status.SUCCESS if b.tmr_len == size else Status.INVALID_LENGTH.because("TMR length")


def tmr_size(view: View) -> int:
    return TWO_MIB if view.rmp.live else MIB


def uninit(view: View, b: Buffer) -> Status:
    """PLATFORM_RESET."""
    return Status.INVALID_PLATFORM_STATE if view.platform.sev is not SevState.UNINIT else Status.SUCCESS


def initialised(view: View, b: Buffer) -> Status:
    """PDH_GEN, RING_BUFFER as far as the legacy platform is concerned."""
    return Status.SUCCESS if view.platform.sev in _UP else Status.INVALID_PLATFORM_STATE


def pek_gen(view: View, b: Buffer) -> Status:
    """A new PEK on a platform with an owner from outside is that owner's business (inferred)."""
    if view.platform.sev is not SevState.INIT:
        return Status.INVALID_PLATFORM_STATE
    return Status.SUCCESS


def pek_csr(view: View, b: Buffer) -> Status:
    if status := initialised(view, b):
        return status
    return _output(view, b.pa, b.len, CERT_LEN)


def pek_cert_import(view: View, b: Buffer) -> Status:
    if view.platform.sev is not SevState.INIT:
        return Status.INVALID_PLATFORM_STATE
    if view.platform.owned:
        return Status.ALREADY_OWNED
    if b.pek_len != CERT_LEN or b.oca_len != CERT_LEN:
        return Status.INVALID_LENGTH
    if not reachable(view, b.pek, CERT_LEN) or not reachable(view, b.oca, CERT_LEN):
        return Status.INVALID_ADDRESS
    return Status.SUCCESS


def pdh_cert_export(view: View, b: Buffer) -> Status:
    if status := initialised(view, b):
        return status
    if b.len < CERT_LEN or b.chain_len < CHAIN_LEN:
        return Status.INVALID_LENGTH
    return _output(view, b.pdh, CERT_LEN, CERT_LEN) or _output(view, b.chain, CHAIN_LEN, CHAIN_LEN)


def get_id(view: View, b: Buffer) -> Status:
    return _output(view, b.pa, b.len, CHIP_ID_LEN)


def _output(view: View, address: int, room: int, needed: int) -> Status:
    if room < needed:
        return Status.INVALID_LENGTH
    if not reachable(view, address, needed):
        return Status.INVALID_ADDRESS
    return Status.SUCCESS if writable(view, address, needed) else Status.INVALID_PAGE_STATE


def download_firmware(view: View, b: Buffer) -> Status:
    platform = view.platform
    if platform.sev is not SevState.UNINIT or platform.snp is not SnpState.UNINIT:
        return Status.INVALID_PLATFORM_STATE
    if b.pa % 32 or not reachable(view, b.pa, b.len):
        return Status.INVALID_ADDRESS
    return Status.SUCCESS


def ring_buffer(view: View, b: Buffer) -> Status:
    platform = view.platform
    if platform.sev not in _UP and platform.snp is not SnpState.INIT:
        return Status.INVALID_PLATFORM_STATE
    return Status.SUCCESS


# -- SNP -----------------------------------------------------------------------------------------------


def snp_init(view: View, flags: int, strays: bool) -> Status:
    """SNP_INIT and SNP_INIT_EX, up to what the RMP's bounds say; SNP_INIT is INIT_EX with init_rmp and no
    list.
    """
    platform = view.platform
    if strays:
        return Status.INVALID_PARAM.because("reserved bits")
    if platform.sev is not SevState.UNINIT or platform.snp is not SnpState.UNINIT:
        return Status.INVALID_PLATFORM_STATE
    if not flags & INIT_RMP and not platform.rmp_valid:
        return Status.RMP_INIT_REQUIRED
    if flags & LIST_EN and not flags & INIT_RMP:
        return Status.INVALID_PARAM.because("list without a new RMP")
    if not _agree(view.cpus, bool(flags & INIT_RMP)):
        return Status.INVALID_CONFIG
    if (view.cpus[0].rmp_base | view.cpus[0].rmp_end) & C_MASK:
        return Status.UNSUPPORTED
    return Status.SUCCESS


def _agree(cpus: list[Cpu], rebuild: bool) -> bool:
    """Are all CPUs set up alike, memory encryption and SNP on (inferred), the RMP on whole MiB?"""
    first = cpus[0]
    wanted = SME | SNP_EN
    if first.syscfg & wanted != wanted or first.rmp_base % MIB or (first.rmp_end + 1) % MIB:
        return False
    same = all(
        (cpu.syscfg, cpu.rmp_base, cpu.rmp_end) == (first.syscfg, first.rmp_base, first.rmp_end)
        for cpu in cpus
    )
    return same and not (rebuild and any(cpu.hsave for cpu in cpus))


def rmp_place(view: View) -> tuple[int, int] | Status:
    """Where the RMP lies, [base, end), if it can be built there."""
    base, end = view.cpus[0].rmp_base, view.cpus[0].rmp_end + 1
    if not is_dram(view.size, base, max(end - base, 0)) or not view.rmp.covers_itself(base, end):
        return Status.RMP_INITIALIZATION_FAILED
    return base, end


def ranges(view: View, address: int) -> list[range] | Status:
    """A list of page ranges (2.5):

    number, reserved word, then base and number of pages of each. A bad one is 16.
    """
    if address % 8 or not reachable(view, address, PAGE - address % PAGE):
        return Status.INVALID_ADDRESS
    head = view.fetch(address, 8)
    wrong = Status.INVALID_PARAM.because("list")
    count, reserved = U32.unpack_from(head)[0], U32.unpack_from(head, 4)[0]
    if count > MAX_RANGES or reserved or address % PAGE + 8 + 16 * count > PAGE:
        return wrong
    found = []
    raw = view.fetch(address + 8, 16 * count) if count else b""
    for at in range(0, 16 * count, 16):
        base = U64.unpack_from(raw, at)[0] & ~C_MASK
        length, reserved = U32.unpack_from(raw, at + 8)[0], U32.unpack_from(raw, at + 12)[0]
        if base % PAGE or reserved:
            return wrong
        found.append(range(base // PAGE, base // PAGE + length))
    return found


def snp_shutdown(view: View, b: Buffer, extended: bool) -> Status:
    """With SNP UNINIT everything is in order already, whatever else is asked."""
    platform = view.platform
    if platform.sev is not SevState.UNINIT:
        return Status.INVALID_PLATFORM_STATE
    if platform.snp is SnpState.UNINIT:
        return Status.SUCCESS
    if not platform.asids.all_clean():
        return Status.DFFLUSH_REQUIRED
    if extended and (b.length != 8 or b.strays or b.flags == X86_SHUTDOWN):
        return Status.INVALID_PARAM
    return Status.SUCCESS


def snp_platform_status(view: View, b: Buffer) -> Status:
    if b.status % PAGE + 0x20 > PAGE:
        return Status.INVALID_PARAM
    if not reachable(view, b.status, 0x20):
        return Status.INVALID_ADDRESS
    return Status.SUCCESS if writable(view, b.status, 0x20) else Status.INVALID_PAGE_STATE


def snp_feature_info(view: View, b: Buffer) -> Status:
    if b.length != 0x10:
        return Status.INVALID_PARAM.because("length")
    if b.pa % 4 or b.pa % PAGE + 16 > PAGE or not reachable(view, b.pa, 16):
        return Status.INVALID_ADDRESS
    if not writable(view, b.pa, 16):
        return Status.INVALID_PAGE_STATE
    return Status.INVALID_PARAM.because("subfunction") if b.ecx > 1 else Status.SUCCESS


def snp_config(view: View, b: Buffer, committed: bytes) -> Status:
    """No component of the reported TCB may be above the committed one."""
    if b.strays:
        return Status.INVALID_PARAM.because("reserved bits")
    reported = b.bytes_of("tcb")
    too_new = any(new > old for new, old in zip(reported, committed, strict=True))
    return Status.INVALID_PARAM.because("TCB above the committed one") if too_new else Status.SUCCESS


def snp_download_firmware(view: View, b: Buffer) -> Status:
    if view.platform.sev is not SevState.UNINIT:
        return Status.INVALID_PLATFORM_STATE
    if b.strays or b.length != 0x18:
        return Status.INVALID_PARAM
    if b.pa % 32 or not reachable(view, b.pa, b.len):
        return Status.INVALID_ADDRESS
    return Status.SUCCESS


def snp_commit(view: View, b: Buffer) -> Status:
    return Status.SUCCESS if b.length == 4 else Status.INVALID_PARAM


def snp_vlek_load(view: View, b: Buffer) -> Status:
    """Up to the wrapped key itself."""
    if b.length != 0x10 or b.version or b.strays:
        return Status.INVALID_PARAM
    return Status.SUCCESS if reachable(view, b.pa, 0x1B0) else Status.INVALID_ADDRESS


def page_set_state(view: View, b: Buffer) -> list[range] | Status:
    """Nothing is changed unless all pages pass."""
    if b.length != 0x10:
        return Status.INVALID_LENGTH
    if b.strays:
        return Status.INVALID_PARAM.because("reserved bits")
    if view.platform.snp is not SnpState.INIT:
        return Status.INVALID_PLATFORM_STATE
    listed = ranges(view, b.list)
    if isinstance(listed, Status):
        return listed
    if any(one.start % 512 for one in listed):
        return Status.INVALID_PARAM.because("list")
    own = range(view.rmp.base // PAGE, view.rmp.end // PAGE)
    if any(one.start < own.stop and own.start < one.stop for one in listed):
        return Status.INVALID_ADDRESS
    for one in listed:
        if any(view.rmp.state(page) is not PageState.FIRMWARE for page in one):
            return Status.INVALID_PAGE_STATE
    return listed
