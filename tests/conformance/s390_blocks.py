"""Control blocks of the Ultravisor as a host builds them: sections 2 and 3 of the fact sheet.

Written apart from the implementation on purpose: a mistake in one of the two shows.
"""

from __future__ import annotations

from dataclasses import dataclass

PAGE = 0x1000
MIB = 0x100000
GIB = 0x40000000

OK, ERROR, BUSY, PARTIAL = 0, 1, 2, 3  # condition codes, section 3.2

EXECUTED = 0x0001
INV_CMD = 0x0002
INV_STATE = 0x0003
INV_LEN = 0x0005
INV_GHANDLE = 0x0020
INV_CHANDLE = 0x0021
MORE_DATA = 0x0100
NOT_MAPPED = 0x010A  # of the calls that need a page of the guest
NEED_DESTROY = 0x8000

# Program interruptions.
PRIVILEGED, PROTECTION, ADDRESSING, SPECIFICATION = 0x02, 0x04, 0x05, 0x06
SEGMENT, PAGE_TRANSLATION, TRANSLATION_SPECIFICATION, OPERAND = 0x10, 0x11, 0x12, 0x15
ASCE_TYPE, REGION_FIRST, REGION_SECOND, REGION_THIRD = 0x38, 0x39, 0x3A, 0x3B
SECURE, NON_SECURE, VIOLATION = 0x3D, 0x3E, 0x3F
NAMES = {
    PRIVILEGED: "privileged-operation",
    PROTECTION: "protection",
    ADDRESSING: "addressing",
    SPECIFICATION: "specification",
    SEGMENT: "segment-translation",
    PAGE_TRANSLATION: "page-translation",
    TRANSLATION_SPECIFICATION: "translation-specification",
    ASCE_TYPE: "asce-type",
    REGION_FIRST: "region-first-translation",
    REGION_SECOND: "region-second-translation",
    REGION_THIRD: "region-third-translation",
    SECURE: "secure-storage-access",
    NON_SECURE: "non-secure-storage-access",
    VIOLATION: "secure-storage-violation",
}

# Intercept codes, section 5.4.
VALIDITY, WAIT, INSTRUCTION, EMULATE, NOTIFY, PREFIX, KICKED = 0x20, 0x1C, 0x04, 0x68, 0x6C, 0x70, 0x00

# CPU states of CPU Set State.
OPERATING, STOPPED, CHECK_STOP, LOAD = 1, 2, 3, 5


@dataclass(frozen=True, slots=True)
class Call:
    """One call that a host may issue: what every such call has in common."""

    name: str
    code: int
    length: int
    bit: int
    handle: str = ""  # "config" or "cpu": the kind of handle that the block carries
    handle_at: int = 0x18
    needs_init: bool = True

    @property
    def unknown(self) -> int:
        """The answer to a handle that nobody was given."""
        return INV_GHANDLE if self.handle == "config" else INV_CHANDLE

    def __str__(self) -> str:
        return self.name


HOST_CALLS = (
    Call("query", 0x0001, 0x120, 0, needs_init=False),
    Call("init", 0x000F, 0x48, 1, needs_init=False),
    Call("create_config", 0x0100, 0x80, 2),
    Call("destroy_config", 0x0101, 0x40, 3, "config"),
    Call("create_cpu", 0x0120, 0x60, 4, "config", 0x20),
    Call("destroy_cpu", 0x0121, 0x40, 5, "cpu"),
    Call("convert_to", 0x0200, 0x28, 6, "config"),
    Call("convert_from", 0x0201, 0x20, 7),
    Call("set_params", 0x0300, 0x50, 11, "config"),
    Call("destroy_storage", 0x0202, 0x20, 12),
    Call("unpack", 0x0301, 0x50, 13, "config"),
    Call("verify", 0x0302, 0x40, 14, "config"),
    Call("cpu_reset", 0x0310, 0x40, 15, "cpu"),
    Call("cpu_reset_initial", 0x0311, 0x40, 16, "cpu"),
    Call("set_state", 0x0330, 0x50, 17, "cpu"),
    Call("prepare_reset", 0x0320, 0x40, 18, "config"),
    Call("cpu_reset_clear", 0x0321, 0x40, 19, "cpu"),
    Call("unshare_all", 0x0340, 0x40, 20, "config"),
    Call("pin", 0x0341, 0x20, 21),
    Call("unpin", 0x0342, 0x28, 22, "config"),
)
"""The calls that make a secure guest live: every firmware that is tested has them."""

LATER_CALLS = (
    Call("destroy_config_fast", 0x0102, 0x48, 23, "config"),
    Call("dump_init", 0x0400, 0x40, 24, "config"),
    Call("dump_storage_state", 0x0401, 0x50, 25, "config"),
    Call("dump_cpu", 0x0402, 0x50, 26, "cpu"),
    Call("dump_complete", 0x0403, 0x50, 27, "config"),
    Call("query_keys", 0x0002, 0x200, 34, needs_init=False),
)
"""Calls that a firmware may lack: it then answers as to a code that does not exist, and its query says so."""

CALLS = {call.name: call for call in HOST_CALLS + LATER_CALLS}
BITS_OF_A_HOST = [*range(8), *range(11, 28), 34]

