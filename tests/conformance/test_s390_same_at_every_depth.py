"""The standard of the emulation: a host cannot tell at which depth it is.

Each script types the same requests at depth 0, 1 and 2 and every answer must be the same, byte for byte; what
may differ stands in `differences.py` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from differences import DIFFERENCES, without_differences
from driver import Json, Keyboard, in_process
from s390_blocks import GIB, HOST_CALLS, LATER_CALLS, MIB, NOTIFY, PAGE, UNASSIGNED, header, uvcb
from s390_field import Host
from s390_guest import FREE, IMAGE_AT, Image, SecureGuest, boot_guest, call_steps
from s390_owner import add_secret, attestation, plaintext

Script = Callable[[Host], object]


def transcript(script: Script, depth: int, **options: object) -> list[tuple[Json, Json]]:
    """Everything that was said while `script` ran at `depth`."""
    keyboard = Keyboard(in_process("s390", depth, **options), depth)  # type: ignore[arg-type]
    script(Host(keyboard))
    assert keyboard.ok("audit")["leaks"] == []
    return keyboard.transcript


def same_at_every_depth(script: Script, **options: object) -> None:
    """Hold depth 1 and 2 to the answers of depth 0, request by request."""
    real = transcript(script, 0, **options)
    for depth in (1, 2):
        emulated = transcript(script, depth, **options)
        for number, ((request, want), (asked, got)) in enumerate(zip(real, emulated, strict=False)):
            assert asked == request, f"request {number} differs: the script saw a difference before"
            assert without_differences(asked, got) == without_differences(request, want), (
                f"request {number} at depth {depth}: {request}"
            )
        assert len(emulated) == len(real)


def query_and_init(host: Host) -> None:
    host.ok("info")
    host.ok("insn", name="stfle")
    for length in (0xA0, 0xA8, 0xC8, 0x100, 0x120, 0x130):
        host.uvc(uvcb("query", length).ljust(length, b"\0"))
    for origin, length in ((MIB, 0x200000), (2 * GIB, 8), (4 * GIB, 0x200000), (2199 * MIB, 0x200000)):
        host.call("init", origin=origin, len=length).refused()
    host.init()
    host.call("init", origin=2 * GIB, len=0x200000).refused(0x0101)
    host.audit()


def every_call_empty(host: Host) -> None:
    for _ in range(2):
        for call in HOST_CALLS + LATER_CALLS:
            for length in (call.length, 8, call.length + 8):
                host.uvc(header(call.code, length, max(length, 8)))
            host.uvc_fault(uvcb(call.name), m3=1)
        for code in UNASSIGNED:
            host.uvc(header(code, 0x40))
        if host.books()["donated_pages"] == 0:
            host.init()


def life_of_a_guest(host: Host) -> None:
    host.init()
    guest = boot_guest(host, cpus=2)
    page = guest.secure_page(FREE, b"a page of its own")
    host.call("convert_from", paddr=page).done()
    host.read(page)
    guest.run_fault({"read": hex(FREE), "len": 17})
    guest.convert_to(FREE).done()
    guest.enter()
    guest.share(FREE).done()
    host.read(page)
    host.call("pin", paddr=page).done()
    assert guest.run(*call_steps(uvcb("unshare", paddr=FREE))).code == NOTIFY
    host.read(guest.sida)
    guest.unpin(FREE).done()
    guest.enter()
    host.ask("read", addr=hex(page), len=8)
    host.audit()
    host.ok("counts")
    guest.destroy()
    for gaddr in (0, PAGE, 0x8000, IMAGE_AT, IMAGE_AT + PAGE, FREE):
        host.call("destroy_storage", paddr=guest.space.target(gaddr)).done()
        host.read(guest.space.target(gaddr))
    host.audit()
    host.ok("counts")


def refused_creations(host: Host) -> None:
    host.init()
    plan = host.plan_config()
    for wrong in (
        {"base": 1 << 44},
        {"base": 0x1000},
        {"base": plan["variable"], "variable": plan["base"]},
        {"variable": 1 << 44},
        {"variable": plan["base"]},
        {"sca": 0},
        {"sca": 1 << 44},
        {"asce": plan["asce"] & ~0x100},
        {"asce": plan["asce"] | 0x20},
        {"len": 0},
        {"mso": 0x123456},
        {"flags": 3},
    ):
        reply = host.call("create_config", **plan | wrong)
        if reply.cc == 0 or reply.rc & 0x8000:
            host.call("destroy_config", handle=reply.handle)
        host.audit()
    config = host.call("create_config", **plan).done().handle
    host.call("create_config", **plan)
    for num, wrong in (
        (8, {}),
        (0, {"storage": 0}),
        (0, {"storage": 1 << 44}),
        (0, {"state": 1 << 44}),
        (0, {}),
        (0, {}),
    ):
        host.call("create_cpu", **host.plan_cpu(config, num) | wrong)
        host.audit()
    host.call("destroy_config", handle=config)


def wrong_images(host: Host) -> None:
    host.init()
    right = Image.build(host)
    for options in ({"keys": ["other"]}, {"pcf": "0x4"}, {"scf": "0x1"}):
        guest = SecureGuest.create(host)
        guest.set_params(Image.build(host, **options).header)
        guest.destroy()
    for at in (0x0, 0x8, 0xC, 0x20, 0x28, 0x30, 0x38, 0x40, 0xE0, 0x1A0, 0x1C0, 0x1F0):
        broken = bytearray(right.header)
        broken[at] ^= 0x40
        guest = SecureGuest.create(host)
        guest.set_params(bytes(broken))
        guest.verify()
        guest.destroy()
    for pages in (right.pages[:1], right.pages[::-1], [right.pages[0], (0x30000, *right.pages[1][1:])]):
        guest = SecureGuest.create(host)
        guest.set_params(right.header).done()
        guest.unpack_all(Image(b"", list(pages)))
        guest.verify().refused(0x0102)
        guest.set_state(5)
        guest.destroy()


def wrong_entries(host: Host) -> None:
    host.init()
    guest = boot_guest(host)
    mark = {"read": hex(IMAGE_AT), "len": 7}
    for field in (0x10, 0x18):
        right = host.get(guest.sie + field)
        for bit in range(0, 64, 7):
            host.put(guest.sie + field, right ^ 1 << bit)
            guest.run(mark)
            host.read(guest.sie, 0x400)
        host.put(guest.sie + field, right)
    host.control(cr1=guest.space.asce ^ 0x80)
    guest.enter()
    host.control(cr1=guest.space.asce)
    guest.enter()
    host.put(guest.sie + 0x28, 1 << 62)
    guest.enter()
    host.read(guest.sie, 0x400)


def exits(host: Host) -> None:
    host.init()
    guest = boot_guest(host)
    gprs = {str(number): hex(0x1000 + number) for number in range(16)}
    guest.program({"cpu": {"gprs": gprs, "timer": "0x7000000000000"}})
    for code, r1, r3 in ((0x44, 0, 0), (0x9C, 7, 0), (0x500, 0, 0), (0x288, 6, 8), (0x308, 4, 3)):
        guest.run({"exit": "diag", "code": hex(code), "r1": r1, "r3": r3})
        host.read(guest.sie, 0x400)
    guest = boot_guest(host)
    for step in (
        {"exit": "spx", "prefix": "0x40000"},
        {"exit": "sigp", "order": 1, "address": 3, "parameter": "0x99"},
        {"exit": "sclp", "command": "0x20001", "gpa": hex(IMAGE_AT)},
    ):
        host.keyboard.ask("guest", vcpu=hex(guest.sie), do=[step])
        host.keyboard.ask("enter", vcpu=hex(guest.sie))
        host.read(guest.sie, 0x400)
        host.read(guest.sida)


def page_states(host: Host) -> None:
    host.init()
    guest, other = boot_guest(host), boot_guest(host)
    host.control(cr1=guest.space.asce)
    page = guest.secure_page(FREE, b"mine")
    other.space.map(FREE, page)
    for at in (page, guest.plan["base"], 1 << 44, page + 5):
        for name in ("pin", "convert_from", "destroy_storage", "convert_from", "pin"):
            host.call(name, paddr=at)
            host.ask("read", addr=hex(at), len=64)
        guest.convert_to(FREE)
        other.convert_to(FREE)
        guest.convert_to(FREE + 5)
    host.audit()
    for gaddr in (FREE, FREE + PAGE, MIB + FREE, guest.plan["len"], guest.plan["len"] + MIB, 1 << 40):
        host.ask("guest", vcpu=hex(guest.sie), do=[{"touch": hex(gaddr), "write": True}], replace=True)
        host.ask("enter", vcpu=hex(guest.sie))


def resets(host: Host) -> None:
    for kind in ("modified-clear", "load-normal", "load-clear"):
        host.init()
        boot_guest(host)
        host.ok("counts")
        host.reset(kind)
        if kind == "load-clear":
            host.forget()
        host.ok("counts")
        host.audit()
        host.query()
    host.ok("kill")
    host.forget()
    host.ok("counts")
    host.init()
    boot_guest(host)


def in_home_space(host: Host) -> None:
    host.init()
    host.use_home()
    guest = SecureGuest.create(host)
    header_page = host.alloc()
    image = Image.build(host)
    host.write(header_page, image.header)
    at = host.to_home(header_page)
    guest.set_params(image.header, at=at + PAGE)
    guest.set_params(image.header, at=at).done()
    guest.unpack_all(image)
    guest.verify().done()
    guest.start()
    guest.fetch(IMAGE_AT, 7)
    for virtual in (0, at + PAGE, 1 << 33, 1 << 45):
        host.ask("call", r2=hex(virtual))
        host.ask("read", addr=hex(virtual), len=8, space="home")


def dumps(host: Host) -> None:
    """Every byte of a dump is the same, those that nobody can read too."""
    host.init()
    guest = boot_guest(host)
    host.call("dump_init", handle=guest.handle).refused(0x0103)
    guest = SecureGuest.create(host, cpus=2)
    guest.load(Image.build(host, pcf=hex(1 << 29))).start()
    area, page = host.alloc(), guest.secure_page(FREE, b"to be dumped")
    shared = guest.secure_page(FREE + PAGE)
    guest.share(FREE + PAGE).done()
    for _ in range(2):
        host.call("dump_complete", handle=guest.handle, area=area)
        host.call("dump_init", handle=guest.handle).done()
        host.call("dump_init", handle=guest.handle)
        guest.enter()
        host.call("convert_from", paddr=page).done()
        for at in (page, shared):
            host.read(at)
        for gaddr in (0, MIB, 2 * MIB, PAGE):
            for where in (area, 1 << 44, guest.space.target(0) + 0x800, guest.plan["base"]):
                host.call("dump_storage_state", handle=guest.handle, area=where, gaddr=gaddr)
                host.ask("read", addr=hex(where), len=PAGE)
        for cpu in guest.cpus:
            for where in (1 << 44, area):
                host.call("dump_cpu", handle=cpu.handle, area=where)
                host.ask("read", addr=hex(where), len=PAGE)
        host.call("dump_complete", handle=guest.handle, area=1 << 44)
        host.call("dump_complete", handle=guest.handle, area=area).done()
        host.read(area)
        guest.convert_to(FREE).done()
        guest.fetch(FREE, 12)
    host.audit()
    host.ok("counts")


def evidence_and_secrets(host: Host) -> None:
    host.init()
    image = Image.build(host)
    guest = SecureGuest.create(host).load(image).start()
    for gaddr in (FREE, FREE + PAGE):
        guest.secure_page(gaddr)
    for asked in (attestation(), attestation(nonce=b"n" * 16), attestation(which="other")):
        guest.store(FREE, asked.raw)
        for user in (0, 256, 257):
            guest.uvc(uvcb("attest", request=FREE, user_len=user, meas_len=64, meas=FREE + PAGE, add_len=32))
            guest.fetch(FREE + PAGE, 64)
    for kind, value in ((3, plaintext(b"word")), (2, bytes(32)), (1, b""), (4, bytes(16)), (0x16, bytes(32))):
        guest.store(FREE, add_secret(image.header, kind, value, "name"))
        guest.uvc(uvcb("add_secret", request=FREE))
    guest.uvc(uvcb("list_secrets", list=FREE + PAGE))
    guest.fetch(FREE + PAGE)
    for index in range(3):
        guest.uvc(uvcb("retrieve_secret", index=index, buffer=FREE, len=PAGE))
        guest.fetch(FREE, 32)
    for _ in range(2):
        guest.uvc(uvcb("lock_secrets"))
    guest.uvc(uvcb("query"))
    host.ok("counts")


def two_hosts(host: Host) -> None:
    sibling = host.sibling(1)
    host.init()
    sibling.init()
    guest = boot_guest(host)
    other = boot_guest(sibling)
    host.call("verify", handle=other.handle)
    sibling.call("destroy_cpu", handle=guest.cpus[0].handle)
    host.ok("kill")
    host.forget()
    other.fetch(IMAGE_AT, 7)
    host.audit()
    host.ok("counts")
    sibling.ok("counts")


SCRIPTS = (
    query_and_init,
    every_call_empty,
    life_of_a_guest,
    refused_creations,
    wrong_images,
    wrong_entries,
    exits,
    page_states,
    resets,
    in_home_space,
    dumps,
    evidence_and_secrets,
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_same_requests_get_the_same_answers_at_every_depth(script: Script) -> None:
    same_at_every_depth(script)


def test_two_hosts_get_the_same_answers_at_every_depth() -> None:
    same_at_every_depth(two_hosts, hosts=2)


def test_the_full_profile_gives_the_same_answers_at_every_depth() -> None:
    same_at_every_depth(query_of_the_full_profile, profile="full")


def query_of_the_full_profile(host: Host) -> None:
    host.query()
    host.init()
    guest = SecureGuest.create(host)
    guest.set_params(Image.build(host).header).done()
    host.audit()


def test_the_answers_depend_on_the_seed_and_on_nothing_else() -> None:
    first, second = (transcript(life_of_a_guest, 1, seed=3) for _ in range(2))
    assert first == second


def test_every_difference_has_a_reason() -> None:
    assert len({difference.name for difference in DIFFERENCES}) == len(DIFFERENCES)
    assert all(difference.reason for difference in DIFFERENCES)
