"""What the secure processor answers:

statuses, states and page types. Section 3.1, 4 and 4.5 of the fact sheet.
"""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """16 bits in CmdResp. Every number that a source names, whether or not this firmware gives it.

    Where several checks of a command answer one status, each says which it is: `because` gives a status that
    is equal to the plain one, and whose `why` is the text of the check in the command table.
    """

    SUCCESS = 0x00
    INVALID_PLATFORM_STATE = 0x01
    INVALID_GUEST_STATE = 0x02
    INVALID_CONFIG = 0x03
    INVALID_LENGTH = 0x04
    ALREADY_OWNED = 0x05
    INVALID_CERTIFICATE = 0x06
    POLICY_FAILURE = 0x07
    INACTIVE = 0x08
    INVALID_ADDRESS = 0x09
    BAD_SIGNATURE = 0x0A
    BAD_MEASUREMENT = 0x0B
    ASID_OWNED = 0x0C
    INVALID_ASID = 0x0D
    WBINVD_REQUIRED = 0x0E
    DFFLUSH_REQUIRED = 0x0F
    INVALID_GUEST = 0x10
    INVALID_COMMAND = 0x11
    ACTIVE = 0x12
    HARDWARE_PLATFORM = 0x13
    HARDWARE_UNSAFE = 0x14
    UNSUPPORTED = 0x15
    INVALID_PARAM = 0x16
    RESOURCE_LIMIT = 0x17
    SECURE_DATA_INVALID = 0x18
    INVALID_PAGE_SIZE = 0x19
    INVALID_PAGE_STATE = 0x1A
    INVALID_MDATA_ENTRY = 0x1B
    INVALID_PAGE_OWNER = 0x1C
    AEAD_OFLOW = 0x1D
    EXIT_RING_BUFFER = 0x1F
    RMP_INIT_REQUIRED = 0x20
    BAD_SVN = 0x21
    BAD_VERSION = 0x22
    SHUTDOWN_REQUIRED = 0x23
    UPDATE_FAILED = 0x24
    RESTORE_REQUIRED = 0x25
    RMP_INITIALIZATION_FAILED = 0x26
    INVALID_KEY = 0x27
    SHUTDOWN_INCOMPLETE = 0x28

    def because(self, why: str) -> Status:
        """The same status, answered by the check that the table calls `why`."""
        said = int.__new__(Status, self.value)
        said._name_, said._value_ = self._name_, self._value_
        said.__dict__["_why"] = why
        return said

    @property
    def why(self) -> str:
        """The check that answered it, where that was said."""
        found: str = self.__dict__.get("_why", "")
        return found


class SevState(IntEnum):
    """Of the legacy platform."""

    UNINIT = 0
    INIT = 1
    WORKING = 2


class SnpState(IntEnum):
    """Of the SNP platform, which is a machine of its own."""

    UNINIT = 0
    INIT = 1


class GuestState(IntEnum):
    """Of a legacy guest."""

    INVALID = 0
    LUPDATE = 1
    LSECRET = 2
    RUNNING = 3
    SUPDATE = 4
    RUPDATE = 5
    SENT = 6


class ContextState(IntEnum):
    """Of an SNP guest."""

    INIT = 0
    LAUNCH = 1
    RUNNING = 2


class PageType(IntEnum):
    """Of SNP_LAUNCH_UPDATE; 0 and 7 are refused."""

    NORMAL = 1
    VMSA = 2
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6


class SwapType(IntEnum):
    """Of SNP_PAGE_SWAP_OUT and IN."""

    DATA = 0
    METADATA = 1
    VMSA = 2


# Legacy policy, 32 bits.
NODBG, NOKS, ES, NOSEND, DOMAIN, SEV = (1 << bit for bit in range(6))
# SNP policy, 64 bits.
SMT_ALLOWED = 1 << 16
POLICY_ONE = 1 << 17
MIGRATE_MA = 1 << 18
DEBUG = 1 << 19
SINGLE_SOCKET = 1 << 20
POLICY_RESERVED = ~0x1F_FFFF & 0xFFFF_FFFF_FFFF_FFFF
