"""Command buffers and other structures, bytes to values:

sections 2.3 to 2.8 and 5.7 of the fact sheet. Little-endian.

A buffer is read through its layout, in the notation of the sheet: `offset:width name`, hexadecimal. A
letter behind the width says what the field is: `a` an address (the C-bit is not part of it), `p` the
address of a page (its low 12 bits are reserved), `&mask` the bits that are not reserved. Bytes that no
field names are reserved.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

C_BIT = 51
C_MASK = 1 << C_BIT
U16, U32, U64 = Struct("<H"), Struct("<I"), Struct("<Q")
PAGE = 4096
TWO_MIB = 1 << 21


class Field(NamedTuple):
    offset: int
    width: int
    allowed: int  # bits that may be set
    address: bool


class Layout:
    """Where the fields of one command's buffer lie."""

    __slots__ = ("_allowed", "fields", "length")

    def __init__(self, length: int, text: str) -> None:
        self.length = length
        self.fields: dict[str, Field] = {}
        words = text.split()
        for place, name in zip(words[::2], words[1::2], strict=True):
            self.fields[name] = _field(place)
        allowed = bytearray(length)
        for field in self.fields.values():
            mask = field.allowed.to_bytes(field.width, "little")
            allowed[field.offset : field.offset + field.width] = mask
        self._allowed = int.from_bytes(allowed, "little")

    def strays(self, raw: bytes) -> bool:
        """Is anything reserved not zero?"""
        return bool(int.from_bytes(raw, "little") & ~self._allowed)

    def pack(self, **values: int) -> bytes:
        raw = bytearray(self.length)
        for name, value in values.items():
            field = self.fields[name]
            raw[field.offset : field.offset + field.width] = value.to_bytes(field.width, "little")
        return bytes(raw)


def _field(place: str) -> Field:
    offset, _, rest = place.partition(":")
    rest, _, mask = rest.partition("&")
    kind = rest[-1] if rest[-1] in "ap" else ""
    width = int(rest.rstrip("ap"), 16)
    allowed = int(mask, 16) if mask else (1 << 8 * width) - 1
    if kind == "p":
        allowed &= ~0xFFF
    return Field(int(offset, 16), width, allowed, bool(kind))


class Buffer:
    """One command's buffer, copied in. Its fields are attributes; an address comes without the C-bit."""

    __slots__ = ("_layout", "raw")

    def __init__(self, layout: Layout, raw: bytes) -> None:
        self._layout = layout
        self.raw = raw

    def __getattr__(self, name: str) -> int:
        try:
            field = self._layout.fields[name]
        except KeyError:
            raise AttributeError(name) from None
        value = int.from_bytes(self.raw[field.offset : field.offset + field.width], "little")
        return value & ~C_MASK if field.address else value

    @property
    def strays(self) -> bool:
        return self._layout.strays(self.raw)

    def bytes_of(self, name: str) -> bytes:
        field = self._layout.fields[name]
        return self.raw[field.offset : field.offset + field.width]

    def out(self, **values: int) -> tuple[tuple[int, bytes], ...]:
        """Output fields as (offset, bytes)."""
        fields = self._layout.fields
        return tuple(
            (fields[name].offset, value.to_bytes(fields[name].width, "little"))
            for name, value in values.items()
        )


NO_BUFFER = Layout(0, "")
_HANDLE = Layout(4, "0:4 handle")
_AREA = Layout(0xC, "0:8a pa 8:4 len")
_HANDLE_AREA = Layout(0x14, "0:4 handle 8:8a pa 10:4 len")
_TRANSPORT = Layout(
    0x34, "0:4 handle 8:8a hdr 10:4 hdr_len 18:8a guest 20:4 guest_len 28:8a trans 30:4 trans_len"
)
_DEBUG = Layout(0x1C, "0:4 handle 8:8a src 10:8a dst 18:4 len")
_SNP_DEBUG = Layout(0x18, "0:8p gctx 8:8p src 10:8p dst")

