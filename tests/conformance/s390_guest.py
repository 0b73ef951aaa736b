"""A secure guest as its host makes and runs it: section 6 of the fact sheet, row by row."""

from __future__ import annotations

from dataclasses import dataclass, field

from driver import Json, number
from s390_blocks import GUEST_CALLS, LOAD, MIB, OPERATING, PAGE, STOPPED, Reply, uvcb
from s390_field import AddressSpace, Exit, Host, HostFault

IMAGE_AT = 0x10000
WORK = 0x8000  # a page of the guest's own for its control blocks
FREE = 0x20000  # from here on the tests use pages of the guest as they like

SIE_CPU_HANDLE, SIE_CONFIG_HANDLE = 0x10, 0x18
SIE_TIMER, SIE_ICPTCODE, SIE_IICTL, SIE_IPA, SIE_IPB = 0x28, 0x50, 0x55, 0x56, 0x58
SIE_SDF, SIE_MSO, SIE_MSL, SIE_SIDA, SIE_GPRS = 0x68, 0x80, 0x88, 0x180, 0x380

FULL_TIMER = 0x0FFF_FFFF_FFFF_F000


@dataclass(slots=True)
class Image:
    """What the owner gave the host: a header, and pages in load order. The CCK stays with the owner."""

    header: bytes
    pages: list[tuple[int, tuple[int, int], bytes]]  # (gaddr, tweak, encrypted page)
    cck: bytes = b""

    @classmethod
    def build(cls, host: Host, components: list[Json] | None = None, **options: object) -> Image:
        """Ask the owner's workbench for an image."""
        body = host.ok("image", components=components or plain_image(), **options)
        pages = [
            (
                number(page["gaddr"]),
                (number(page["tweak"][0]), number(page["tweak"][1])),
                bytes.fromhex(page["hex"]),
            )
            for page in body["pages"]
        ]
        return cls(bytes.fromhex(body["header"]), pages, bytes.fromhex(body["cck"]))


def text_of(page: int) -> bytes:
    """The plaintext of page number `page` of the image that the tests load."""
    return f"this is page {page} of a secret kernel, ".encode().ljust(64, b".") * 64


def plain_image(pages: int = 2) -> list[Json]:
    """The components of an image of one component and `pages` pages."""
    return [{"gaddr": hex(IMAGE_AT), "hex": b"".join(map(text_of, range(pages))).hex(), "tweak": "0x1"}]


@dataclass(slots=True)
class SecureCpu:
    """One CPU of a guest: its handle, what it donated, and its SIE block."""

    handle: int
    num: int
    storage: int
    sie: int
    sida: int


