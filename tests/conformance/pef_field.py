"""A POWER host at the keyboard, in the words of the field: VMs, SVMs, ultracalls by hand, reflections.

A `PefHost` keeps no state of the ultravisor: whatever a test asserts was read back through the console.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from driver import Json, Keyboard, number

from nestbed.testing import MakeHost

DEPTHS = (0, 1, 2)
PAGE = 0x10000
MIB = 1 << 20
S_BIT = 0x400000
SF = 1 << 63
SECURE_MEMORY = 1 << 48

UCALLS = {
    "WRITE_PATE": 0xF104,
    "RESTRICTED_SPR_WRITE": 0xF108,
    "RESTRICTED_SPR_READ": 0xF10C,
    "ESM": 0xF110,
    "READ_SCOM": 0xF114,
    "WRITE_SCOM": 0xF118,
    "RETURN": 0xF11C,
    "REGISTER_MEM_SLOT": 0xF120,
    "UNREGISTER_MEM_SLOT": 0xF124,
    "PAGE_IN": 0xF128,
    "PAGE_OUT": 0xF12C,
    "SHARE_PAGE": 0xF130,
    "UNSHARE_PAGE": 0xF134,
    "PAGE_INVAL": 0xF138,
    "SVM_TERMINATE": 0xF13C,
    "UNSHARE_ALL_PAGES": 0xF140,
    "READ_MEM": 0xF144,
    "WRITE_MEM": 0xF148,
    "ESMB_GET_FILE": 0xF14C,
    "SEND_SBE_COMMAND": 0xF150,
}
FOR_HOST = (
    *("WRITE_PATE", "RETURN", "RESTRICTED_SPR_WRITE", "RESTRICTED_SPR_READ", "READ_SCOM", "WRITE_SCOM"),
    *("REGISTER_MEM_SLOT", "UNREGISTER_MEM_SLOT", "PAGE_IN", "PAGE_OUT", "PAGE_INVAL", "SVM_TERMINATE"),
    *("READ_MEM", "WRITE_MEM", "SEND_SBE_COMMAND"),
)
FOR_SVM = ("SHARE_PAGE", "UNSHARE_PAGE", "UNSHARE_ALL_PAGES")
HCALLS = {
    "H_SVM_PAGE_IN": 0xEF00,
    "H_SVM_PAGE_OUT": 0xEF04,
    "H_SVM_INIT_START": 0xEF08,
    "H_SVM_INIT_DONE": 0xEF0C,
    "H_SVM_TPM_COMM": 0xEF10,
    "H_SVM_INIT_ABORT": 0xEF14,
}
SUCCESS, FUNCTION, PARAMETER, RETRY, AUTHORITY, PERMISSION = 0, -2, -4, -5, -10, -11
P2, P3, P4, P5, BAD_MODE, UNSUPPORTED, STATE = -55, -56, -57, -58, -59, -67, -75


def code(register: Any) -> int:
    """The signed code in a register of an answer."""
    value = number(register)
    return value - (1 << 64) if value >> 63 else value


class PefHost:
    def __init__(self, keyboard: Keyboard) -> None:
        self.keyboard = keyboard
        self.depth = keyboard.depth
        self.which = 0

    def sibling(self, which: int) -> PefHost:
        """Another host on the same console."""
        other = PefHost(self.keyboard)
        other.which = which
        return other

    def _of(self, fields: Json) -> Json:
        return {"host": self.which} | fields if self.which else fields

    def ok(self, op: str, **fields: Any) -> Json:
        return self.keyboard.ok(op, **self._of(fields))

    def fault(self, op: str, **fields: Any) -> Json:
        return self.keyboard.fault(op, **self._of(fields))

    def error(self, op: str, wanted: str, **fields: Any) -> Json:
        body = self.keyboard.error(op, **self._of(fields))
        assert body["code"] == wanted, body
        return body

    # -- ultracalls ----------------------------------------------------------------------------------------

    def call(self, name: str, *arguments: int, cpu: int = 0) -> Json:
        """`sc 2` by hand: the whole answer."""
        registers = {f"r{4 + place}": hex(value) for place, value in enumerate(arguments)}
        return self.ok("call", r3=hex(UCALLS[name]), cpu=cpu, **registers)

    def ucall(self, name: str, *arguments: int, cpu: int = 0) -> int:
        """The same: the code that it answers."""
        return code(self.call(name, *arguments, cpu=cpu)["r3"])

    def back(self, status: int = 0, cpu: int = 0, **registers: int) -> Json:
        """UV_RETURN by hand."""
        named = {name: hex(value & (SF * 2 - 1)) for name, value in registers.items()}
        return self.ok("call", r3="0xf11c", r0=hex(status & (SF * 2 - 1)), cpu=cpu, **named)

    # -- memory --------------------------------------------------------------------------------------------

    def alloc(self, length: int = PAGE) -> int:
        return number(self.ok("alloc", len=length)["addr"])

    def read(self, address: int, length: int, space: str = "phys") -> bytes:
        return bytes.fromhex(self.ok("read", addr=hex(address), len=length, space=space)["hex"])

    def write(self, address: int, data: bytes, space: str = "phys") -> None:
        assert self.ok("write", addr=hex(address), hex=data.hex(), space=space) == {}

    def buffer(self, data: bytes = b"") -> int:
        address = self.alloc()
        if data:
            self.write(address, data)
        return address

    # -- VMs -----------------------------------------------------------------------------------------------

    def kvm(self, name: str, **fields: Any) -> int:
        ret: int = self.ok("kvm", name=name, **fields)["ret"]
        return ret

    def vm(self, lpid: int = 3, size: int = 32 * MIB, opt_in: bool = True, **fields: Any) -> Vm:
        """A VM with one slot at 0 and one vcpu."""
        assert self.kvm("KVM_CREATE_VM", vm=lpid, **fields) == 0
        made = Vm(self, lpid)
        assert made.slot(0, 0, size) == 0
        assert made.sys("KVM_CREATE_VCPU", vcpu=0) == 0
        if opt_in:
            assert made.sys("KVM_ENABLE_CAP", cap="KVM_CAP_PPC_SECURE_GUEST") == 0
        return made

    def loaded(self, lpid: int = 3, size: int = 32 * MIB, at: int = MIB, **fields: Any) -> Vm:
        """The same with everything that a boot needs."""
        made = self.vm(lpid, size, **fields)
        made.load(at)
        return made

    def svm(self, lpid: int = 3, size: int = 32 * MIB) -> Vm:
        """A VM that has become secure."""
        made = self.loaded(lpid, size)
        left = made.esm()
        assert left["secure"] and len(left["steps"]) == 1, left
        return made

    def counts(self) -> Json:
        return self.ok("counts")

    @property
    def audit(self) -> Json:
        body = self.ok("audit")
        assert body["leaks"] == [], body
        mine: Json = body["hosts"][self.which]
        return mine


class Vm:
    def __init__(self, host: PefHost, lpid: int) -> None:
        self.host = host
        self.lpid = lpid
        self.areas: dict[str, int] = {}

    @property
    def space(self) -> str:
        return f"vm:{self.lpid}"

    def sys(self, name: str, **fields: Any) -> int:
        return self.host.kvm(name, vm=self.lpid, **fields)

    def slot(self, which: int, gpa: int, size: int) -> int:
        return self.sys("KVM_SET_USER_MEMORY_REGION", slot=which, gpa=hex(gpa), size=hex(size))

    def load(self, at: int = MIB, kernel: int = 2 * PAGE, initrd: int = PAGE, cmdline: str = "quiet") -> None:
        body = self.host.ok(
            "load", vm=self.lpid, at=hex(at), kernel=hex(kernel), initrd=hex(initrd), cmdline=cmdline
        )
        self.areas = {name: number(value) for name, value in body.items()}

    def read(self, gpa: int, length: int = 8) -> bytes:
        return self.host.read(gpa, length, self.space)

    def write(self, gpa: int, data: bytes) -> None:
        self.host.write(gpa, data, self.space)

    def queue(self, *steps: Json, vcpu: int = 0, replace: bool = False) -> Json:
        fields = {"replace": True} if replace else {}
        return self.host.ok("guest", vm=self.lpid, vcpu=vcpu, do=list(steps), **fields)

    def enter(self, *steps: Json, vcpu: int = 0, cpu: int = 0, **fields: Any) -> Json:
        """Queue steps and enter."""
        if steps:
            self.queue(*steps, vcpu=vcpu)
        return self.host.ok("enter", vm=self.lpid, vcpu=vcpu, cpu=cpu, **fields)

    def run(self, *steps: Json, vcpu: int = 0, cpu: int = 0) -> list[Json]:
        """Queue steps, enter, and return their results: the time slice ends behind the last one."""
        left = self.enter(*steps, vcpu=vcpu, cpu=cpu)
        assert left["trap"] == "0x980", left
        done: list[Json] = left["steps"]
        return done

    def esm_step(self) -> Json:
        return ucall_step("ESM", self.areas["kernel"], self.areas["fdt"])

    def esm(self, **fields: Any) -> Json:
        return self.enter(self.esm_step(), **fields)

    def gcall(self, name: str, *arguments: int, vcpu: int = 0, **fields: Any) -> int:
        """One ultracall of the guest: the code that it answers."""
        done = self.run(ucall_step(name, *arguments, **fields), vcpu=vcpu)
        return code(done[-1]["r3"])

    def hcall(self, name: str, *arguments: int, srr1: int = S_BIT, vcpu: int = 0) -> tuple[int, str]:
        """A hypercall straight to KVM: its answer, and where KVM would go on."""
        registers = {f"r{4 + place}": hex(value) for place, value in enumerate(arguments)}
        body = self.host.ok(
            "hcall", vm=self.lpid, vcpu=vcpu, r3=hex(HCALLS[name]), srr1=hex(srr1), **registers
        )
        return code(body["r3"]), body["to"]

    def page_in(self, source: int, gpa: int, order: int = 16) -> int:
        return self.host.ucall("PAGE_IN", self.lpid, source, gpa, 0, order)

    def page_out(self, target: int, gpa: int, order: int = 16) -> int:
        return self.host.ucall("PAGE_OUT", self.lpid, target, gpa, 0, order)

    def inval(self, gpa: int, order: int = 16) -> int:
        return self.host.ucall("PAGE_INVAL", self.lpid, gpa, order)


def ucall_step(name: str, *arguments: int, pr: bool = False) -> Json:
    call = {"r3": hex(UCALLS[name])} | {f"r{4 + place}": hex(value) for place, value in enumerate(arguments)}
    return {"call": call, "pr": True} if pr else {"call": call}


def hcall_step(number_of: int, *arguments: int) -> Json:
    return {"hcall": {"r3": hex(number_of)} | {f"r{4 + n}": hex(value) for n, value in enumerate(arguments)}}


def load_step(gpa: int) -> Json:
    return {"touch": hex(gpa)}


def store_step(gpa: int, data: bytes) -> Json:
    return {"touch": hex(gpa), "write": True, "value": data.hex()}


WITH_LPID = frozenset(
    UCALLS[name]
    for name in (
        *("WRITE_PATE", "REGISTER_MEM_SLOT", "UNREGISTER_MEM_SLOT", "PAGE_IN", "PAGE_OUT", "PAGE_INVAL"),
        "SVM_TERMINATE",
    )
)


class GuestIds(Keyboard):
    """A keyboard whose VMs have the numbers that a test gives them, where the level below picks LPIDs.

    Nesting API v2: a VM is made without a number, and what it got stands for the test's number from then on,
    wherever a request or an answer names it. A number of no VM becomes one that was never given.
    """

    UNGIVEN = 3000

    def __init__(self, console: Any, depth: int) -> None:
        super().__init__(console, depth)
        self.ids: dict[tuple[int, int], int] = {}  # host, the test's number -> LPID

    def ask(self, op: str, **fields: Any) -> Json:
        host = fields.get("host", 0)
        wanted = fields.get("vm")
        sent = dict(fields)
        creates = op == "kvm" and fields.get("name") == "KVM_CREATE_VM"
        if creates and (host, wanted) not in self.ids:
            sent.pop("vm", None)
        elif "vm" in fields:
            sent["vm"] = self._id(host, fields["vm"])
        if op == "call" and number(fields["r3"]) in WITH_LPID and "r4" in fields:
            sent["r4"] = self._in_register(host, number(fields["r4"]))
        if op == "cpu" and fields.get("lpidr"):
            sent["lpidr"] = self._id(host, fields["lpidr"])
        if str(fields.get("space", "")).startswith("vm:"):
            sent["space"] = f"vm:{self._id(host, int(fields['space'][3:], 0))}"
        answer = super().ask(op, **sent)
        body = answer.get("ok", {})
        if creates and body.get("ret") == 0:
            self.ids[host, number(body["vm"]) if wanted is None else wanted] = number(body["vm"])
        if op == "kvm" and fields.get("name") == "close" and body.get("ret") == 0:
            self.ids.pop((host, wanted), None)
        if op in ("reset", "kill") and "ok" in answer:
            self.ids = {key: lpid for key, lpid in self.ids.items() if key[0] != host}
        back = {lpid: said for (whose, said), lpid in self.ids.items() if whose == host}
        for name in ("vm", "lpidr"):
            if name in body:
                lpid = number(body[name])
                body[name] = hex(back.get(lpid, lpid - self.UNGIVEN if lpid > self.UNGIVEN else lpid))
        return answer

    def _in_register(self, host: int, said: int) -> str:
        return hex(self._id(host, said))

    def _id(self, host: int, said: Any) -> Any:
        """The LPID of a VM; one that no VM has, where the test speaks of none."""
        if not isinstance(said, int) or not 0 < said < 4096:
            return said
        return self.ids.get((host, said), self.UNGIVEN + said % 1000)


Consoles = Callable[..., PefHost]
V2 = "v2"
# Where a host can tell that the level below picks LPIDs: it is what the tests are about.
PICKED_BELOW = {
    "test_calls_of_the_hypervisor_need_hypervisor_state": "it writes the entry of an LPID that it picked",
    "test_unknown_calls_answer_u_function": "it writes the entry of an LPID that it picked",
    "test_vms_are_named_by_their_lpid": "taken or high LPIDs are refused where they are picked",
    "test_siblings_use_the_same_lpids_and_the_same_quota": "an id is one guest host's alone",
    "test_the_cpu_shows_its_settings": "it sets LPIDR to a number of its own",
    "test_what_a_return_by_hand_into_a_nested_svm_brings_is_no_vms": "KVM picked an LPID",
    "test_a_hypercall_by_hand_into_a_nested_svm_that_ended_stops_the_machine": "KVM picked an LPID",
}


def nested(depth: int, api: str = "v1") -> Any:
    """A depth of the conformance matrix, and the version of the nesting API between the levels."""
    marks = pytest.mark.slow if api == V2 else ()
    return pytest.param((depth, api), id=f"depth{depth}" + ("-v2" if api == V2 else ""), marks=marks)


@pytest.fixture(params=[*(nested(depth) for depth in DEPTHS), nested(1, V2), nested(2, V2)])
def pef(secure_host: MakeHost, request: pytest.FixtureRequest) -> Consoles:
    """Make POWER hosts with options of the console; after the test no console may have leaked anything."""
    depth, api = request.param
    if api == V2 and request.function.__name__ in PICKED_BELOW:
        pytest.skip(PICKED_BELOW[request.function.__name__])

    def make(**options: Any) -> PefHost:
        options.setdefault("profile", "guest-ids" if api == V2 else "small")
        options.setdefault("memory_mib", 128)
        console = secure_host("pef", depth, **options).keyboard
        if options["profile"] == "guest-ids":
            return PefHost(GuestIds(console, depth))
        return PefHost(Keyboard(console, depth))

    return make