LAYOUTS: dict[str, Layout] = {
    "INIT": Layout(0x14, "0:2&1 flags 8:8a tmr 10:4 tmr_len"),
    "SHUTDOWN": NO_BUFFER,
    "PLATFORM_RESET": NO_BUFFER,
    "PLATFORM_STATUS": Layout(
        0xC, "0:1 api_major 1:1 api_minor 2:1 state 3:1 owner 4:2 config 7:1 build 8:4 guest_count"
    ),
    "PEK_GEN": NO_BUFFER,
    "PEK_CSR": _AREA,
    "PEK_CERT_IMPORT": Layout(0x1C, "0:8a pek 8:4 pek_len 10:8a oca 18:4 oca_len"),
    "PDH_CERT_EXPORT": Layout(0x1C, "0:8a pdh 8:4 len 10:8a chain 18:4 chain_len"),
    "PDH_GEN": NO_BUFFER,
    "DF_FLUSH": NO_BUFFER,
    "DOWNLOAD_FIRMWARE": _AREA,
    "GET_ID": _AREA,
    "INIT_EX": Layout(0x24, "0:4 length 4:2&1 flags 8:8a tmr 10:4 tmr_len 18:8a nv 20:4 nv_len"),
    "NOP": NO_BUFFER,
    "RING_BUFFER": Layout(
        0x28,
        "0:8a lo_cmd 8:8a lo_sts 10:8a hi_cmd 18:8a hi_sts 20:1 lo_n 21:1 hi_n 22:2 lo_thr 24:2 hi_thr "
        "26:2 int_on_empty",
    ),
    "DECOMMISSION": _HANDLE,
    "ACTIVATE": Layout(8, "0:4 handle 4:4 asid"),
    "DEACTIVATE": _HANDLE,
    "GUEST_STATUS": Layout(0xD, "0:4 handle 4:4 policy 8:4 asid c:1 state"),
    "COPY": Layout(0x18, "0:4 handle 4:4 len 8:8a src 10:8a dst"),
    "ACTIVATE_EX": Layout(0x18, "0:4 length 4:4 handle 8:4 asid c:4 numids 10:8a ids"),
    "LAUNCH_START": Layout(0x24, "0:4 handle 4:4 policy 8:8a dh 10:4 dh_len 18:8a session 20:4 session_len"),
    "LAUNCH_UPDATE_DATA": _HANDLE_AREA,
    "LAUNCH_UPDATE_VMSA": _HANDLE_AREA,
    "LAUNCH_MEASURE": _HANDLE_AREA,
    "LAUNCH_SECRET": _TRANSPORT,
    "LAUNCH_FINISH": _HANDLE,
    "ATTESTATION": Layout(0x24, "0:4 handle 8:8a pa 10:10 nonce 20:4 len"),
    "SEND_START": Layout(
        0x44,
        "0:4 handle 4:4 policy 8:8a pdh 10:4 pdh_len 18:8a plat 20:4 plat_len 28:8a amd 30:4 amd_len "
        "38:8a session 40:4 session_len",
    ),
    "SEND_UPDATE_DATA": _TRANSPORT,
    "SEND_UPDATE_VMSA": _TRANSPORT,
    "SEND_FINISH": _HANDLE,
    "SEND_CANCEL": _HANDLE,
    "RECEIVE_START": Layout(
        0x24, "0:4 handle 4:4 policy 8:8a pdh 10:4 pdh_len 18:8a session 20:4 session_len"
    ),
    "RECEIVE_UPDATE_DATA": _TRANSPORT,
    "RECEIVE_UPDATE_VMSA": _TRANSPORT,
    "RECEIVE_FINISH": _HANDLE,
    "DBG_DECRYPT": _DEBUG,
    "DBG_ENCRYPT": _DEBUG,
    "SWAP_OUT": Layout(0x28, "0:4 handle 4:4 flags 8:8a src 10:8a dst 18:8a mdata 20:8 sw_data"),
    "SWAP_IN": Layout(0x20, "0:4 handle 4:4 flags 8:8a src 10:8a dst 18:8a mdata"),
    "SNP_INIT": NO_BUFFER,
    "SNP_SHUTDOWN": NO_BUFFER,
    "SNP_PLATFORM_STATUS": Layout(8, "0:8a status"),
    "SNP_DF_FLUSH": NO_BUFFER,
    "SNP_INIT_EX": Layout(0x40, "0:4&3 flags 8:8a list"),
    "SNP_SHUTDOWN_EX": Layout(8, "0:4 length 4:4&3 flags"),
    "SNP_CONFIG": Layout(0x40, "0:8 tcb 8:4&3 masks"),
    "SNP_DOWNLOAD_FIRMWARE_EX": Layout(0x18, "0:4 length 8:8a pa 10:4 len 14:4&1 commit"),
    "SNP_COMMIT": Layout(4, "0:4 length"),
    "SNP_VLEK_LOAD": Layout(0x10, "0:4 length 4:1 version 8:8a pa"),
    "SNP_FEATURE_INFO": Layout(0x10, "0:4 length 4:4 ecx 8:8a pa"),
    "SNP_DECOMMISSION": Layout(8, "0:8p gctx"),
    "SNP_ACTIVATE": Layout(0xC, "0:8p gctx 8:4 asid"),
    "SNP_GUEST_STATUS": Layout(0x10, "0:8p gctx 8:8p status"),
    "SNP_GCTX_CREATE": Layout(8, "0:8p gctx"),
    "SNP_GUEST_REQUEST": Layout(0x18, "0:8p gctx 8:8p req 10:8p resp"),
    "SNP_ACTIVATE_EX": Layout(0x20, "0:4 length 8:8p gctx 10:4 asid 14:4 numids 18:8a ids"),
    "SNP_LAUNCH_START": Layout(0x30, "0:8p gctx 8:8 policy 10:8p ma 18:4&3 flags 1c:4 tsc_khz 20:10 gosvw"),
    "SNP_LAUNCH_UPDATE": Layout(0x20, "0:8p gctx 8:4&1f flags 10:8p pa 19:1 vmpl1 1a:1 vmpl2 1b:1 vmpl3"),
    "SNP_LAUNCH_FINISH": Layout(0x40, "0:8p gctx 8:8a id_block 10:8a id_auth 18:8&7 flags 20:20 host_data"),
    "SNP_DBG_DECRYPT": _SNP_DEBUG,
    "SNP_DBG_ENCRYPT": _SNP_DEBUG,
    "SNP_PAGE_SWAP_OUT": Layout(0x30, "0:8p gctx 8:8p src 10:8p dst 18:8a mdata 20:8 sw_data 28:8&17 flags"),
    "SNP_PAGE_SWAP_IN": Layout(0x30, "0:8p gctx 8:8p src 10:8p dst 18:8a mdata 28:8&1f flags"),
    "SNP_PAGE_MOVE": Layout(0x20, "0:8p gctx 8:4&1 size 10:8p src 18:8p dst"),
    "SNP_PAGE_MD_INIT": Layout(0x10, "0:8p gctx 8:8p pa"),
    "SNP_PAGE_SET_STATE": Layout(0x10, "0:4 length 8:8a list"),
    "SNP_PAGE_RECLAIM": Layout(8, "0:8a&fffffffffffff001 pa"),
    "SNP_PAGE_UNSMASH": Layout(8, "0:8a&fffffffffffff000 pa"),
}

