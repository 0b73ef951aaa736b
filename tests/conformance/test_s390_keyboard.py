"""The rest of the console's contract: what each op answers, takes and refuses."""

from __future__ import annotations

from typing import Any

import pytest
from driver import Json, Keyboard, in_process, number
from s390_blocks import BUSY, GIB, MIB, NON_SECURE, PAGE, SECURE, uvcb
from s390_field import Host
from s390_guest import FREE, IMAGE_AT, Image, SecureGuest, boot_guest

KINDS = {"configs", "cpus", "pins", "shared_pages"}
TRACKED = KINDS | {"shadow_blocks", "shadow_tables"}


@pytest.fixture
def guest(host: Host) -> SecureGuest:
    """A started guest."""
    return boot_guest(host)


# -- alloc ----------------------------------------


def test_alloc_gives_out_only_memory_that_nobody_uses(host: Host, guest: SecureGuest) -> None:
    """What the Ultravisor holds is in use, whatever the book says."""
    held = [guest.plan["base"], guest.plan["variable"], guest.cpus[0].storage, guest.space.target(IMAGE_AT)]
    for page in held:
        host.free(page)
    fresh = {host.alloc() for _ in range(4)}
    assert not fresh & set(held)
    assert all(map(host.is_secure, held))
    target = guest.space.target(IMAGE_AT)
    guest.destroy()
    host.call("destroy_storage", paddr=target).done()
    low = host.alloc(PAGE, above=hex(target), below=hex(target + PAGE))
    assert low == target


def test_memory_that_was_a_table_of_a_guest_is_memory_again(host: Host, guest: SecureGuest) -> None:
    """Freed, given out and zeroed, it maps nothing: a change of a table takes effect at once."""
    host.free(guest.space.top)
    assert (
        host.alloc(4 * PAGE, above=hex(guest.space.top), below=hex(guest.space.top + 4 * PAGE))
        == guest.space.top
    )
    assert guest.enter().code == 0x70, "no prefix page is mapped"


def test_a_table_that_is_filled_with_zeroes_maps_nothing(host: Host, guest: SecureGuest) -> None:
    """Long runs of zeroes are stores like any other."""
    area = host.alloc(64 * PAGE)
    for entry in range(0, 0x800, 8):
        host.put(area + 20 * PAGE + entry, 0x400)
    host.put(guest.space.segment_entry(MIB), area + 20 * PAGE)
    page = host.alloc()
    host.put(area + 20 * PAGE, page)
    guest.convert_to(MIB).done()
    assert guest.fetch(MIB, 4) == bytes(4)
    host.fill(area, 64 * PAGE, 0)
    fault = guest.run_fault({"touch": hex(MIB)})
    assert fault.code == NON_SECURE, "an entry of zero maps absolute page zero"


def test_alloc_takes_its_numbers_in_both_ways(raw: Host) -> None:
    assert raw.ok("alloc", len="0x1000", align="0x2000", above=hex(GIB), below=hex(2 * GIB)) == {
        "addr": hex(GIB)
    }
    assert raw.ok("alloc", len=4096, align=8192, above=GIB, below=2 * GIB) == {"addr": hex(GIB + 0x2000)}


# -- call, enter, guest ----------------------------------------


def test_what_is_in_register_1_has_no_meaning(raw: Host) -> None:
    page = raw.alloc()
    raw.write(page, uvcb("query"))
    assert raw.ok("call", r2=hex(page), r1="0xffffffffffffffff", m3=0, m4=0) == {"cc": 0}
    raw.error("call", "bad_value", "r1", r2=hex(page), r1=hex(1 << 64))


def test_an_entry_is_not_parked_on_this_architecture(host: Host, guest: SecureGuest) -> None:
    """console.md: an architecture may decline it."""
    body = host.error("enter", "bad_value", "park", vcpu=hex(guest.sie), park=True)
    assert "park" in body["message"]
    assert guest.enter().code == 0x1C, "nothing changed"


