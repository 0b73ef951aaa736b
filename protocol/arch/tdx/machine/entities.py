"""What the module knows about its TDs and their VCPUs: the contents of TDR, TDCS and TDVPS."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import IntEnum

from protocol.arch.tdx.guest import Tdcall
from protocol.arch.tdx.machine.sept import SecureEpt
from protocol.arch.tdx.profiles import TDVPS_PAGES, TDVPS_PER_L2
from protocol.arch.tdx.tables import Lifecycle, OpState, VcpuState

NO_LP = 0xFFFF_FFFF  # of ASSOC_LPID
NOT_SET = (1 << 64) - 1  # a physical address in the TD VMCS that nobody wrote
NO_VECTOR = 0xFFFF
PIN_BASED = 0x3F  # external interrupts and NMIs exit, virtual NMIs, bits that are always one; a guess
HP_LOCK_TIMEOUT_US = 1_000_000


class LastExit(IntEnum):
    """How a VCPU left the last time, section 4.5."""

    ASYNC_FAULT = 0
    ASYNC_TRAP = 1
    TDVMCALL = 2


@dataclass(slots=True)
class VeInfo:
    """Why the guest got a #VE, until TDG.VP.VEINFO.GET asks."""

    reason: int
    qualification: int
    gla: int
    gpa: int


@dataclass(slots=True)
class Vcpu:
    """TDVPS. `frame` is that of the TDVPR, `pages` all of its frames in order."""

    frame: int
    td: Td
    pages: list[int]
    state: VcpuState = VcpuState.UNINITIALIZED
    index: int = 0
    lp: int | None = None  # association
    epoch: int = 0
    initial: dict[str, int] = field(default_factory=dict)  # registers that are not zero at first
    last_exit: LastExit = LastExit.ASYNC_FAULT
    vmcall: tuple[int, Tdcall] | None = None  # the TDVMCALL that it is inside of, and where it was made
    ve: VeInfo | None = None
    pend_nmi: int = 0
    pi_vector: int = NO_VECTOR
    pi_descriptor: int = NOT_SET
    shared_eptp: int = NOT_SET
    pin_based: int = PIN_BASED
    supervisor_ve: int = 0
    user_ve: int = 0
    violations: int = 0  # private EPT violations without progress, section 3.5
    suspected: list[int] = field(default_factory=list)  # their GPAs, once there were too many
    entered_at: int = 0  # the guest's position at the last entry

    def complete(self) -> bool:
        """Are there enough pages for a TD with that many L2 VMs?"""
        return len(self.pages) >= TDVPS_PAGES + TDVPS_PER_L2 * self.td.num_l2_vms


@dataclass(slots=True)
class Td:
    """TDR and TDCS. `frame` is that of the TDR; `children` counts its 4K pages."""

    frame: int
    hkid: int
    uuid: bytes
    lifecycle: Lifecycle = Lifecycle.HKID_ASSIGNED
    fatal: bool = False
    configured: int = 0  # packages
    tdcs: list[int] = field(default_factory=list)
    children: int = 0
    op_state: OpState = OpState.UNINITIALIZED
    # TD_PARAMS
    attributes: int = 0
    xfam: int = 0
    max_vcpus: int = 0
    num_l2_vms: int = 0
    gpaw: int = 0
    eptp: int = 0
    config_flags: int = 0
    tsc_frequency: int = 0
    mrconfigid: bytes = bytes(48)
    mrowner: bytes = bytes(48)
    mrownerconfig: bytes = bytes(48)
    pending_ve_disable: bool = False
    notify_enables: int = 0
    hp_lock_timeout: int = HP_LOCK_TIMEOUT_US
    # VCPUs
    vcpus: list[Vcpu] = field(default_factory=list)  # created
    num_vcpus: int = 0  # initialised
    associated: int = 0
    # TLB tracking, section 4.7
    epoch: int = 0
    inside: list[int] = field(default_factory=lambda: [0, 0])
    # measurement
    hashing: hashlib._Hash | None = None
    mrtd: bytes = bytes(48)
    rtmr: list[bytes] = field(default_factory=lambda: [bytes(48)] * 4)
    # memory
    sept: SecureEpt | None = None
    streams: list[int] = field(default_factory=list)  # frames of migration streams

    @property
    def shared_bit(self) -> int:
        return 1 << (51 if self.gpaw else 47)

    def tracked(self, bepoch: int) -> bool:
        """Can no translation that is as old as `bepoch` be cached any more?"""
        if bepoch < self.epoch - 1:
            return True
        return bepoch == self.epoch - 1 and not self.inside[bepoch & 1]