# Commands whose buffer the firmware writes: under SNP it has to be a page of the firmware's (2.1, "W").
WRITTEN = frozenset(
    {
        "PLATFORM_STATUS",
        "PEK_CSR",
        "PDH_CERT_EXPORT",
        "GET_ID",
        "GUEST_STATUS",
        "LAUNCH_START",
        "LAUNCH_MEASURE",
        "SEND_START",
        "SEND_UPDATE_DATA",
        "SEND_UPDATE_VMSA",
        "RECEIVE_START",
        "SWAP_OUT",
    }
)
# Those whose buffer is also written back with INVALID_LENGTH: that is how lengths are asked for (2.0).
LENGTH_BACK = frozenset(
    {
        "PEK_CSR",
        "PDH_CERT_EXPORT",
        "GET_ID",
        "LAUNCH_MEASURE",
        "ATTESTATION",
        "SEND_START",
        "SEND_UPDATE_DATA",
        "SEND_UPDATE_VMSA",
    }
)

# Fixed sizes (2.7).
CERT_LEN = 2084
CHAIN_LEN = 3 * CERT_LEN
SESSION_LEN = 128
HEADER_LEN = 52
MEASURE_LEN = 48
REPORT_LEN = 208
CHIP_ID_LEN = 64
NV_LEN = 32768
SCRATCH = 20480
SNP_REPORT_LEN = 0x4A0
MESSAGE_HEADER = 0x60
MDATA_LEN = 64
MAX_HANDLES = 1024
RMP_COUNTERS = 2048
RMP_HEAD = 0x4000
MAX_RANGES = 255


