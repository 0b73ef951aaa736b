"""Every check of a call, violated: scenes in which a call is right but for what a test makes wrong.

A scene is a host in some state, a call of it that would succeed, and what can be made wrong about it, each
with the code that says so. What already stands wrong in a scene (a second Init, a CPU that is not stopped) is
`standing`. The order in which the codes are reported is not here: it is the call table's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field

from s390_blocks import GIB, LOAD, MIB, PAGE, STOPPED, Reply, uvcb
from s390_field import Host
from s390_guest import FREE, IMAGE_AT, Image, SecureGuest, boot_guest, plain_image

NOWHERE = 1 << 44  # behind the end of any memory
ODD = 5  # added to an address, it is none of a page
DUMP_ALLOWED = "0x20000000"

Code = tuple[int, int | None]  # rc, and rrc where it is known


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong.

    `sets` replaces fields of the block, `adds` adds to them afterwards; `edits` changes bytes of the header
    that Set Parameters is given, `image` the options that it is built with; `while_` is a state of the host.
    """

    rc: int
    rrc: int | None = None
    sets: tuple[tuple[str, int], ...] = ()
    adds: tuple[tuple[str, int], ...] = ()
    edits: tuple[tuple[int, bytes], ...] = ()
    image: tuple[tuple[str, str], ...] = ()
    while_: Callable[[Host], AbstractContextManager[object]] | None = None

    @property
    def code(self) -> Code:
        return self.rc, self.rrc

    def goes_with(self, other: Violation) -> bool:
        """Whether both can be wrong at once."""
        mine, theirs = ({name for name, _ in violation.sets} for violation in (self, other))
        if mine & theirs or {at for at, _ in self.edits} & {at for at, _ in other.edits}:
            return False
        return not (self.while_ and other.while_)


@dataclass(slots=True)
class Scene:
    """`finish` makes right what stands wrong, so that the call succeeds at the end; None: nothing can."""

    host: Host
    call: str
    fields: dict[str, int]
    violations: list[Violation] = field(default_factory=list)
    standing: tuple[Violation, ...] = ()
    cpu: int = 0
    finish: Callable[[], object] | None = lambda: None
    header_at: int = 0

    def block(self, *wrong: Violation) -> bytes:
        """The control block with everything in `wrong` wrong."""
        values = dict(self.fields)
        for violation in wrong:
            values.update(violation.sets)
        for violation in wrong:
            for name, amount in violation.adds:
                values[name] += amount
        return uvcb(self.call, **values)

    @contextmanager
    def set_up(self, *wrong: Violation) -> Iterator[None]:
        """What has to be so around the call."""
        if self.header_at:
            options = dict(option for violation in wrong for option in violation.image)
            header = bytearray(Image.build(self.host, **options).header)
            for at, data in [edit for violation in wrong for edit in violation.edits]:
                header[at : at + len(data)] = data
            self.host.write(self.header_at, bytes(header))
        with ExitStack() as stack:
            for violation in wrong:
                if violation.while_:
                    stack.enter_context(violation.while_(self.host))
            yield

    def attempt(self, *wrong: Violation) -> Reply:
        """Issue the call with everything in `wrong` wrong."""
        with self.set_up(*wrong):
            return self.host.uvc(self.block(*wrong), self.cpu)


# -- states of a host ----------------------------------------


@contextmanager
def another_cpu_runs(host: Host) -> Iterator[None]:
    host.cpu(2, running=True)
    yield
    host.cpu(2, running=False)


@contextmanager
def home_is_a_real_space(host: Host) -> Iterator[None]:
    host.control(cr13=0x120)
    host.cpu(0, dat=True)
    yield
    host.cpu(0, dat=False)


def two_cpus(host: Host) -> None:
    host.cpu(1, running=True)


# -- init ----------------------------------------


def init_for_the_first_time(host: Host) -> Scene:
    origin = host.alloc(0x200000, align=MIB, above=2 * GIB)
    wrong = [
        Violation(0x0102, while_=another_cpu_runs),
        Violation(0x0103, sets=(("len", 0x1000),)),
        Violation(0x0104, sets=(("origin", NOWHERE),)),
        Violation(0x0105, sets=(("origin", 2199 * MIB),)),
        Violation(0x0108, sets=(("origin", MIB),)),
    ]
    return Scene(host, "init", {"origin": origin, "len": 0x200000}, wrong)