@pytest.mark.parametrize(
    "step",
    [
        {},
        {"touch": 0, "read": 0, "len": 1},
        {"touch": "here"},
        {"touch": 0, "write": 1},
        {"touch": 0, "write": False, "value": "00"},
        {"touch": 0, "wirte": True},
        {"touch": 0, "write": True, "value": "0"},
        {"read": 0},
        {"read": 0, "len": -1},
        {"load": 0, "len": 9, "gpr": 1},
        {"load": 0, "len": 0, "gpr": 1},
        {"load": 0, "len": 8, "gpr": 16},
        {"cpu": {"gprs": {"16": 0}}},
        {"cpu": {"gprs": {"x": 0}}},
        {"cpu": {"gprs": [1]}},
        {"cpu": {"timer": "soon"}},
        {"cpu": {"problem_state": "yes"}},
        {"cpu": {"mood": 1}},
        {"call": {}},
        {"call": {"r2": 0, "m3": 16}},
        {"call": 5},
        {"exit": "door"},
        {"exit": 5},
        {"exit": "diag"},
        {"exit": "diag", "code": 1, "r1": 16},
        {"exit": "spx"},
        {"exit": "sigp"},
        {"exit": "sclp", "command": 1},
        {"exit": "wait", "long": True},
        "touch",
        None,
    ],
    ids=str,
)
def test_a_step_that_makes_no_sense_queues_nothing(host: Host, guest: SecureGuest, step: Any) -> None:
    good = {"read": hex(IMAGE_AT), "len": 4}
    body = host.keyboard.error("guest", vcpu=hex(guest.sie), do=[good, step, good])
    assert body["code"] in ("bad_value", "bad_request")
    assert body["field"] == "do"
    assert guest.enter().steps == []


def test_a_program_has_a_limit(host: Host, guest: SecureGuest) -> None:
    host.error("guest", "limit", "do", vcpu=hex(guest.sie), do=[{"touch": 0}] * 65537)
    host.error("guest", "limit", "do", vcpu=hex(guest.sie), do=[{"read": 0, "len": MIB}] * 5)
    assert guest.enter().steps == []


