"""Control blocks, bytes to values: section 2.1 of the fact sheet. Everything is big-endian.

A block is packed and unpacked here and nowhere else. Reserved bytes are zero in what nestbed builds and
ignored in what it is given.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

HEADER = Struct(">HHHH")  # len, cmd, rc, rrc
ANSWER = Struct(">HH")  # rc, rrc at 4
ANSWER_AT = 4
U64 = Struct(">Q")

EXECUTED = 0x0001
INV_CMD = 0x0002
INV_STATE = 0x0003
INV_LEN = 0x0005
INV_GHANDLE = 0x0020
INV_CHANDLE = 0x0021
REAL_SPACE = 0x0030
NO_TRANSLATION = 0x0031
INVALID_ADDRESS = 0x0032
MORE_DATA = 0x0100

OK, ERROR, BUSY, PARTIAL = 0, 1, 2, 3  # condition codes


class Outcome(NamedTuple):
    """What a call answers: codes, and output fields as (offset, bytes).

    0 is no return code: the block stays as it is, and `rrc` is the condition code, BUSY or PARTIAL.
    """

    rc: int
    rrc: int = 0
    out: tuple[tuple[int, bytes], ...] = ()


DONE = Outcome(EXECUTED)
NOT_NOW = Outcome(0, BUSY)  # another call is under way
PARTLY = Outcome(0, PARTIAL)  # progress was made: the same call once more

INIT = Struct(">24xQQ")  # stor_origin, stor_len
NODATA = Struct(">24xQ")
PADDR = Struct(">24xQ")
HANDLE_GADDR = Struct(">24xQQ")
SHARE = Struct(">32xQ")
UNPACK = Struct(">24xQQQQ")  # handle, gaddr, tweak 0, tweak 1
SET_STATE = Struct(">24xQ7xB")
SET_PARAMS = Struct(">24xQQI")  # handle, header origin, header length
ATTEST_UID = 0x148
GUEST_ADDRESS = Struct(">32xQ")  # Add Secret
LIST_SECRETS = Struct(">30xHQ")  # first index, address of the list
RETRIEVE_SECRET = Struct(">24xH2xIQ")  # index, length and address of the buffer
DUMP_AREA = Struct(">24xQQ")  # handle, area: Dump CPU and Dump Complete
DUMP_STORAGE = Struct(">24xQQQ")  # handle, area, gaddr


_CREATE_CONFIG = Struct(">32xQQ6xHQQQQ")
_CREATE_CPU = Struct(">32xQQ6xHQ")


class CreateConfig(NamedTuple):
    base: int
    variable: int
    flags: int
    mso: int
    length: int
    sca: int
    asce: int

    @classmethod
    def unpack(cls, block: bytes) -> CreateConfig:
        return cls(*_CREATE_CONFIG.unpack_from(block))

    def pack(self) -> bytearray:
        return block(0x80, 0x0100, _CREATE_CONFIG, *self)


class CreateCpu(NamedTuple):
    config: int
    storage: int
    number: int
    state: int

    @classmethod
    def unpack(cls, block: bytes) -> CreateCpu:
        return cls(*_CREATE_CPU.unpack_from(block))

    def pack(self) -> bytearray:
        return block(0x60, 0x0120, _CREATE_CPU, *self)


class Attest(NamedTuple):
    request: int
    token: int
    user_length: int
    user: bytes
    measurement_length: int
    measurement: int
    additional_length: int
    additional: int

    def pack(self) -> bytearray:
        return block(0x188, 0x1020, ATTEST, *self)


ATTEST = Struct(">24xQQ6xH256s12xIQ20xIQ")  # the fields of Attest; the output at 0x148 is passed over

HANDLE_OUT = 0x18


def header(length: int, code: int) -> bytearray:
    """A zeroed block of `length` bytes with its header."""
    block = bytearray(length)
    HEADER.pack_into(block, 0, length, code, 0, 0)
    return block


def block(length: int, code: int, layout: Struct, *values: int | bytes) -> bytearray:
    """A control block with `values` in `layout`."""
    made = bytearray(length)
    layout.pack_into(made, 0, *values)
    HEADER.pack_into(made, 0, length, code, 0, 0)
    return made


# -- the SIE block (section 5.4) -----------------------------------------------------------------------------

SIE_LENGTH = 0x400  # 512 bytes of control block, and the register area behind it
SIE_PREFIX = 0x04
SIE_CPU_HANDLE = 0x10
SIE_CONFIG_HANDLE = 0x18
SIE_TIMER = 0x28
SIE_ICPTCODE = 0x50
SIE_IICTL = 0x55
SIE_IPA = 0x56
SIE_IPB = 0x58
SIE_SDF = 0x68
SIE_MSO = 0x80
SIE_MSL = 0x88
SIE_PSW = 0x90
SIE_SIDA = 0x180
SIE_GPRS = 0x380
GPRS = Struct(">16Q")
TEXT = Struct(">HI")  # ipa, ipb from 0x56 on
SECURE = 2  # sdf of a secure CPU


class SieEntry(NamedTuple):
    """Host fields that SIE reads at entry for a secure CPU."""

    cpu_handle: int
    config_handle: int
    timer: int
    iictl: int
    sdf: int
    sida: int
    gprs: tuple[int, ...]

    @classmethod
    def unpack(cls, raw: bytes) -> SieEntry:
        return cls(
            U64.unpack_from(raw, SIE_CPU_HANDLE)[0],
            U64.unpack_from(raw, SIE_CONFIG_HANDLE)[0],
            U64.unpack_from(raw, SIE_TIMER)[0],
            raw[SIE_IICTL],
            raw[SIE_SDF],
            U64.unpack_from(raw, SIE_SIDA)[0],
            GPRS.unpack_from(raw, SIE_GPRS),
        )


class SieExit(NamedTuple):
    """What SIE left behind, also in the block."""

    code: int
    ipa: int
    ipb: int
    gprs: tuple[int, ...]


# -- Query Ultravisor Information (section 4) ----------------------------------------------------------------

QUI_LENGTH = 0x120
QUI_MINIMUM = 0xA8
_QUERY = Struct(">16xQ40xQ8x4Q12xIQ22xHQ8xQQ8xQQ8xQQ8xQQQHH12x")


class Query(NamedTuple):
    """Fields that a role sees; the rest of the block is zero. `length` is that of the longest block known."""

    calls: int
    base_len: int
    conf_base_len: int
    conf_virtual_len: int
    conf_variable_len: int
    cpu_len: int
    max_configs: int
    max_storage: int
    max_cpu_id: int
    features: int
    header_versions: int
    pcf: int
    dump_storage_len: int
    dump_finalize_len: int
    attestation_versions: int
    attestation_flags: int
    secret_versions: int = 0
    secret_flags: int = 0
    secret_types: int = 0
    max_associations: int = 0
    max_retrievable: int = 0
    length: int = QUI_LENGTH

    def pack(self) -> bytes:
        """Bytes 0x10 to the end of the longest block that this Ultravisor knows."""
        return _QUERY.pack(*self[:-1])[0x10 : self.length]

    @classmethod
    def unpack(cls, raw: bytes) -> Query:
        """Read a block, padded with zeroes where it is shorter than the longest;

        its header says how long it is.
        """
        fields = _QUERY.unpack_from(raw.ljust(QUI_LENGTH, b"\0"))
        return cls._make((*fields, HEADER.unpack_from(raw)[0]))