def init_for_the_second_time(host: Host) -> Scene:
    scene = init_for_the_first_time(host)
    host.init()
    scene.standing, scene.finish = (Violation(0x0101),), None
    return scene


# -- configurations ----------------------------------------


def creation(host: Host) -> Scene:
    uv_base = host.init()
    first = host.plan_config()
    host.call("create_config", **first).done()
    plan = host.plan_config()
    limit = host.query().field(0x80)
    wrong = [
        Violation(0x0030, while_=home_is_a_real_space),
        Violation(0x0032, sets=(("variable", NOWHERE),)),
        Violation(0x0101, sets=(("mso", limit + MIB),)),
        Violation(0x0102, sets=(("len", limit + MIB),)),
        Violation(0x0105, sets=(("asce", plan["asce"] & ~0x100),)),
        Violation(0x0106, sets=(("asce", first["asce"]),)),
        Violation(0x0108, sets=(("base", NOWHERE),)),
        Violation(0x0109, sets=(("base", 0x1000),)),
        Violation(0x010A, sets=(("variable", uv_base),)),
        Violation(0x010C, sets=(("sca", 0),)),
        Violation(0x010D, sets=(("sca", NOWHERE),)),
    ]
    return Scene(host, "create_config", plan, wrong)


def creation_in_home_space(host: Host) -> Scene:
    host.use_home()
    scene = creation(host)
    hole = scene.fields["variable"] - PAGE
    kept = [one for one in scene.violations if one.rc != 0x0030 and "variable" not in dict(one.sets)]
    scene.violations = [Violation(0x0031, sets=(("variable", hole),)), *kept]
    return scene


def creation_on_a_full_host(host: Host) -> Scene:
    scene = creation(host)
    others = [
        host.call("create_config", **host.plan_config(1)).done().handle for _ in range(7)
    ]  # with the one that the scene has: as many as there may be
    scene.standing = (Violation(0x0103),)
    scene.finish = lambda: host.call("destroy_config", handle=others[0]).done()
    return scene


def destruction(name: str) -> Callable[[Host], Scene]:
    """Of a configuration with a CPU."""

    def scene(host: Host) -> Scene:
        host.init()
        guest = SecureGuest.create(host)
        return Scene(
            host,
            name,
            {"handle": guest.handle},
            standing=(Violation(0x0003),),
            finish=lambda: host.call("destroy_cpu", handle=guest.cpus[0].handle).done(),
        )

    return scene


def parameters(host: Host) -> Scene:
    host.init()
    guest = SecureGuest.create(host)
    at = host.alloc(2 * PAGE)
    length = len(Image.build(host).header)
    wrong = [
        Violation(0x0030, while_=home_is_a_real_space),
        Violation(0x0103, sets=(("header", NOWHERE),)),
        Violation(0x0104, 0x0001, edits=((0x08, b"\x00\x00\x02\x00"),)),
        Violation(0x0104, 0x0000, edits=((0x00, b"IBMSecEy"),)),
        Violation(0x0106, 0x0030, edits=((0x38, b"\0" * 7 + b"\x04"),)),
        Violation(0x010A, 0x0040, edits=((0x20, b"\0" * 8),)),
        Violation(0x010A, 0x0031, adds=(("header_len", 16),)),
        Violation(0x010A, 0x0039, edits=((0x28, b"\0" * 7 + b"\x90"),)),
        Violation(0x0108, 0x000B, edits=((0x40, b"\0" * 158 + b"\1\1"),)),
        Violation(0x0108, 0x0005, edits=((0x1A0, b"\xaa" * 32),)),
        Violation(0x0108, 0x0006, edits=((0x1C0, b"\xaa" * 32),)),
        Violation(0x0108, 0x0007, edits=((0x1F0, b"\xaa" * 32),)),
        Violation(0x0109, 0x0000, image=(("scf", "0x1"),)),
    ]
    fields = {"handle": guest.handle, "header": at, "header_len": length}
    return Scene(host, "set_params", fields, wrong, header_at=at)


