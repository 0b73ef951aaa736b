"""An AMD secure host as a test types on it: buffers and structures from the documents alone.

Nothing here comes from the implementation: numbers, layouts and page states are written down again, so that
a mistake in one place shows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from driver import Keyboard, number

from nestbed.testing import MakeHost

PAGE = 4096
MIB = 1 << 20
C_BIT = 1 << 51
SYSCFG, HSAVE, RMP_BASE, RMP_END, GHCB = 0xC0010010, 0xC0010117, 0xC0010132, 0xC0010133, 0xC0010130
SNP_CPU = 0x800000 | 1 << 19 | 1 << 24 | 1 << 25
RMP_AT, RMP_LEN = 0x400000, 3 * MIB
SCRATCH = 0x110000  # below what alloc gives out first: buffers of this helper
POLICY = 0x30000

IDS = {
    "INIT": 0x001,
    "SHUTDOWN": 0x002,
    "PLATFORM_RESET": 0x003,
    "PLATFORM_STATUS": 0x004,
    "PEK_GEN": 0x005,
    "PEK_CSR": 0x006,
    "PEK_CERT_IMPORT": 0x007,
    "PDH_CERT_EXPORT": 0x008,
    "PDH_GEN": 0x009,
    "DF_FLUSH": 0x00A,
    "DOWNLOAD_FIRMWARE": 0x00B,
    "GET_ID": 0x00C,
    "INIT_EX": 0x00D,
    "NOP": 0x00E,
    "RING_BUFFER": 0x00F,
    "DECOMMISSION": 0x020,
    "ACTIVATE": 0x021,
    "DEACTIVATE": 0x022,
    "GUEST_STATUS": 0x023,
    "COPY": 0x024,
    "ACTIVATE_EX": 0x025,
    "LAUNCH_START": 0x030,
    "LAUNCH_UPDATE_DATA": 0x031,
    "LAUNCH_UPDATE_VMSA": 0x032,
    "LAUNCH_MEASURE": 0x033,
    "LAUNCH_SECRET": 0x034,
    "LAUNCH_FINISH": 0x035,
    "ATTESTATION": 0x036,
    "SEND_START": 0x040,
    "SEND_UPDATE_DATA": 0x041,
    "SEND_UPDATE_VMSA": 0x042,
    "SEND_FINISH": 0x043,
    "SEND_CANCEL": 0x044,
    "RECEIVE_START": 0x050,
    "RECEIVE_UPDATE_DATA": 0x051,
    "RECEIVE_UPDATE_VMSA": 0x052,
    "RECEIVE_FINISH": 0x053,
    "DBG_DECRYPT": 0x060,
    "DBG_ENCRYPT": 0x061,
    "SWAP_OUT": 0x070,
    "SWAP_IN": 0x071,
    "SNP_INIT": 0x081,
    "SNP_SHUTDOWN": 0x082,
    "SNP_PLATFORM_STATUS": 0x083,
    "SNP_DF_FLUSH": 0x084,
    "SNP_INIT_EX": 0x085,
    "SNP_SHUTDOWN_EX": 0x086,
    "SNP_CONFIG": 0x0C9,
    "SNP_DOWNLOAD_FIRMWARE_EX": 0x0CA,
    "SNP_COMMIT": 0x0CB,
    "SNP_VLEK_LOAD": 0x0CD,
    "SNP_FEATURE_INFO": 0x0CE,
    "SNP_DECOMMISSION": 0x090,
    "SNP_ACTIVATE": 0x091,
    "SNP_GUEST_STATUS": 0x092,
    "SNP_GCTX_CREATE": 0x093,
    "SNP_GUEST_REQUEST": 0x094,
    "SNP_ACTIVATE_EX": 0x095,
    "SNP_LAUNCH_START": 0x0A0,
    "SNP_LAUNCH_UPDATE": 0x0A1,
    "SNP_LAUNCH_FINISH": 0x0A2,
    "SNP_DBG_DECRYPT": 0x0B0,
    "SNP_DBG_ENCRYPT": 0x0B1,
    "SNP_PAGE_SWAP_OUT": 0x0C0,
    "SNP_PAGE_SWAP_IN": 0x0C1,
    "SNP_PAGE_MOVE": 0x0C2,
    "SNP_PAGE_MD_INIT": 0x0C3,
    "SNP_PAGE_SET_STATE": 0x0C6,
    "SNP_PAGE_RECLAIM": 0x0C7,
    "SNP_PAGE_UNSMASH": 0x0C8,
}
# Buffers: format and the names of its fields, reserved bytes left out.
LAYOUTS: dict[str, tuple[str, str]] = {
    "INIT": ("<H6xQI", "flags tmr tmr_len"),
    "INIT_EX": ("<IH2xQI4xQI", "length flags tmr tmr_len nv nv_len"),
    "PLATFORM_STATUS": ("<BBBBHxBI", "major minor state owner config build guests"),
    "AREA": ("<QI", "pa len"),
    "PEK_CERT_IMPORT": ("<QI4xQI", "pek pek_len oca oca_len"),
    "EXPORT": ("<QI4xQI", "pdh len chain chain_len"),
    "HANDLE": ("<I", "handle"),
    "ACTIVATE": ("<II", "handle asid"),
    "GUEST_STATUS": ("<IIIB", "handle policy asid state"),
    "COPY": ("<IIQQ", "handle len src dst"),
    "LAUNCH_START": ("<IIQI4xQI", "handle policy dh dh_len session session_len"),
    "HANDLE_AREA": ("<I4xQI", "handle pa len"),
    "TRANSPORT": ("<I4xQI4xQI4xQI", "handle hdr hdr_len guest guest_len trans trans_len"),
    "ATTESTATION": ("<I4xQ16sI", "handle pa nonce len"),
    "SEND_START": (
        "<IIQI4xQI4xQI4xQI",
        "handle policy pdh pdh_len plat plat_len amd amd_len session session_len",
    ),
    "DEBUG": ("<I4xQQI", "handle src dst len"),
    "SWAP": ("<IIQQQQ", "handle flags src dst mdata sw_data"),
    "SNP_INIT_EX": ("<I4xQH46x", "flags list max_asid"),
    "SNP_STATUS": ("<Q", "status"),
    "SNP_SHUTDOWN_EX": ("<II", "length flags"),
    "SNP_CONFIG": ("<QI52x", "tcb masks"),
    "LENGTH": ("<I", "length"),
    "SNP_DOWNLOAD": ("<I4xQII", "length pa len commit"),
    "SNP_VLEK": ("<IB3xQ", "length version pa"),
    "SNP_FEATURE_INFO": ("<IIQ", "length ecx pa"),
    "GCTX": ("<Q", "gctx"),
    "SNP_ACTIVATE": ("<QI", "gctx asid"),
    "SNP_GUEST_STATUS": ("<QQ", "gctx status"),
    "SNP_GUEST_REQUEST": ("<QQQ", "gctx req resp"),
    "SNP_ACTIVATE_EX": ("<I4xQIIQ", "length gctx asid numids ids"),
    "SNP_LAUNCH_START": ("<QQQII16s", "gctx policy ma flags tsc gosvw"),
    "SNP_LAUNCH_UPDATE": ("<QI4xQBBBB4x", "gctx flags pa r vmpl1 vmpl2 vmpl3"),
    "SNP_LAUNCH_FINISH": ("<QQQQ32s", "gctx id_block id_auth flags host_data"),
    "SNP_DEBUG": ("<QQQ", "gctx src dst"),
    "SNP_SWAP": ("<QQQQQQ", "gctx src dst mdata sw_data flags"),
    "SNP_MOVE": ("<QI4xQQ", "gctx size src dst"),
    "SNP_PAGE": ("<QQ", "gctx pa"),
    "SNP_LIST": ("<I4xQ", "length list"),
    "SNP_ADDRESS": ("<Q", "pa"),
}
LAYOUT_OF = {
    **dict.fromkeys(("PEK_CSR", "DOWNLOAD_FIRMWARE", "GET_ID"), "AREA"),
    "PDH_CERT_EXPORT": "EXPORT",
    **dict.fromkeys(
        ("DECOMMISSION", "DEACTIVATE", "LAUNCH_FINISH", "SEND_FINISH", "SEND_CANCEL", "RECEIVE_FINISH"),
        "HANDLE",
    ),
    **dict.fromkeys(("LAUNCH_UPDATE_DATA", "LAUNCH_UPDATE_VMSA", "LAUNCH_MEASURE"), "HANDLE_AREA"),
    **dict.fromkeys(
        (
            "LAUNCH_SECRET",
            "SEND_UPDATE_DATA",
            "SEND_UPDATE_VMSA",
            "RECEIVE_UPDATE_DATA",
            "RECEIVE_UPDATE_VMSA",
        ),
        "TRANSPORT",
    ),
    "RECEIVE_START": "LAUNCH_START",
    "DBG_DECRYPT": "DEBUG",
    "DBG_ENCRYPT": "DEBUG",
    "SWAP_OUT": "SWAP",
    "SWAP_IN": "SWAP",
    "SNP_PLATFORM_STATUS": "SNP_STATUS",
    "SNP_COMMIT": "LENGTH",
    "SNP_DOWNLOAD_FIRMWARE_EX": "SNP_DOWNLOAD",
    "SNP_VLEK_LOAD": "SNP_VLEK",
    "SNP_DECOMMISSION": "GCTX",
    "SNP_GCTX_CREATE": "GCTX",
    "SNP_DBG_DECRYPT": "SNP_DEBUG",
    "SNP_DBG_ENCRYPT": "SNP_DEBUG",
    "SNP_PAGE_SWAP_OUT": "SNP_SWAP",
    "SNP_PAGE_SWAP_IN": "SNP_SWAP",
    "SNP_PAGE_MOVE": "SNP_MOVE",
    "SNP_PAGE_MD_INIT": "SNP_PAGE",
    "SNP_PAGE_SET_STATE": "SNP_LIST",
    "SNP_PAGE_RECLAIM": "SNP_ADDRESS",
    "SNP_PAGE_UNSMASH": "SNP_ADDRESS",
}
BYTES = ("nonce", "gosvw", "host_data")


def buffer(name: str, **fields: Any) -> bytes:
    """A command's buffer; fields that are not given are zero."""
    layout = LAYOUTS.get(LAYOUT_OF.get(name, name))
    if layout is None:
        return b""
    form, names = layout
    wrong = set(fields) - set(names.split())
    assert not wrong, f"{name} has no {wrong}"
    return struct.pack(form, *(fields.get(one, b"" if one in BYTES else 0) for one in names.split()))


