"""A host that types anything: right and wrong, early and late, one guest after another.

It decides by its seed and by the answers that it got, and asserts nothing but the form of an answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from driver import Json
from s390_blocks import CALLS, HOST_CALLS, MIB, PAGE, uvcb
from s390_field import Host
from s390_guest import IMAGE_AT, WORK, Image, SecureGuest, call_steps

GADDRS = [0, PAGE, WORK, IMAGE_AT, IMAGE_AT + PAGE, 0x20000, 0x21000, MIB + 0x3000, 2 * MIB, 0x20800]
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
            *[self.stay] * 2,
            self.stay_in_a_dump,
            *[self.park] * 2,
            self.run_normal,
            self.inject,
            self.move_a_cpu,
            self.give_and_take,
            self.end_everything,
        ]

    def think_of_dumps(self) -> None:
        """Type little else than what a guest with a CPU inside meets while it is dumped."""
        self.actions = [
            self.boot,
            *[self.stay_in_a_dump] * 6,
            *[self.change_a_table] * 2,
            *[self.gaddr_call] * 2,
            self.page_call,
            *[self.run] * 3,
            self.share_and_pin,
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

    def stay(self) -> None:
        """A CPU stays in a guest while the host goes on; then it is kicked, if it is still there."""
        guest = self.some_guest()
        if guest is None:
            return
        sie = self.random.choice(guest.cpus).sie if guest.cpus else guest.host.alloc()
        self.host.control(cr1=guest.space.asce)
        self.host.ask("enter", vcpu=hex(sie), stay=True)
        self.host.cpu(1, running=True)
        for _ in range(self.random.randint(1, 3)):
            name = self.random.choice(["convert_from", "destroy_storage", "pin"])
            self.host.call(name, 1, paddr=self.some_page())
            gaddr = self.random.choice(GADDRS)
            do = [{"touch": hex(gaddr), "write": self.random.random() < 0.5}, {"read": hex(WORK), "len": 8}]
            self.host.ask("guest", vcpu=hex(sie), do=do)
            if self.random.random() < 0.5:
                self.change_a_table()
            state = self.random.choice([2, 5])
            self.host.call("set_state", 1, handle=self.random.choice(self.handles), state=state)
        self.host.ask("kick", cpu=0)
        self.host.read(sie, 0x400)

    def stay_in_a_dump(self) -> None:
        """The same while the guest is dumped: nobody can enter it anew, so whoever leaves is outside."""
        guest = self.some_guest()
        if guest is None or not guest.cpus:
            return
        host, sie = self.host, self.random.choice(guest.cpus).sie
        host.control(cr1=guest.space.asce)
        host.ask("enter", vcpu=hex(sie), stay=True)
        host.cpu(1, running=True)
        host.call("dump_init", 1, handle=guest.handle)
        for _ in range(self.random.randint(1, 4)):
            gaddr = self.random.choice(GADDRS)
            self.random.choice([self.change_a_table, lambda: None])()
            name = self.random.choice(["convert_from", "destroy_storage", "pin"])
            if self.random.random() < 0.4:
                host.call(name, 1, paddr=self.some_page())
            if self.random.random() < 0.4:
                host.call("convert_to", 1, handle=guest.handle, gaddr=self.random.choice(GADDRS))
            do = [{"touch": hex(gaddr), "write": self.random.random() < 0.5}, {"read": hex(WORK), "len": 8}]
            host.ask("guest", vcpu=hex(sie), do=do, replace=self.random.random() < 0.5)
        host.ask("kick", cpu=0)
        host.read(sie, 0x400)
        host.call("dump_complete", 1, handle=guest.handle, area=host.alloc())

    def park(self) -> None:
        """A call stops inside the Ultravisor; others collide with it or do not; then it goes on."""
        at = self.host.alloc()
        guest, other = self.some_guest(), self.some_guest()
        handle = guest.handle if guest else 7
        gaddr, page = self.random.choice(GADDRS), self.some_page()
        block = self.random.choice(
            [
                uvcb("convert_to", handle=handle, gaddr=gaddr),
                uvcb("unpin", handle=handle, gaddr=gaddr),
                uvcb("convert_from", paddr=page),
                uvcb("destroy_storage", paddr=page),
                uvcb("verify", handle=handle),
            ]
        )
        self.host.write(at, block)
        self.host.ask("call", r2=hex(at), park=True)
        parked = self.host.keyboard.transcript[-1][0]["id"]
        self.host.cpu(1, running=True)
        if other is not None:
            self.host.call("convert_to", 1, handle=other.handle, gaddr=self.random.choice(GADDRS))
        name = self.random.choice(["convert_from", "destroy_storage", "pin"])
        self.host.call(name, 1, paddr=self.some_page())
        self.change_a_table()
        self.host.ask("resume", call=parked)
        self.host.read(at, len(block))
        self.host.free(at)

    def run_normal(self) -> None:
        """A guest that is not secure, on the tables of one that is."""
        guest = self.some_guest()
        if guest is None:
            return
        sie = self.host.alloc()
        self.host.put(sie + 0x80, self.random.choice([0, MIB]))
        self.host.put(sie + 0x88, self.random.choice([2 * MIB - 1, MIB - 1]))
        self.host.control(cr1=guest.space.asce)
        gaddrs = [self.random.choice(GADDRS) for _ in range(3)]
        do: list[Json] = [{"touch": hex(gaddr), "write": True, "value": "a5" * 8} for gaddr in gaddrs]
        do.insert(1, self.random.choice([{"exit": "spx", "prefix": "0x20000"}, {"exit": "diag", "code": 68}]))
        self.host.ask("guest", vcpu=hex(sie), do=do)
        for _ in range(4):
            self.host.ask("enter", vcpu=hex(sie))
            self.host.read(sie, 0x400)

    def inject(self) -> None:
        """An injection after an exit: right or wrong."""
        guest = self.some_guest()
        if guest is None or not guest.cpus:
            return
        sie = guest.cpus[0].sie
        self.host.control(cr1=guest.space.asce)
        code = self.random.choice(["0x500", "0x288", "0x9c"])
        enable = {"exit": "lctl", "cr": self.random.choice([0, 1, 6, 14])}
        step = self.random.choice(
            [{"exit": "wait"}, {"exit": "diag", "code": code}, enable, {"exit": "loop"}]
        )
        self.host.ask("guest", vcpu=hex(sie), do=[step, {"read": "0x8e", "len": 2}], replace=True)
        self.host.ask("enter", vcpu=hex(sie))
        self.host.put(sie + 0x55, self.random.choice([1, 2, 3, 4, 0x10, 0x11]), 1)
        self.host.ask("enter", vcpu=hex(sie))
        self.host.put(sie + 0x55, 0, 1)
        self.host.ask("enter", vcpu=hex(sie))
        self.host.read(sie, 0x400)

    def move_a_cpu(self) -> None:
        """A host CPU gets another prefix, or runs in problem state for a moment."""
        prefix = self.random.choice([0, self.pages[2] & ~0x1FFF, 0x4000])
        self.host.cpu(2, prefix=hex(prefix))
        self.host.cpu(1, running=True, problem_state=True)
        self.host.ask("call", cpu=1, r2="0x8000")
        self.host.ask("enter", cpu=1, vcpu="0x8000")
        self.host.cpu(1, problem_state=False)
        self.host.ask("read", addr="0x10", len=8, space="real", cpu=2)

    def give_and_take(self) -> None:
        """A page is given back to the book while a guest has it, and asked for again before and after."""
        guest, page = self.some_guest(), self.host.alloc(self.random.choice([1, PAGE, 3 * PAGE]))
        exactly = {"above": hex(page), "below": hex(page + PAGE)}
        if guest is not None:
            guest.space.map(0x23000, page)
            guest.convert_to(0x23000)
            guest.space.unmap(0x23000)
        self.host.free(page)
        if "error" in self.host.ask("alloc", len=PAGE, **exactly):
            self.host.call("destroy_storage", paddr=page)
            self.host.ok("alloc", len=PAGE, **exactly)

    def end_everything(self) -> None:
        """The host is reset, seldom, in the middle of everything."""
        if self.random.random() < 0.15:
            kind = self.random.choice(["modified-clear", "load-normal", "load-clear"])
            self.host.reset(kind)
            if kind == "load-clear":
                self.host.forget()
            self.guests.clear()
            self.host.init()

    def junk(self) -> None:
        """A block of random bytes with a header that may be right."""
        call = self.random.choice(list(CALLS.values()))
        if call.name in ("init", "create_config", "create_cpu"):
            return
        body = bytearray(uvcb(call.name))
        body[0x10:] = self.random.randbytes(len(body) - 0x10)
        self.host.uvc(bytes(body))