GUEST_CALLS = {
    "share": (0x1000, 0x30),
    "unshare": (0x1001, 0x30),
    "attest": (0x1020, 0x188),
    "add_secret": (0x1031, 0x48),
    "list_secrets": (0x1033, 0x48),
    "lock_secrets": (0x1034, 0x40),
    "retrieve_secret": (0x1035, 0x48),
}

UNASSIGNED = (0x0000, 0x0003, 0x00FF, 0x0303, 0x1002, 0x7FFF, 0xFFFF)
"""Codes that stand for no call at all."""

# name -> field -> (offset, bytes); section 2.1.
LAYOUT: dict[str, dict[str, tuple[int, int]]] = {
    "init": {"origin": (0x18, 8), "len": (0x20, 8)},
    "create_config": {
        "handle": (0x18, 8),
        "base": (0x20, 8),
        "variable": (0x28, 8),
        "flags": (0x36, 2),
        "mso": (0x38, 8),
        "len": (0x40, 8),
        "sca": (0x48, 8),
        "asce": (0x50, 8),
    },
    "create_cpu": {
        "handle": (0x18, 8),
        "config": (0x20, 8),
        "storage": (0x28, 8),
        "num": (0x36, 2),
        "state": (0x38, 8),
    },
    "convert_to": {"handle": (0x18, 8), "gaddr": (0x20, 8)},
    "unpin": {"handle": (0x18, 8), "gaddr": (0x20, 8)},
    "convert_from": {"paddr": (0x18, 8)},
    "destroy_storage": {"paddr": (0x18, 8)},
    "pin": {"paddr": (0x18, 8)},
    "set_params": {"handle": (0x18, 8), "header": (0x20, 8), "header_len": (0x28, 4)},
    "unpack": {"handle": (0x18, 8), "gaddr": (0x20, 8), "prefix": (0x28, 8), "offset": (0x30, 8)},
    "set_state": {"handle": (0x18, 8), "state": (0x27, 1)},
    "dump_storage_state": {"handle": (0x18, 8), "area": (0x20, 8), "gaddr": (0x28, 8)},
    "dump_cpu": {"handle": (0x18, 8), "area": (0x20, 8)},
    "dump_complete": {"handle": (0x18, 8), "area": (0x20, 8)},
    "attest": {
        "request": (0x18, 8),
        "token": (0x20, 8),
        "user_len": (0x2E, 2),
        "meas_len": (0x13C, 4),
        "meas": (0x140, 8),
        "uid": (0x148, 16),
        "add_len": (0x15C, 4),
        "add": (0x160, 8),
    },
    "add_secret": {"request": (0x20, 8)},
    "list_secrets": {"first": (0x1E, 2), "list": (0x20, 8)},
    "lock_secrets": {},
    "retrieve_secret": {"index": (0x18, 2), "len": (0x1C, 4), "buffer": (0x20, 8)},
    "share": {"paddr": (0x20, 8)},
    "unshare": {"paddr": (0x20, 8)},
}
NODATA = {"handle": (0x18, 8)}

HANDLE = 0x18  # where the create calls put the handle


def header(code: int, length: int, size: int | None = None) -> bytes:
    """A block that is nothing but a header and zeroes; `size` bytes of it exist, whatever `length` says."""
    size = length if size is None else size
    return (length.to_bytes(2, "big") + code.to_bytes(2, "big")).ljust(max(size, 8), b"\0")


def uvcb(name: str, length: int | None = None, **fields: int) -> bytes:
    """The control block of the call `name`, with `fields` set, and another length if given."""
    code, right = (CALLS[name].code, CALLS[name].length) if name in CALLS else GUEST_CALLS[name]
    made = bytearray(header(code, right if length is None else length, right))
    layout = LAYOUT.get(name, NODATA)
    for field, value in fields.items():
        offset, width = layout[field]
        made[offset : offset + width] = value.to_bytes(width, "big")
    return bytes(made)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call answered, and its block as the host finds it afterwards."""

    cc: int
    block: bytes

    def field(self, offset: int, width: int = 8) -> int:
        """One field of the block."""
        return int.from_bytes(self.block[offset : offset + width], "big")

    @property
    def rc(self) -> int:
        return self.field(4, 2)

    @property
    def rrc(self) -> int:
        return self.field(6, 2)

    @property
    def handle(self) -> int:
        return self.field(HANDLE)

    def __str__(self) -> str:
        return f"cc {self.cc} rc {self.rc:#06x} rrc {self.rrc:#06x}"

    def done(self) -> Reply:
        """Hold the call to have succeeded."""
        assert (self.cc, self.rc) == (OK, EXECUTED), str(self)
        return self

    def refused(self, rc: int | None = None, rrc: int | None = None) -> Reply:
        """Hold the call to have been refused, with `rc` and `rrc` where they are known."""
        assert self.cc == ERROR, str(self)
        assert self.rc not in (0, EXECUTED), str(self)
        if rc is not None:
            assert self.rc == rc, f"{self}, wanted rc {rc:#06x}"
        if rrc is not None:
            assert self.rrc == rrc, f"{self}, wanted rrc {rrc:#06x}"
        return self