def fields_of(name: str, raw: bytes) -> dict[str, Any]:
    """The fields of a buffer that came back."""
    form, names = LAYOUTS[LAYOUT_OF.get(name, name)]
    return dict(zip(names.split(), struct.unpack(form, raw), strict=True))


class Sev:
    """A host at the keyboard. `cmd` leaves the buffer at `self.buffer`."""

    def __init__(self, keyboard: Keyboard, host: int = 0) -> None:
        self.keyboard = keyboard
        self.host = host
        self.buffer = SCRATCH
        info = self.ok("info")
        self.cpus = info["cpus"]
        self.te = info["te"]
        self.memory = info["memory"]

    # -- the ops ----------------------------------------------------------------------------------------

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return self.keyboard.ask(op, host=self.host, **_typed(fields))

    def ok(self, op: str, **fields: Any) -> dict[str, Any]:
        return self.keyboard.ok(op, host=self.host, **_typed(fields))

    def fault(self, op: str, **fields: Any) -> dict[str, Any]:
        return self.keyboard.fault(op, host=self.host, **_typed(fields))

    def error(self, op: str, **fields: Any) -> dict[str, Any]:
        return self.keyboard.error(op, host=self.host, **_typed(fields))

    def alloc(self, length: int = PAGE, align: int = PAGE, **more: int) -> int:
        return number(self.ok("alloc", len=length, align=align, **more)["addr"])

    def pages(self, count: int) -> list[int]:
        first = self.alloc(count * PAGE)
        return [first + n * PAGE for n in range(count)]

    def write(self, address: int, data: bytes) -> None:
        self.ok("write", addr=address, hex=data.hex())

    def read(self, address: int, length: int) -> bytes:
        return bytes.fromhex(self.ok("read", addr=address, len=length)["hex"])

    def insn(self, name: str, cpu: int = 0, **registers: int) -> dict[str, Any]:
        return self.ok("insn", name=name, cpu=cpu, **registers)

    def wrmsr(self, msr: int, value: int, cpu: int = 0) -> None:
        self.insn("wrmsr", cpu, ecx=msr, rax=value & 0xFFFFFFFF, rdx=value >> 32)

    def rdmsr(self, msr: int, cpu: int = 0) -> int:
        answer = self.insn("rdmsr", cpu, ecx=msr)
        return number(answer["rax"]) | number(answer["rdx"]) << 32

    # -- the mailbox ------------------------------------------------------------------------------------

    def submit(self, name: str, address: int, **more: Any) -> int:
        """Ring the mailbox with a buffer that is there: the status."""
        code = IDS[name]
        answer = self.ok("call", cmdresp=code << 16, lo=address & 0xFFFFFFFF, hi=address >> 32, **more)
        response = number(answer["cmdresp"])
        assert response & ~0xFFFF == 1 << 31 | code << 16, f"{response:#x}"
        return response & 0xFFFF

    def cmd(self, name: str, **fields: Any) -> int:
        raw = buffer(name, **fields)
        if raw:
            self.write(self.buffer, raw)
        return self.submit(name, self.buffer if raw else 0)

    def did(self, name: str, **fields: Any) -> None:
        """A command that has to succeed."""
        status = self.cmd(name, **fields)
        assert status == 0, f"{name} {fields} -> {status:#x}"

    def out(self, name: str, field: str, at: int | None = None) -> Any:
        """A field of the buffer as the last command left it."""
        raw = self.read(self.buffer if at is None else at, len(buffer(name)))
        return fields_of(name, raw)[field]

    def guarded(self, name: str, **fields: Any) -> tuple[int, int]:
        """A command that writes its buffer, under SNP: the buffer in a page of the firmware's."""
        page = self.alloc()
        self.write(page, buffer(name, **fields))
        self.firmware(page)
        return self.submit(name, page), page

    # -- bringing up ------------------------------------------------------------------------------------

    def flush(self, command: str = "DF_FLUSH") -> None:
        for cpu in range(self.cpus):
            self.insn("wbinvd", cpu)
        self.did(command)

    def sev_up(self, flags: int = 1) -> None:
        """The legacy platform, ASIDs clean."""
        tmr = self.alloc(MIB, MIB)
        self.did("INIT", flags=flags, tmr=tmr, tmr_len=MIB)
        self.flush()

    def cpus_up(self, base: int = RMP_AT, length: int = RMP_LEN) -> None:
        """SNP_EN on every CPU, the RMP's place programmed."""
        for cpu in range(self.cpus):
            self.wrmsr(RMP_BASE, base, cpu)
            self.wrmsr(RMP_END, base + length - 1, cpu)
            self.wrmsr(SYSCFG, SNP_CPU, cpu)

    def snp_up(self) -> None:
        """SNP, ASIDs clean; the RMP covers all of a small host."""
        assert self.alloc(RMP_LEN, MIB, above=RMP_AT) == RMP_AT
        self.cpus_up()
        self.did("SNP_INIT")
        self.flush("SNP_DF_FLUSH")

    # -- the RMP ----------------------------------------------------------------------------------------

    def rmpupdate(
        self, page: int, gpa: int = 0, assigned: int = 1, size: int = 0, immutable: int = 0, asid: int = 0
    ) -> int:
        self.write(SCRATCH + 0x800, struct.pack("<QBBBxI", gpa, assigned, size, immutable, asid))
        return number(self.insn("rmpupdate", rax=page, rcx=SCRATCH + 0x800)["rax"])

    def firmware(self, *pages: int) -> None:
        for page in pages:
            assert self.rmpupdate(page, immutable=1) == 0

    def shared(self, *pages: int) -> None:
        for page in pages:
            assert self.rmpupdate(page, assigned=0) == 0

    def give(self, page: int, gpa: int, asid: int, size: int = 0, immutable: int = 0) -> None:
        assert self.rmpupdate(page, gpa, 1, size, immutable, asid) == 0

    def take_back(self, page: int) -> None:
        self.did("SNP_PAGE_RECLAIM", pa=page)
        self.shared(page)

    def entry(self, page: int) -> tuple[int, int]:
        """Both words of a page's entry."""
        raw = self.read(RMP_AT + 0x4000 + 16 * (page // PAGE), 16)
        low, high = struct.unpack("<QQ", raw)
        return low, high

    # -- guests -----------------------------------------------------------------------------------------

    def snp_guest(self, asid: int = 1, policy: int = POLICY, start: bool = True) -> int:
        """An SNP guest in LAUNCH with an ASID; its context's address."""
        gctx = self.alloc()
        self.firmware(gctx)
        self.did("SNP_GCTX_CREATE", gctx=gctx)
        if start:
            self.did("SNP_LAUNCH_START", gctx=gctx, policy=policy)
            if asid:
                self.did("SNP_ACTIVATE", gctx=gctx, asid=asid)
        return gctx

    def measure(self, gctx: int, page: int, gpa: int, asid: int = 1, kind: int = 1, **more: int) -> None:
        """Give a page to a guest and measure it."""
        self.give(page, gpa, asid, immutable=1)
        self.did("SNP_LAUNCH_UPDATE", gctx=gctx, flags=kind << 1, pa=page, **more)

    def legacy_guest(self, policy: int = 0, asid: int = 0) -> int:
        self.did("LAUNCH_START", policy=policy)
        handle = self.out("LAUNCH_START", "handle")
        if asid:
            self.did("ACTIVATE", handle=handle, asid=asid)
        return handle

    def launched(self, policy: int = 0, asid: int = 8) -> int:
        """A legacy guest that runs, with nothing in it."""
        handle = self.legacy_guest(policy, asid)
        blob = self.alloc()
        self.did("LAUNCH_MEASURE", handle=handle, pa=blob, len=48)
        self.did("LAUNCH_FINISH", handle=handle)
        return handle


class Tables:
    """Nested page tables in the host's memory."""

    def __init__(self, host: Sev) -> None:
        self.host = host
        self.root = host.alloc()
        self._tables: dict[tuple[int, int], int] = {}

    def map(self, gpa: int, address: int, shift: int = 12, flags: int = 7) -> None:
        table = self.root
        for level in (39, 30, 21, 12):
            at = table + 8 * (gpa >> level & 0x1FF)
            if level == shift:
                large = 0x80 if level > 12 else 0
                self.host.write(at, struct.pack("<Q", address | flags | large))
                return
            key = level, gpa >> level
            if key not in self._tables:
                self._tables[key] = self.host.alloc()
                self.host.write(at, struct.pack("<Q", self._tables[key] | 7))
            table = self._tables[key]


class Vcpu:
    """A VMCB and what is typed for its guest."""

    def __init__(self, host: Sev, tables: Tables, asid: int, mode: int, vmsa: int = 0) -> None:
        self.host = host
        self.vmcb = host.alloc()
        host.write(self.vmcb + 0x58, struct.pack("<I", asid))
        host.write(self.vmcb + 0x90, struct.pack("<Q", mode))
        host.write(self.vmcb + 0xB0, struct.pack("<Q", tables.root))
        host.write(self.vmcb + 0x108, struct.pack("<Q", vmsa))
        if not host.rdmsr(HSAVE):
            for cpu in range(host.cpus):
                host.wrmsr(HSAVE, host.alloc(), cpu)

    def do(self, *steps: dict[str, Any], replace: bool = False) -> dict[str, Any]:
        """Queue steps and enter the guest."""
        self.host.ok("guest", vcpu=self.vmcb, do=[_typed(step) for step in steps], replace=replace)
        return self.enter()

    def enter(self, **more: Any) -> dict[str, Any]:
        return self.host.ok("enter", vcpu=self.vmcb, **more)


class SnpVm:
    """A launched SNP guest: `private` pages of memory from GPA 0 on, one VCPU."""

    def __init__(
        self,
        host: Sev,
        private: int = 4,
        asid: int = 1,
        policy: int = POLICY,
        vmpl: int = 0,
        secrets: bool = False,
    ) -> None:
        self.host = host
        self.asid = asid
        self.gctx = host.snp_guest(asid, policy)
        self.pages = host.pages(private)
        self.tables = Tables(host)
        self.vmsa = host.alloc()
        for n, page in enumerate(self.pages):
            host.measure(self.gctx, page, n * PAGE, asid, kind=5 if secrets and not n else 1)
            self.tables.map(n * PAGE, page)
        host.write(self.vmsa + 0x3B0, struct.pack("<Q", 1))
        host.write(self.vmsa + 0xCA, bytes((vmpl,)))
        host.measure(self.gctx, self.vmsa, 0xFFFFFFFFF000, asid, kind=2)
        host.did("SNP_LAUNCH_FINISH", gctx=self.gctx)
        self.vcpu = Vcpu(host, self.tables, asid, 7, self.vmsa)


def _typed(fields: dict[str, Any]) -> dict[str, Any]:
    """Numbers as a person types them: hexadecimal strings, but for those that are counts."""
    counts = ("host", "cpu", "len", "pages", "vcpus", "runs", "secrets", "vm", "cpl", "byte", "call")
    return {
        name: hex(value)
        if isinstance(value, int) and not isinstance(value, bool) and name not in counts
        else value
        for name, value in fields.items()
    }


Sevs = Callable[..., Sev]
DEPTHS = (0, 1, 2)
SLOW_AT_DEPTH_2 = pytest.mark.parametrize(
    "sev_depth",
    [
        pytest.param(depth, marks=[pytest.mark.slow] if depth == 2 else [], id=f"depth{depth}")
        for depth in DEPTHS
    ],
)


@pytest.fixture(params=DEPTHS, ids=[f"depth{depth}" for depth in DEPTHS])
def sev_depth(request: pytest.FixtureRequest) -> int:
    """How many hypervisors lie below the AMD host at the keyboard."""
    chosen: int = request.param
    return chosen


@pytest.fixture
def sev(secure_host: MakeHost, sev_depth: int) -> Sevs:
    """Make AMD hosts with options of the console; after the test no console may have leaked anything."""

    def make(host: int = 0, **options: Any) -> Sev:
        return Sev(Keyboard(secure_host("sev", sev_depth, **options).keyboard, sev_depth), host)

    return make


@pytest.fixture
def legacy(sev: Sevs) -> Sev:
    """A host whose legacy platform is up, ES included."""
    host = sev()
    host.sev_up()
    return host


@pytest.fixture
def snp(sev: Sevs) -> Sev:
    """A host whose SNP platform is up."""
    host = sev()
    host.snp_up()
    return host