def test_so_has_the_number_of_guest_cpus_that_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever enters blocks at ever new places makes the console keep no more of them."""
    monkeypatch.setattr("protocol.arch.s390.keyboard.host.PROGRAMS", 2)
    host = Host(Keyboard(in_process("s390", 0), 0))
    host.init()
    guest = boot_guest(host)
    assert guest.enter().steps == []
    host.ok("enter", vcpu=hex(host.alloc()))
    fresh = hex(host.alloc())
    for op in ("enter", "guest"):
        body = host.error(op, "limit", "vcpu", vcpu=fresh, **({} if op == "enter" else {"do": []}))
        assert body["message"] == "vcpu: at most 2 guest CPUs have a program"
    assert guest.enter().steps == [], "those that have one go on"


def test_a_read_of_the_guest_may_be_long(host: Host, guest: SecureGuest) -> None:
    guest.secure_page(FREE, b"a" * PAGE)
    guest.secure_page(FREE + PAGE, b"b" * PAGE)
    assert guest.fetch(FREE + 1, 2 * PAGE - 2) == b"a" * (PAGE - 1) + b"b" * (PAGE - 1)


# -- cpu ----------------------------------------


@pytest.mark.parametrize("prefix", ["0x1000", "0x80000000", hex(2200 * MIB), "0x2001"])
def test_a_prefix_that_no_cpu_can_have_is_refused(raw: Host, prefix: str) -> None:
    raw.error("cpu", "bad_value", "prefix", cpu=1, running=True, prefix=prefix)
    assert raw.cpu(1)["running"] is False, "nothing changed"


def test_settings_that_are_not_named_stay(raw: Host) -> None:
    raw.cpu(1, running=True, problem_state=True, prefix="0x4000", cr={"7": "0x77"})
    settings = raw.cpu(1, cr={"1": "0x11"})
    assert settings == {
        "running": True,
        "problem_state": True,
        "dat": False,
        "prefix": "0x4000",
        "cr": {"1": "0x11", "7": "0x77", "13": "0x0"},
    }
    raw.error("cpu", "bad_value", "cr", cpu=1, cr={"1": "0x12", "13": "far"})
    assert raw.cpu(1) == settings


def test_instructions_are_any_cpus_own(raw: Host) -> None:
    raw.cpu(2, running=True, problem_state=True)
    assert raw.ok("insn", name="stfle", cpu=2)["cc"] == 0
    assert number(raw.ok("insn", name="stck", cpu=2)["tod"]) > 0


def test_the_clock_goes_on_with_requests_that_make_no_sense(raw: Host) -> None:
    before = raw.tod()
    for _ in range(10):
        raw.error("nonsense", "unknown_op")
    assert 11 <= raw.tod() - before <= 11 * 20 * 4096


def test_siblings_have_one_clock(s390: Any) -> None:
    host = s390(hosts=2)
    assert 0 < host.sibling(1).tod() - host.tod() <= 20 * 4096 or host.tod() < host.sibling(1).tod()


# -- the workbench ----------------------------------------


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"components": []}, "bad_value", "components"),
        ({"components": [{}]}, None, "components"),
        ({"components": [{"gaddr": 0}]}, "bad_value", "components"),
        ({"components": [{"gaddr": 0, "len": 1, "hex": "00"}]}, "bad_value", "components"),
        ({"components": [{"gaddr": 0, "len": 1, "colour": 1}]}, "bad_value", "components"),
        (
            {"components": [{"gaddr": 0, "len": PAGE + 1}, {"gaddr": PAGE, "len": 1}]},
            "bad_value",
            "components",
        ),
        ({"components": [{"gaddr": 0, "len": 1 << 40}]}, "limit", "components"),
        ({"components": [{"gaddr": 0, "len": 1}], "psw": "00"}, "bad_value", "psw"),
        ({"components": [{"gaddr": 0, "len": 1}], "pcf": "x"}, "bad_value", "pcf"),
        ({"components": [{"gaddr": 0, "len": 1}], "keys": "host"}, "bad_value", "keys"),
    ],
    ids=str,
)
def test_an_image_that_cannot_be_built_is_refused(
    raw: Host, fields: Json, code: str | None, field: str
) -> None:
    body = raw.keyboard.error("image", **fields)
    assert body["code"] == code or (code is None and body["code"] in ("bad_value", "bad_request"))
    assert body["field"] == field


def test_an_image_has_as_many_slots_as_keys(raw: Host) -> None:
    for keys in ([], ["host"], ["other", "host"]):
        header = Image.build(raw, keys=keys).header
        assert int.from_bytes(header[0x20:0x28], "big") == len(keys)
        assert len(header) == 0x1A0 + 80 * len(keys) + 128 + 16


def test_the_start_psw_decides_in_which_state_the_guest_starts(host: Host) -> None:
    """A PSW with the problem-state bit (15): what the guest does first is refused by its own CPU."""
    guest = SecureGuest.create(host)
    guest.load(Image.build(host, psw="0001000180000000" + "0000000000010000")).start()
    left = guest.run({"exit": "diag", "code": "0x44"}, {"exit": "diag", "code": "0x44"})
    assert left.code == 0x6C
    assert left.steps == [{"pgm": "0x02"}, {}]


def test_plaintext_components_are_left_as_they_are(host: Host) -> None:
    """Section 4, plaintext control flag 35."""
    image = Image.build(host, pcf=hex(1 << (63 - 35)))
    assert image.pages[0][2].startswith(b"this is page 0")
    guest = SecureGuest.create(host).load(image).start()
    assert guest.fetch(IMAGE_AT, 14) == b"this is page 0"


# -- the end, and looking ----------------------------------------


def test_a_killed_hosts_cpus_are_as_at_start(host: Host) -> None:
    host.use_home()
    host.cpu(1, running=True, problem_state=True, prefix="0x4000", cr={"1": "0x103"})
    assert host.ok("kill") == {}
    host.forget()
    for cpu in range(3):
        settings = host.cpu(cpu)
        assert settings.pop("running") is (cpu == 0)
        zero = {"1": "0x0", "7": "0x0", "13": "0x0"}
        assert settings == {"problem_state": False, "dat": False, "prefix": "0x0", "cr": zero}


def test_the_audit_has_its_kinds_and_nothing_that_leaks(host: Host, guest: SecureGuest) -> None:
    guest.secure_page(FREE)
    guest.share(FREE).done()
    host.call("pin", paddr=guest.space.target(FREE)).done()
    audit = host.audit()
    assert set(audit) == {"hosts", "leaks"}
    assert audit["leaks"] == []
    (mine,) = audit["hosts"]
    assert set(mine) == {"tracked", "te", "donated_pages", "secure_pages"}
    assert mine["te"] == {"configs": 1, "cpus": 1, "pins": 1, "shared_pages": 1}
    if host.depth:
        assert set(mine["tracked"]) == TRACKED
        assert {kind: mine["tracked"][kind] for kind in KINDS} == mine["te"]
        assert mine["tracked"]["shadow_blocks"] >= 1
        assert mine["tracked"]["shadow_tables"] >= 1


def test_counts_name_what_was_issued_and_received(host: Host, guest: SecureGuest) -> None:
    host.ok("counts")
    guest.back(FREE)
    guest.convert_to(FREE).done()
    guest.convert_to(FREE)
    guest.run({"exit": "diag", "code": "0x9c"})
    host.fault("read", addr=hex(guest.plan["base"]), len=8)
    host.uvc(uvcb("share"))
    counts = host.ok("counts")
    counts.pop("machine")
    assert counts == {
        "uvc": {"convert_to_secure": 2, "0x1000": 1},
        "sie": {"enter": 1},
        "exits": {"0x6c": 1},
        "pgm": {"secure-storage-access": 1},
    }


def test_counts_of_a_host_are_its_own(s390: Any) -> None:
    host = s390(hosts=2)
    sibling = host.sibling(1)
    host.init()
    sibling.ok("counts")
    host.query()
    counts = sibling.ok("counts")
    assert set(counts) <= {"machine"}


def test_a_parked_call_survives_requests_to_others(s390: Any) -> None:
    """A sibling's call with the same id is another call."""
    host = s390(hosts=2)
    for one in (host, host.sibling(1)):
        one.init()
    blocks = [
        (one, one.alloc(), uvcb("create_config", **one.plan_config())) for one in (host, host.sibling(1))
    ]
    for one, at, block in blocks:
        one.write(at, block)
        request = {"id": "same", "op": "call", "r2": hex(at), "park": True, "host": one.which}
        assert host.keyboard.console.answer(request)["ok"] == {"parked": True}
    for one, at, block in reversed(blocks):
        one.cpu(1, running=True)
        assert one.uvc(block, 1).cc == BUSY
        assert one.resume("same", at, len(block)).cc == 0  # type: ignore[arg-type]