_NEW_STATE = Struct("<Q3BxI")


class NewState(NamedTuple):
    """Operand of RMPUPDATE: what the entry shall become."""

    gpa: int
    assigned: bool
    large: bool
    immutable: bool
    asid: int

    @classmethod
    def unpack(cls, raw: bytes) -> NewState:
        gpa, assigned, large, immutable, asid = _NEW_STATE.unpack(raw)
        return cls(gpa, bool(assigned & 1), bool(large & 1), bool(immutable & 1), asid)

    def pack(self) -> bytes:
        return _NEW_STATE.pack(*self)


SHARED = NewState(0, False, False, False, 0)
FIRMWARE = NewState(0, True, False, True, 0)

# -- the VMCB's control area (5.7) ----------------------------------------------------------------------

VMCB_ASID = 0x58
VMCB_EXITCODE = 0x70
VMCB_EXITINTINFO = 0x88
VMCB_MODE = 0x90
VMCB_GHCB = 0xA0
VMCB_NCR3 = 0xB0
VMCB_VMSA = 0x108
NESTED_PAGING, SEV_ON, ES_ON = 1, 2, 4
EXIT_FIELDS = Struct(
    "<QQQII"
)  # exit code, EXITINFO1, EXITINFO2, EXITINTINFO and its error code, from 0x70 on

VMSA_VMPL = 0xCA
VMSA_TSC_SCALE = 0x2F0  # and the offset behind it, 8 bytes each
VMSA_FEATURES = 0x3B0
SNP_ACTIVE = 1

EXIT_INTR = 0x60
EXIT_HLT = 0x78
EXIT_SHUTDOWN = 0x7F
EXIT_NPF = 0x400
EXIT_VMGEXIT = 0x403
EXIT_INVALID = 0xFFFF_FFFF_FFFF_FFFF


class Vmcb(NamedTuple):
    """What VMRUN reads."""

    asid: int
    mode: int
    ghcb: int
    ncr3: int
    vmsa: int

    @classmethod
    def unpack(cls, raw: bytes) -> Vmcb:
        return cls(
            U32.unpack_from(raw, VMCB_ASID)[0],
            U64.unpack_from(raw, VMCB_MODE)[0],
            U64.unpack_from(raw, VMCB_GHCB)[0],
            U64.unpack_from(raw, VMCB_NCR3)[0],
            U64.unpack_from(raw, VMCB_VMSA)[0] & ~C_MASK,
        )


VMCB_READ = VMCB_VMSA + 8


class Exit(NamedTuple):
    """What VMRUN leaves behind, also in the VMCB."""

    code: int
    info1: int = 0
    info2: int = 0
    intinfo: int = 0

    def pack(self) -> bytes:
        return EXIT_FIELDS.pack(self.code, self.info1, self.info2, self.intinfo, 0)