def parameters_again(host: Host) -> Scene:
    scene = parameters(host)
    scene.attempt().done()
    scene.standing, scene.finish = (Violation(0x0003),), None
    return scene


def verification_of_nothing(host: Host) -> Scene:
    host.init()
    guest = SecureGuest.create(host)

    def finish() -> None:
        image = Image.build(host)
        guest.set_params(image.header).done()
        guest.unpack_all(image)

    return Scene(host, "verify", {"handle": guest.handle}, standing=(Violation(0x0003),), finish=finish)


# -- CPUs ----------------------------------------


def creation_of_a_cpu(host: Host) -> Scene:
    host.init()
    guest = SecureGuest.create(host)
    wrong = [
        Violation(0x0103, sets=(("num", 8),)),
        Violation(0x0104, sets=(("num", 0),)),
        Violation(0x0105, sets=(("storage", NOWHERE),)),
        Violation(0x0106, sets=(("storage", 0),)),
        Violation(0x0107, sets=(("state", NOWHERE),)),
    ]
    return Scene(host, "create_cpu", host.plan_cpu(guest.handle, 1), wrong)


def running_guest(host: Host) -> SecureGuest:
    host.init()
    two_cpus(host)
    return boot_guest(host)


def of_a_cpu_inside(name: str, rc: int) -> Callable[[Host], Scene]:
    """Of a CPU that is in its guest."""

    def scene(host: Host) -> Scene:
        guest = running_guest(host)
        host.ok("enter", vcpu=hex(guest.sie), stay=True)
        fields = {"handle": guest.cpus[0].handle}
        if name == "set_state":
            fields["state"] = STOPPED
        return Scene(
            host, name, fields, standing=(Violation(rc),), cpu=1, finish=lambda: host.ok("kick", cpu=0)
        )

    return scene


def of_a_running_cpu(name: str) -> Callable[[Host], Scene]:
    """A reset of a CPU that is not stopped."""

    def scene(host: Host) -> Scene:
        guest = running_guest(host)
        return Scene(
            host,
            name,
            {"handle": guest.cpus[0].handle},
            standing=(Violation(0x0101),),
            finish=lambda: guest.set_state(STOPPED).done(),
        )

    return scene


def start_before_verification(host: Host) -> Scene:
    host.init()
    guest = SecureGuest.create(host)
    fields = {"handle": guest.cpus[0].handle, "state": LOAD}
    return Scene(host, "set_state", fields, standing=(Violation(0x0101),), finish=guest.load)


def state_that_is_none(host: Host) -> Scene:
    guest = running_guest(host)
    fields = {"handle": guest.cpus[0].handle, "state": STOPPED}
    return Scene(host, "set_state", fields, [Violation(0x0102, sets=(("state", 9),))])


def unsharing_while_a_cpu_runs(host: Host) -> Scene:
    guest = running_guest(host)
    return Scene(
        host,
        "unshare_all",
        {"handle": guest.handle},
        standing=(Violation(0x0101),),
        finish=lambda: guest.set_state(STOPPED).done(),
    )


def reset_before_unsharing(host: Host) -> Scene:
    guest = running_guest(host)

    def finish() -> None:
        guest.set_state(STOPPED).done()
        host.call("unshare_all", handle=guest.handle).done()

    return Scene(
        host, "prepare_reset", {"handle": guest.handle}, standing=(Violation(0x0101),), finish=finish
    )


# -- pages ----------------------------------------


def import_(host: Host) -> Scene:
    guest = running_guest(host)
    places = [FREE + place * PAGE for place in range(6)]
    good, unmapped, donated, secure, elsewhere, exported = places
    guest.back(good)
    guest.space.map(donated, guest.plan["base"])
    guest.secure_page(secure)
    guest.secure_page(elsewhere)
    guest.space.map(elsewhere, host.alloc())
    page = guest.secure_page(exported, b"not to be changed")
    host.call("convert_from", paddr=page).done()
    host.write(page, b"changed")
    wrong = [
        Violation(0x0101, sets=(("gaddr", guest.plan["len"]),)),
        Violation(0x0102, adds=(("gaddr", ODD),)),
        Violation(0x010A, sets=(("gaddr", unmapped),)),
        Violation(0x0103, sets=(("gaddr", donated),)),
        Violation(0x0104, sets=(("gaddr", secure),)),
        Violation(0x0105, sets=(("gaddr", elsewhere),)),
        Violation(0x0106, sets=(("gaddr", exported),)),
    ]
    return Scene(host, "convert_to", {"handle": guest.handle, "gaddr": good}, wrong)


