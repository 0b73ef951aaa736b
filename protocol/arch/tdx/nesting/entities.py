"""What a level keeps about the TDs and VCPUs of its guest host: just what an answer or a teardown needs."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.arch.tdx.machine.entities import NOT_SET
from protocol.arch.tdx.tables import Lifecycle


@dataclass(slots=True)
class TrackedVcpu:
    """`lp` is the guest host's LP that it is associated with; the addresses are the guest host's, too.

    `coming` are shared EPTPs that are being written just now.
    """

    frame: int
    td: TrackedTd
    lp: int | None = None
    shared_eptp: int = NOT_SET
    pi_descriptor: int = NOT_SET
    coming: list[int] = field(default_factory=list)


@dataclass(slots=True)
class TrackedTd:
    """`hkid` as the guest host knows it, `real` the one below."""

    frame: int
    hkid: int
    real: int
    lifecycle: Lifecycle = Lifecycle.HKID_ASSIGNED
    configured: int = 0  # packages of the guest host
    written_back: bool = False  # below, since the KeyID was flushed
    eptp: int = 0
    gpaw: int = 0
    vcpus: list[TrackedVcpu] = field(default_factory=list)

    @property
    def shared_bit(self) -> int:
        return 1 << (51 if self.gpaw else 47)

    @property
    def associated(self) -> int:
        return sum(vcpu.lp is not None for vcpu in self.vcpus)