@dataclass(slots=True)
class SecureGuest:
    """A secure guest and everything that its host keeps for it."""

    host: Host
    space: AddressSpace
    plan: dict[str, int]
    handle: int
    cpus: list[SecureCpu] = field(default_factory=list)

    @classmethod
    def create(cls, host: Host, mib: int = 2, cpus: int = 1, kind: str = "segment") -> SecureGuest:
        """Create the configuration with an empty table, then its CPUs; nothing is mapped or loaded."""
        space = AddressSpace(host, kind)
        plan = host.plan_config(mib, space.asce)
        guest = cls(host, space, plan, host.call("create_config", **plan).done().handle)
        for num in range(cpus):
            guest.add_cpu(num)
        return guest

    def add_cpu(self, num: int) -> SecureCpu:
        """Create a CPU and fill its SIE block, in the order that a hypervisor has to keep."""
        host = self.host
        plan = host.plan_cpu(self.handle, num)
        handle = host.call("create_cpu", **plan).done().handle
        cpu = SecureCpu(handle, num, plan["storage"], plan["state"], host.alloc())
        host.put(cpu.sie + SIE_CPU_HANDLE, handle)
        host.put(cpu.sie + SIE_CONFIG_HANDLE, self.handle)
        host.put(cpu.sie + SIE_SDF, 2, 1)
        host.put(cpu.sie + SIE_MSL, self.plan["len"] - 1)
        host.put(cpu.sie + SIE_SIDA, cpu.sida)
        self.cpus.append(cpu)
        return cpu

    @property
    def sie(self) -> int:
        return self.cpus[0].sie

    @property
    def sida(self) -> int:
        return self.cpus[0].sida

    # -- loading ----------------------------------------

    def set_params(self, header: bytes, length: int | None = None, at: int | None = None) -> Reply:
        """Give the image's header to the Ultravisor; `at` is where it lies if it lies somewhere already."""
        if at is None:
            at = self.host.alloc((len(header) + PAGE - 1) // PAGE * PAGE)
            self.host.write(at, header)
        return self.host.call(
            "set_params", handle=self.handle, header=at, header_len=len(header) if length is None else length
        )

    def back(self, gaddr: int, content: bytes = b"") -> int:
        """Give the guest a page at `gaddr`, or take the one that is there; write `content`."""
        if not self.space.maps(gaddr):
            self.space.map(gaddr & ~(PAGE - 1), self.host.alloc())
        absolute = self.space.target(gaddr & ~(PAGE - 1))
        if content:
            self.host.write(absolute, content)
        return absolute

    def unpack(self, gaddr: int, tweak: tuple[int, int]) -> Reply:
        return self.host.call("unpack", handle=self.handle, gaddr=gaddr, prefix=tweak[0], offset=tweak[1])

    def unpack_all(self, image: Image) -> None:
        for gaddr, tweak, content in image.pages:
            self.back(gaddr, content)
            self.unpack(gaddr, tweak).done()

    def verify(self) -> Reply:
        return self.host.call("verify", handle=self.handle)

    def load(self, image: Image | None = None) -> SecureGuest:
        """Set parameters, unpack every page, verify."""
        image = image or Image.build(self.host)
        self.set_params(image.header).done()
        self.unpack_all(image)
        self.verify().done()
        return self

    def set_state(self, state: int, cpu: int = 0) -> Reply:
        return self.host.call("set_state", handle=self.cpus[cpu].handle, state=state)

    def start(self) -> SecureGuest:
        """Start the IPL CPU and the others, with their prefix pages and one page to work in secure."""
        for gaddr in (0, PAGE, WORK):
            self.back(gaddr)
            self.convert_to(gaddr).done()
        self.set_state(LOAD).done()
        for cpu in range(1, len(self.cpus)):
            self.set_state(OPERATING, cpu).done()
        self.host.control(cr1=self.plan["asce"])
        return self

    # -- pages ----------------------------------------

    def convert_to(self, gaddr: int, cpu: int = 0) -> Reply:
        return self.host.call("convert_to", cpu, handle=self.handle, gaddr=gaddr)

    def unpin(self, gaddr: int) -> Reply:
        return self.host.call("unpin", handle=self.handle, gaddr=gaddr)

    def secure_page(self, gaddr: int, content: bytes = b"") -> int:
        """Back a page and make it secure; let the guest write `content`. Return where the host has it."""
        absolute = self.back(gaddr)
        self.convert_to(gaddr).done()
        if content:
            self.store(gaddr, content)
        return absolute

    # -- running ----------------------------------------

    def program(self, *steps: Json, cpu: int = 0) -> None:
        """Queue what the guest does next."""
        body = self.host.ok("guest", vcpu=hex(self.cpus[cpu].sie), do=list(steps))
        assert body["queued"] >= len(steps), body

    def enter(self, cpu: int = 0) -> Exit:
        """SIE on the host's CPU 0, which has this guest's ASCE in CR1."""
        return self.host.enter(self.cpus[cpu].sie)

    def run(self, *steps: Json, cpu: int = 0) -> Exit:
        """Queue steps and enter."""
        self.program(*steps, cpu=cpu)
        return self.enter(cpu)

    def run_fault(self, *steps: Json, cpu: int = 0) -> HostFault:
        """Queue steps and enter, where that ends in an exception of the host."""
        self.program(*steps, cpu=cpu)
        return self.host.enter_fault(self.cpus[cpu].sie)

    def fetch(self, gaddr: int, length: int = PAGE) -> bytes:
        """What the guest itself reads at `gaddr`."""
        left = self.run({"read": hex(gaddr), "len": length})
        assert left.code == 0x1C, left
        return bytes.fromhex(left.steps[-1]["hex"])

    def store(self, gaddr: int, content: bytes) -> None:
        """Let the guest write `content`."""
        left = self.run({"touch": hex(gaddr), "write": True, "value": content.hex()})
        assert left.code == 0x1C and left.steps == [{}], left

    def uvc(self, block: bytes, **registers: int) -> Reply:
        """Let the guest issue UVC; it must not need the host for it."""
        left = self.run(*call_steps(block, **registers))
        assert left.code == 0x1C, left
        assert left.steps[0] == {} and set(left.steps[1]) == {"cc"}, left
        return Reply(left.steps[1]["cc"], bytes.fromhex(left.steps[2]["hex"]))

    def share(self, gaddr: int) -> Reply:
        return self.uvc(uvcb("share", paddr=gaddr))

    def unshare(self, gaddr: int) -> Reply:
        return self.uvc(uvcb("unshare", paddr=gaddr))

    # -- the end ----------------------------------------

    def stop_all(self) -> None:
        for cpu in range(len(self.cpus)):
            self.set_state(STOPPED, cpu).done()

    def destroy(self) -> None:
        """Destroy every CPU, then the configuration, then what is left of its pages."""
        for cpu in self.cpus:
            self.host.call("destroy_cpu", handle=cpu.handle).done()
        self.host.call("destroy_config", handle=self.handle).done()

    def donated(self) -> list[int]:
        """Every page that the host gave away for this guest."""
        cpu_len = self.host.query().field(0x68)
        storage = [cpu.storage + offset for cpu in self.cpus for offset in range(0, cpu_len, PAGE)]
        return self.host.donated_by(self.plan) + storage


def call_steps(block: bytes, **registers: int) -> list[Json]:
    """The guest writes a control block into its work page, issues UVC and looks at the answer."""
    return [
        {"touch": hex(WORK), "write": True, "value": block.hex()},
        {"call": {"r2": hex(WORK), **registers}},
        {"read": hex(WORK), "len": len(block)},
    ]


def boot_guest(host: Host, mib: int = 2, cpus: int = 1, pages: int = 2, kind: str = "segment") -> SecureGuest:
    """A started secure guest with an image of `pages` pages, on a host whose Ultravisor is initialised."""
    guest = SecureGuest.create(host, mib, cpus, kind)
    guest.load(Image.build(host, plain_image(pages)))
    return guest.start()


__all__ = [
    "FREE",
    "FULL_TIMER",
    "GUEST_CALLS",
    "IMAGE_AT",
    "MIB",
    "WORK",
    "Image",
    "SecureCpu",
    "SecureGuest",
    "boot_guest",
    "call_steps",
    "plain_image",
    "text_of",
]