def test_a_read_of_memory_has_a_limit(raw: Host) -> None:
    assert len(raw.read(MIB, 4 * MIB)) == 4 * MIB
    raw.error("read", "limit", "len", addr=hex(MIB), len=4 * MIB + 1)


def test_large_areas_are_filled_and_zeroed(host: Host) -> None:
    area = host.alloc(16 * MIB)
    host.fill(area + 5, 8 * MIB, 0xA5)
    assert host.read(area + 5, 16) == b"\xa5" * 16
    assert host.read(area + 8 * MIB, 16) == b"\xa5" * 5 + bytes(11)
    host.fill(area + 3, 8 * MIB + 1, 0)
    assert host.read(area, 8) == bytes(8)
    assert host.read(area + 8 * MIB - 8, 24) == bytes(12) + b"\xa5" + bytes(11)


def test_a_fill_over_a_secure_page_fills_nothing(host: Host, guest: SecureGuest) -> None:
    area = host.alloc(64 * PAGE)
    guest.space.map(FREE, area + 40 * PAGE)
    guest.convert_to(FREE).done()
    host.fill(area, PAGE, 0x11)
    for byte in (0, 0x22):
        fault = host.fault("fill", addr=hex(area), len=64 * PAGE, byte=byte)
        assert (fault.code, fault.address, fault.write) == (SECURE, area + 40 * PAGE, True)
        assert host.read(area, PAGE) == b"\x11" * PAGE
