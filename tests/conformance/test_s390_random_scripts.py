"""Hosts that type anything: seeded scripts of right and wrong requests, the same answers at every depth.

A script decides by its seed and by the answers that it got. Nothing is asserted on the way but the form of an
answer; what is held at the end: every answer equal, no leak, nothing left after the host is killed.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from differences import without_differences
from driver import Json, Keyboard, in_process
from s390_blocks import CALLS, HOST_CALLS, MIB, PAGE, uvcb
from s390_field import AddressSpace, Host
from s390_guest import IMAGE_AT, WORK, Image, SecureGuest, boot_guest, call_steps

GADDRS = [0, PAGE, WORK, IMAGE_AT, IMAGE_AT + PAGE, 0x20000, 0x21000, MIB + 0x3000, 2 * MIB, 0x20800]
ACTIONS_PER_SCRIPT = 100
ALLOW_DUMP = 1 << (63 - 34)


class Typist:
    """A host without a plan."""

    def __init__(self, host: Host, seed: int) -> None:
        self.host = host
        self.random = random.Random(seed)
        self.guests: list[SecureGuest] = []
        self.handles = [0, 1, 0xFFFF]
        arena = host.alloc(64 * PAGE)
        self.pages = [arena + place * PAGE for place in (0, 1, 8, 40)]
        self.actions: list[Callable[[], object]] = [
            *[self.boot] * 3,
            self.create,
            self.break_a_creation,
            *[self.page_call] * 5,
            *[self.gaddr_call] * 5,
            *[self.handle_call] * 2,
            self.lifecycle,
            *[self.change_a_table] * 3,
            *[self.run] * 12,
            *[self.share_and_pin] * 2,
            *[self.look] * 4,
            self.scribble,
            self.corrupt_the_block,
            self.junk,
            *[self.dump] * 2,
        ]

    def some_guest(self) -> SecureGuest | None:
        return self.random.choice(self.guests) if self.guests else None

    def some_page(self) -> int:
        """An address that means something: of the host, of a guest, donated, none at all."""
        choices = [*self.pages, 2200 * MIB, self.pages[0] + 8]
        for guest in self.guests:
            choices += [guest.plan["base"], guest.plan["variable"], guest.cpus[0].storage]
            choices += [guest.space.target(gaddr) for gaddr in GADDRS if guest.space.maps(gaddr)]
        return self.random.choice(choices)

    def type(self, actions: int) -> None:
        """Type for a while; the Ultravisor is initialised sooner or later."""
        for number in range(actions):
            if number == 1:
                self.host.init()
                self.boot()
            elif number > 1:
                self.random.choice(self.actions)()

    # -- actions ------------------------------------------------------------------------------------

    def boot(self) -> None:
        if len(self.guests) < 3:
            guest = SecureGuest.create(self.host, cpus=self.random.randint(1, 2))
            allowed = hex(ALLOW_DUMP) if self.random.random() < 0.7 else "0x0"
            guest.load(Image.build(self.host, pcf=allowed)).start()
            self.guests.append(guest)
            self.handles += [guest.handle, *(cpu.handle for cpu in guest.cpus)]

    def create(self) -> None:
        if len(self.guests) < 3:
            self.guests.append(SecureGuest.create(self.host, cpus=self.random.randint(1, 3)))
            self.handles.append(self.guests[-1].handle)
            if self.random.random() < 0.5:
                image = Image.build(self.host)
                self.guests[-1].set_params(image.header)
                self.guests[-1].back(IMAGE_AT, image.pages[0][2])
                self.guests[-1].unpack(IMAGE_AT, image.pages[0][1])

    def break_a_creation(self) -> None:
        plan = self.host.plan_config()
        taken = [address for guest in self.guests for address in (guest.plan["base"], guest.plan["variable"])]
        wrong = self.random.choice([*self.pages, *taken, 2200 * MIB])
        plan[self.random.choice(["base", "variable", "sca"])] = wrong
        reply = self.host.call("create_config", **plan)
        if reply.cc == 0 or reply.rc & 0x8000:
            self.host.call("destroy_config", handle=reply.handle)

    def page_call(self) -> None:
        name = self.random.choice(["convert_from", "destroy_storage", "pin", "convert_from"])
        self.host.call(name, paddr=self.some_page())

    def gaddr_call(self) -> None:
        guest = self.some_guest()
        handle = guest.handle if guest else self.random.choice(self.handles)
        name = self.random.choice(["convert_to", "convert_to", "unpin", "unpack"])
        self.host.call(name, handle=handle, gaddr=self.random.choice(GADDRS))

    def handle_call(self) -> None:
        call = self.random.choice([call for call in HOST_CALLS if call.handle])
        if call.name not in ("destroy_config", "destroy_cpu"):
            block = bytearray(uvcb(call.name))
            handle = self.random.choice(self.handles)
            block[call.handle_at : call.handle_at + 8] = handle.to_bytes(8, "big")
            self.host.uvc(bytes(block))

    def lifecycle(self) -> None:
        """Stop a guest, reset it more or less, or end it."""
        guest = self.some_guest()
        if guest is None:
            return
        if self.random.random() < 0.3:
            for cpu in guest.cpus:
                self.host.call("destroy_cpu", handle=cpu.handle)
            self.host.call(self.random.choice(["destroy_config", "destroy_config_fast"]), handle=guest.handle)
            self.guests.remove(guest)
            return
        steps = ["stop", "unshare_all", "prepare_reset", "cpu_reset_clear", "cpu_reset_initial", "load"]
        for step in steps[: self.random.randint(1, len(steps))]:
            if step in ("stop", "load"):
                for number in range(len(guest.cpus)):
                    guest.set_state(2 if step == "stop" else 5, number)
            elif step.startswith("cpu"):
                for cpu in guest.cpus:
                    self.host.call(step, handle=cpu.handle)
            else:
                self.host.call(step, handle=guest.handle)

    def change_a_table(self) -> None:
        guest = self.some_guest()
        if guest is None:
            return
        gaddr = self.random.choice(GADDRS) & ~(PAGE - 1)
        kind = self.random.random()
        if kind < 0.3 and guest.space.maps(gaddr):
            guest.space.unmap(gaddr)
        elif kind < 0.6:
            target = self.some_page() & ~(PAGE - 1)
            guest.space.map(gaddr, target, protect=self.random.random() < 0.2)
        else:
            guest.back(gaddr)

    def run(self) -> None:
        guest = self.some_guest()
        if guest is None:
            return
        sie = self.random.choice(guest.cpus).sie
        gaddr = self.random.choice(GADDRS)
        steps: list[list[Json]] = [
            [{"touch": hex(gaddr), "write": True, "value": f"{self.random.getrandbits(64):016x}"}],
            [{"touch": hex(gaddr), "write": False}],
            [{"read": hex(gaddr), "len": 16}],
            call_steps(uvcb(self.random.choice(["share", "unshare"]), paddr=gaddr)),
            call_steps(uvcb("share", paddr=gaddr)),
            call_steps(self.guest_call(gaddr)),
            [{"exit": "diag", "code": "0x500"}],
            [{"exit": "diag", "code": "0x308", "r1": 0, "r3": 2}] if self.random.random() < 0.2 else [],
            [{"exit": "spx", "prefix": self.random.choice(["0x0", "0x20000"])}],
            [{"cpu": {"gprs": {"2": hex(self.random.getrandbits(64))}}}],
        ]
        do = [step for some in self.random.sample(steps, 2) for step in some]
        replace = self.random.random() < 0.4
        self.host.ask("guest", vcpu=hex(sie), do=do, replace=replace)
        if self.random.random() < 0.9:
            self.host.control(cr1=guest.space.asce)
        for _ in range(self.random.randint(1, 5)):
            answer = self.host.ask("enter", vcpu=hex(sie))
            if self.random.random() < 0.8:
                self.serve(guest, answer)
        self.host.read(sie, 0x400)

    def guest_call(self, gaddr: int) -> bytes:
        """A call that no hypervisor sees, on pages that its host may have taken."""
        other = self.random.choice(GADDRS)
        return self.random.choice(
            [
                uvcb("attest", request=gaddr, meas_len=64, meas=other, add_len=32, add=other),
                uvcb("add_secret", request=gaddr),
                uvcb("list_secrets", list=gaddr),
                uvcb("lock_secrets"),
                uvcb("retrieve_secret", len=64, buffer=gaddr),
            ]
        )

    def dump(self) -> None:
        """Calls of a dump, mostly in a sensible order, into any page."""
        guest = self.some_guest()
        if guest is None:
            return
        host, at = self.host, self.some_page()
        cpu = self.random.choice(guest.cpus).handle
        gaddr = self.random.choice([0, MIB, MIB, 2 * MIB, PAGE])
        for name, fields in (
            ("dump_init", {"handle": guest.handle}),
            ("dump_cpu", {"handle": cpu, "area": at}),
            ("dump_storage_state", {"handle": guest.handle, "area": at, "gaddr": gaddr}),
            ("dump_complete", {"handle": guest.handle, "area": at}),
        ):
            if self.random.random() < 0.8:
                host.call(name, **fields)
                host.ask("read", addr=hex(at), len=PAGE)

    def serve(self, guest: SecureGuest, answer: Json) -> None:
        """Do about an exit what a hypervisor would do."""
        if "fault" in answer:
            gaddr = int(answer["fault"]["address"], 16)
            if answer["fault"]["code"] == "0x3e":
                guest.convert_to(gaddr & ~(PAGE - 1))
            elif gaddr < 4 * MIB:
                guest.back(gaddr & ~(PAGE - 1))
        elif answer["ok"]["icptcode"] == "0x70":
            for gaddr in (0, PAGE, 0x20000, 0x21000):
                guest.back(gaddr)
                guest.convert_to(gaddr)

    def share_and_pin(self) -> None:
        """A page is imported, shared and pinned; then the guest wants it back, or the host unpins it."""
        guest = self.some_guest()
        if guest is None:
            return
        gaddr = self.random.choice([0x20000, 0x21000, MIB + 0x3000])
        page = guest.back(gaddr)
        guest.convert_to(gaddr)
        self.host.control(cr1=guest.space.asce)
        do = call_steps(uvcb("share", paddr=gaddr))
        self.host.ask("guest", vcpu=hex(guest.sie), do=do, replace=True)
        self.host.ask("enter", vcpu=hex(guest.sie))
        self.host.call("pin", paddr=page)
        if self.random.random() < 0.5:
            do = call_steps(uvcb("unshare", paddr=gaddr))
            self.host.ask("guest", vcpu=hex(guest.sie), do=do)
            self.host.ask("enter", vcpu=hex(guest.sie))
            self.host.read(guest.sida, 0x30)
        if self.random.random() < 0.5:
            guest.unpin(gaddr)

    def look(self) -> None:
        """Load from any page: plain, ciphertext, or 0x3D."""
        self.host.ask("read", addr=hex(self.some_page()), len=32)

    def scribble(self) -> None:
        self.host.ask("fill", addr=hex(self.some_page()), len=16, byte=self.random.randrange(256))

    def corrupt_the_block(self) -> None:
        """Change a handle, the injection or the timer in an SIE block, enter, and put it right again."""
        guest = self.some_guest()
        if guest is None:
            return
        field, width = self.random.choice([(0x10, 8), (0x18, 8), (0x28, 8), (0x55, 1)])
        sie = guest.cpus[0].sie
        right = self.host.get(sie + field, width)
        self.host.put(sie + field, right ^ 1 << self.random.randrange(8 * width), width)
        self.host.ask("enter", vcpu=hex(sie))
        self.host.put(sie + field, right, width)

    def junk(self) -> None:
        """A block of random bytes with a header that may be right."""
        call = self.random.choice(list(CALLS.values()))
        if call.name in ("init", "create_config", "create_cpu"):
            return
        body = bytearray(uvcb(call.name))
        body[0x10:] = self.random.randbytes(len(body) - 0x10)
        self.host.uvc(bytes(body))


def script(seed: int, depth: int) -> list[tuple[Json, Json]]:
    """Type the script of `seed` at `depth`, hold its end to be clean, and return what was said."""
    keyboard = Keyboard(in_process("s390", depth, seed=seed), depth)
    host = Host(keyboard)
    Typist(host, seed).type(ACTIONS_PER_SCRIPT)
    host.ok("counts")
    audit = host.audit()
    assert audit["leaks"] == []
    host.ok("kill")
    host.forget()
    books = host.books()
    assert not any(books["te"].values()), books
    assert (books["donated_pages"], books["secure_pages"]) == (0, 0)
    host.init()
    AddressSpace(host)
    boot_guest(host)
    return keyboard.transcript


def same(seed: int) -> None:
    real = script(seed, 0)
    for depth in (1, 2):
        for number, ((request, want), (asked, got)) in enumerate(zip(real, script(seed, depth), strict=True)):
            assert asked == request, f"seed {seed}, request {number}"
            assert without_differences(asked, got) == without_differences(request, want), (
                f"seed {seed}, request {number} at depth {depth}: {request}"
            )


@pytest.mark.parametrize("seed", range(4))
def test_a_random_script_gets_the_same_answers_at_every_depth(seed: int) -> None:
    same(seed)


@pytest.mark.slow
@pytest.mark.parametrize("tens", range(20))
def test_many_random_scripts_get_the_same_answers_at_every_depth(tens: int) -> None:
    for seed in range(10 * tens + 4, 10 * tens + 14):
        same(seed)