def unpacking(host: Host) -> Scene:
    host.init()
    guest = SecureGuest.create(host)
    image = Image.build(host)
    guest.set_params(image.header).done()
    good, unmapped, donated, secure, elsewhere = [FREE + place * PAGE for place in range(5)]
    guest.back(good)
    guest.space.map(donated, guest.plan["base"])
    guest.secure_page(secure)
    guest.secure_page(elsewhere)
    guest.space.map(elsewhere, host.alloc())
    wrong = [
        Violation(0x0101, sets=(("gaddr", guest.plan["len"]),)),
        Violation(0x0102, adds=(("gaddr", ODD),)),
        Violation(0x010A, sets=(("gaddr", unmapped),)),
        Violation(0x0103, sets=(("gaddr", donated),)),
        Violation(0x0104, sets=(("gaddr", secure),)),
        Violation(0x0105, sets=(("gaddr", elsewhere),)),
    ]
    return Scene(host, "unpack", {"handle": guest.handle, "gaddr": good, "prefix": 1, "offset": 0}, wrong)


def unpacking_of_a_running_guest(host: Host) -> Scene:
    guest = running_guest(host)
    guest.back(FREE)
    wrong = [
        Violation(0x0101, sets=(("gaddr", guest.plan["len"]),)),
        Violation(0x0102, adds=(("gaddr", ODD),)),
        Violation(0x010A, sets=(("gaddr", FREE + PAGE),)),
        Violation(0x0104, sets=(("gaddr", IMAGE_AT),)),
    ]
    fields = {"handle": guest.handle, "gaddr": FREE}
    return Scene(host, "unpack", fields, wrong, standing=(Violation(0x0003),), finish=None)


def of_a_page(name: str) -> Callable[[Host], Scene]:
    """Export, destruction or pin of a shared page."""

    def scene(host: Host) -> Scene:
        guest = running_guest(host)
        shared, pinned = (guest.secure_page(FREE + place * PAGE) for place in range(2))
        for place in range(2):
            guest.share(FREE + place * PAGE).done()
        host.call("pin", paddr=pinned).done()
        unshared = Violation(0x0105, sets=(("paddr", host.alloc()),))
        wrong = [
            Violation(0x0101, sets=(("paddr", NOWHERE),)),
            Violation(0x0102, adds=(("paddr", ODD),)),
            Violation(0x0103, sets=(("paddr", guest.plan["base"]),)),
            unshared if name == "pin" else Violation(0x0104, sets=(("paddr", pinned),)),
        ]
        return Scene(host, name, {"paddr": shared}, wrong)

    return scene


def unpinning(host: Host) -> Scene:
    guest = running_guest(host)
    page = guest.secure_page(FREE)
    guest.share(FREE).done()
    host.call("pin", paddr=page).done()
    wrong = [
        Violation(0x0101, sets=(("gaddr", guest.plan["len"]),)),
        Violation(0x0102, adds=(("gaddr", ODD),)),
        Violation(0x010A, sets=(("gaddr", FREE + PAGE),)),
        Violation(0x0105, sets=(("gaddr", IMAGE_AT),)),
    ]
    return Scene(host, "unpin", {"handle": guest.handle, "gaddr": FREE}, wrong)


# -- dump ----------------------------------------


def dumpable_guest(host: Host, begun: bool = False) -> SecureGuest:
    host.init()
    two_cpus(host)
    guest = SecureGuest.create(host)
    guest.load(Image.build(host, plain_image(), pcf=DUMP_ALLOWED)).start()
    if begun:
        host.call("dump_init", handle=guest.handle).done()
    return guest


def dump_before_verification(host: Host) -> Scene:
    """Of an image that does not allow it, either."""
    host.init()
    guest = SecureGuest.create(host)
    guest.set_params(Image.build(host).header).done()
    standing = (Violation(0x0101), Violation(0x0103))
    return Scene(host, "dump_init", {"handle": guest.handle}, standing=standing, finish=None)


def dump_that_is_not_allowed(host: Host) -> Scene:
    guest = running_guest(host)
    return Scene(host, "dump_init", {"handle": guest.handle}, standing=(Violation(0x0103),), finish=None)


def second_dump(host: Host) -> Scene:
    guest = dumpable_guest(host, begun=True)
    area = host.alloc()
    return Scene(
        host,
        "dump_init",
        {"handle": guest.handle},
        standing=(Violation(0x0104),),
        finish=lambda: host.call("dump_complete", handle=guest.handle, area=area).done(),
    )


def dump_part(name: str, begun: bool) -> Callable[[Host], Scene]:
    """A part of a dump, with the dump begun or not."""

    def scene(host: Host) -> Scene:
        guest = dumpable_guest(host, begun)
        fields = {"handle": guest.handle, "area": host.alloc()}
        wrong = [Violation(0x0102, sets=(("area", NOWHERE),))]
        if name == "dump_cpu":
            fields["handle"] = guest.cpus[0].handle
        if name == "dump_storage_state":
            fields["gaddr"] = 0
            wrong.append(Violation(0x0105, sets=(("gaddr", guest.plan["len"]),)))
            wrong.append(Violation(0x0106, adds=(("gaddr", PAGE),)))
        made = Scene(host, name, fields, wrong)
        if not begun:
            made.standing = (Violation(0x0104),)
            made.finish = lambda: host.call("dump_init", handle=guest.handle).done()
        return made

    return scene


def dump_of_a_cpu_inside(host: Host) -> Scene:
    guest = dumpable_guest(host)
    host.ok("enter", vcpu=hex(guest.sie), stay=True)
    fields = {"handle": guest.cpus[0].handle, "area": host.alloc()}

    def finish() -> None:
        host.ok("kick", cpu=0)
        host.call("dump_init", 1, handle=guest.handle).done()

    standing = (Violation(0x0101), Violation(0x0104))
    wrong = [Violation(0x0102, sets=(("area", NOWHERE),))]
    return Scene(host, "dump_cpu", fields, wrong, standing=standing, cpu=1, finish=finish)


SCENES: dict[str, Callable[[Host], Scene]] = {
    "init": init_for_the_first_time,
    "init_again": init_for_the_second_time,
    "create_config": creation,
    "create_config_in_home_space": creation_in_home_space,
    "create_config_on_a_full_host": creation_on_a_full_host,
    "destroy_config": destruction("destroy_config"),
    "destroy_config_fast": destruction("destroy_config_fast"),
    "set_params": parameters,
    "set_params_again": parameters_again,
    "verify_nothing": verification_of_nothing,
    "create_cpu": creation_of_a_cpu,
    "destroy_cpu_inside": of_a_cpu_inside("destroy_cpu", 0x0003),
    "set_state_of_a_cpu_inside": of_a_cpu_inside("set_state", 0x0101),
    "set_state_before_verification": start_before_verification,
    "set_state_to_none": state_that_is_none,
    "cpu_reset": of_a_running_cpu("cpu_reset"),
    "cpu_reset_initial": of_a_running_cpu("cpu_reset_initial"),
    "cpu_reset_clear": of_a_running_cpu("cpu_reset_clear"),
    "unshare_all": unsharing_while_a_cpu_runs,
    "prepare_reset": reset_before_unsharing,
    "convert_to": import_,
    "unpack": unpacking,
    "unpack_when_running": unpacking_of_a_running_guest,
    "convert_from": of_a_page("convert_from"),
    "destroy_storage": of_a_page("destroy_storage"),
    "pin": of_a_page("pin"),
    "unpin": unpinning,
    "dump_before_verification": dump_before_verification,
    "dump_not_allowed": dump_that_is_not_allowed,
    "dump_twice": second_dump,
    "dump_of_a_cpu_inside": dump_of_a_cpu_inside,
    **{
        f"{name}_{'active' if begun else 'without_dump'}": dump_part(name, begun)
        for name in ("dump_storage_state", "dump_cpu", "dump_complete")
        for begun in (True, False)
    },
}
"""A scene for every check that can be provoked; new rows of the call table need one."""
