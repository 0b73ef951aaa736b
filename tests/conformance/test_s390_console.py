"""The keyboard itself: the contract's examples, memory, CPUs, instructions, complaints."""

from __future__ import annotations

from typing import Any

import pytest
from s390_blocks import ADDRESSING, GIB, MIB, PAGE, uvcb
from s390_field import Host

INIT_OF_THE_EXAMPLE = (
    "0048000f0000000000000000000000000000000000000000000000008000000000000000002000000000000000000000"
    "000000000000000000000000000000000000000000000000"
)


def test_the_examples_of_the_contract_give_the_answers_of_the_contract(raw: Host) -> None:
    assert raw.ok("alloc", len=4096) == {"addr": "0x100000"}
    assert raw.ok("write", addr="0x100000", hex="01200001") == {}
    assert raw.ok("call", r2="0x100000") == {"cc": 0}
    assert raw.ok("read", addr="0x100040", len=8) == {"hex": "0000000000200000"}
    where = {"len": "0x200000", "align": "0x100000", "above": "0x80000000"}
    assert raw.ok("alloc", **where) == {"addr": "0x80000000"}
    assert raw.ok("write", addr="0x100000", hex=INIT_OF_THE_EXAMPLE) == {}
    assert raw.ok("call", r2="0x100000") == {"cc": 0}
    assert raw.get(0x100004, 2) == 0x0001


def test_info_tells_the_machine(raw: Host) -> None:
    info = raw.ok("info")
    assert (info["arch"], info["depth"], info["hosts"]) == ("s390", raw.depth, 1)
    assert (info["memory"], info["cpus"]) == (2200 * MIB, 3)
    assert (info["page_size"], info["profile"]) == (PAGE, "small")
    assert info["te"]["ram_end"] == hex(2200 * MIB)
    assert info["te"]["uv"] is True
    assert 158 in info["te"]["facilities"]
    assert 161 not in info["te"]["facilities"]


def test_info_tells_the_options(s390: Any) -> None:
    info = s390(profile="full", cpus=2).ok("info")
    assert (info["memory"], info["cpus"], info["hosts"], info["profile"]) == (4096 * MIB, 2, 1, "full")
    info = s390(memory_mib=64, hosts=2).ok("info")
    assert (info["memory"], info["te"]["ram_end"], info["hosts"]) == (64 * MIB, hex(64 * MIB), 2)


@pytest.mark.parametrize("name", [None, "seven", 7, "0x7", 1.5, [1, {"two": 2}]], ids=repr)
def test_any_id_comes_back_as_it_was(raw: Host, name: object) -> None:
    answer = raw.keyboard.console.answer({"id": name, "op": "info"})
    assert answer["id"] == name
    assert "ok" in answer


# -- alloc and free ----------------------------------------


def test_alloc_never_gives_out_the_first_mib(raw: Host) -> None:
    assert raw.alloc() >= MIB
    raw.error("alloc", "limit", len=PAGE, below=hex(MIB))


def test_alloc_keeps_to_align_above_and_below(raw: Host) -> None:
    assert raw.alloc(PAGE, align=16 * MIB) % (16 * MIB) == 0
    high = raw.alloc(3 * PAGE, above=2 * GIB)
    assert high >= 2 * GIB
    low = raw.alloc(MIB, above=5 * MIB, below=6 * MIB)
    assert low == 5 * MIB
    raw.error("alloc", "limit", len=PAGE, above=hex(5 * MIB), below=hex(6 * MIB))


def test_an_area_lies_wholly_below_its_limit(raw: Host) -> None:
    raw.error("alloc", "limit", len=2 * PAGE, above=hex(8 * MIB), below=hex(8 * MIB + PAGE))
    raw.error("alloc", "limit", len=2 * PAGE, above=hex(2200 * MIB - PAGE))
    raw.error("alloc", "limit", len=hex(4096 * MIB))


def test_what_alloc_gives_is_nobodys_else_and_zero(raw: Host) -> None:
    areas = [(raw.alloc(length), length) for length in (1, PAGE, 3 * PAGE, 8, MIB)]
    pages = [page for origin, length in areas for page in range(origin, origin + length, PAGE)]
    assert len(pages) == len(set(pages))
    for origin, length in areas:
        assert origin % PAGE == 0
        assert raw.read(origin, length) == bytes(length)
        raw.fill(origin, length, 0xAA)
    for origin, _ in areas:
        raw.free(origin)
    again = raw.alloc(MIB)
    assert raw.read(again, MIB) == bytes(MIB)


def test_only_what_was_given_can_be_freed_and_only_once(raw: Host) -> None:
    area = raw.alloc(2 * PAGE)
    raw.error("free", "bad_value", addr=hex(area + PAGE))
    raw.error("free", "bad_value", addr="0x0")
    raw.free(area)
    raw.error("free", "bad_value", addr=hex(area))


@pytest.mark.parametrize("kind", ["modified-clear", "load-normal", "load-clear"])
def test_the_book_of_alloc_survives_a_reset(raw: Host, kind: str) -> None:
    first = raw.alloc()
    raw.reset(kind)
    assert raw.alloc() != first
    raw.free(first)


def test_the_book_of_alloc_does_not_survive_a_kill(raw: Host) -> None:
    first, second = raw.alloc(), raw.alloc()
    raw.write(first, b"remember")
    assert raw.ok("kill") == {}
    raw.error("free", "bad_value", addr=hex(second))
    assert raw.alloc() == first
    assert raw.read(first, 8) == bytes(8)


# -- read, write, fill ----------------------------------------


def test_memory_keeps_what_is_written(raw: Host) -> None:
    page = raw.alloc(2 * PAGE)
    raw.write(page + PAGE - 3, b"across")
    assert raw.read(page + PAGE - 3, 6) == b"across"
    raw.fill(page + PAGE, 16, 0x5A)
    assert raw.read(page + PAGE - 3, 20) == b"acr" + b"\x5a" * 16 + b"\0"
    assert raw.ok("fill", addr=hex(page), len=2 * PAGE) == {}
    assert raw.read(page, 2 * PAGE) == bytes(2 * PAGE)


def test_numbers_may_be_strings_or_numbers(raw: Host) -> None:
    assert raw.ok("write", addr=MIB, hex="c0de") == {}
    assert (
        raw.ok("read", addr="0x100000", len="0x2") == raw.ok("read", addr=1048576, len=2) == {"hex": "c0de"}
    )


@pytest.mark.parametrize("back", [0, 4, 8], ids=["behind", "across", "last"])
def test_memory_ends_with_an_addressing_exception(raw: Host, back: int) -> None:
    end = 2200 * MIB
    if back == 8:
        raw.write(end - 8, b"the last")
        assert raw.read(end - 8, 8) == b"the last"
        return
    for op, fields in (("read", {"len": 8}), ("write", {"hex": "ee" * 8}), ("fill", {"len": 8, "byte": 1})):
        fault = raw.fault(op, addr=hex(end - back), **fields)
        assert (fault.code, fault.write) == (ADDRESSING, op != "read")
    assert raw.read(end - 8, 8) == bytes(8), "a refused store stores nothing"


def test_real_addresses_have_the_prefix_applied(raw: Host) -> None:
    lowcore = raw.alloc(2 * PAGE, align=2 * PAGE)
    raw.cpu(0, prefix=hex(lowcore))
    raw.write(lowcore + 0x10, b"prefix area")
    raw.write(0x10, b"absolute 0 ")
    assert raw.read(0x10, 11, space="real") == b"prefix area"
    assert raw.read(lowcore + 0x10, 11, space="real") == b"absolute 0 "
    assert raw.read(0x10, 11, space="real", cpu=1) == b"absolute 0 "
    raw.write(0x1FF8, b"real sto", space="real")
    assert raw.read(lowcore + 0x1FF8, 8) == b"real sto"
    raw.fill(0x20, 4, 0x77, space="real")
    assert raw.read(lowcore + 0x20, 4) == b"\x77" * 4


@pytest.mark.parametrize("dat", [False, True], ids=["dat_off", "dat_on"])
def test_home_space_is_walked_whether_dat_is_on_or_off(raw: Host, dat: bool) -> None:
    """Section 8.4: the host's own tables, written with plain stores, serve its home space."""
    raw.use_home()
    raw.cpu(0, dat=dat)
    page = raw.page_of(0x11)
    virtual = raw.to_home(page)
    raw.write(virtual + 8, b"by home", space="home")
    assert raw.read(page + 8, 7) == b"by home"
    assert raw.read(virtual, 16, space="home") == raw.read(page, 16)
    assert raw.read(page, 16, space="phys") == raw.read(page, 16)


def test_home_space_belongs_to_a_cpu(raw: Host) -> None:
    raw.use_home()
    virtual = raw.to_home(raw.page_of(0x22))
    assert raw.read(virtual, 4, space="home") == b"\x22" * 4
    assert "fault" in raw.ask("read", addr=hex(virtual), len=4, space="home", cpu=1)


# -- CPUs and instructions ----------------------------------------


def test_at_start_cpu_0_runs_and_the_others_are_stopped(raw: Host) -> None:
    for cpu in range(3):
        assert raw.cpu(cpu) == {
            "running": cpu == 0,
            "problem_state": False,
            "dat": False,
            "prefix": "0x0",
            "cr": {"1": "0x0", "7": "0x0", "13": "0x0"},
        }


def test_each_setting_of_a_cpu_stands_alone(raw: Host) -> None:
    raw.cpu(1, running=True)
    raw.cpu(1, cr={"13": "0x1234103"})
    raw.cpu(1, dat=True)
    assert raw.cpu(1, prefix="0x200000") == {
        "running": True,
        "problem_state": False,
        "dat": True,
        "prefix": "0x200000",
        "cr": {"1": "0x0", "7": "0x0", "13": "0x1234103"},
    }
    assert raw.cpu(2)["running"] is False


def test_a_stopped_cpu_issues_nothing(raw: Host) -> None:
    page = raw.alloc()
    raw.write(page, uvcb("query"))
    raw.error("call", "bad_value", cpu=1, r2=hex(page))
    raw.error("insn", "bad_value", cpu=1, name="stck")
    raw.error("enter", "bad_value", cpu=1, vcpu=hex(page))
    assert raw.read(page, 0x120) == uvcb("query")
    raw.cpu(1, running=True)
    assert raw.ok("call", cpu=1, r2=hex(page)) == {"cc": 0}


def test_the_facility_list_offers_ultravisor_calls_and_no_unpack(raw: Host) -> None:
    """Section 1: facility 158 is the Ultravisor's, 161 that of a guest that may become secure."""
    answer = raw.ok("insn", name="stfle")
    assert answer["cc"] == 0
    bits = int(answer["facilities"], 16)
    width = len(answer["facilities"]) * 4
    facilities = [bit for bit in range(width) if bits >> (width - 1 - bit) & 1]
    assert 158 in facilities and 161 not in facilities
    assert facilities == raw.ok("info")["te"]["facilities"]


def test_the_clock_goes_forward_with_every_request_and_not_far(raw: Host) -> None:
    first = raw.tod()
    second = raw.tod()
    assert 1 <= second - first <= 20 * 4096
    raw.page_of(0)
    assert 3 <= raw.tod() - second <= 3 * 20 * 4096


# -- complaints ----------------------------------------


@pytest.mark.parametrize("op", ["", "Alloc", "call ", "shutdown", "__class__"], ids=repr)
def test_an_unknown_op_is_called_so(raw: Host, op: str) -> None:
    raw.error(op, "unknown_op")


@pytest.mark.parametrize("request_", [{"id": 1}, {"id": 1, "op": None}, {"id": 1, "op": 5}], ids=repr)
def test_a_request_without_an_op_is_a_bad_request(raw: Host, request_: dict[str, Any]) -> None:
    answer = raw.keyboard.console.answer(request_)
    assert answer["id"] == 1
    assert answer["error"]["code"] in ("bad_request", "unknown_op")


@pytest.mark.parametrize(
    ("op", "fields", "field"),
    [
        ("alloc", {"len": "many"}, "len"),
        ("alloc", {"len": -1}, "len"),
        ("alloc", {"len": 0}, "len"),
        ("alloc", {"len": 1.5}, "len"),
        ("alloc", {"len": True}, "len"),
        ("alloc", {"len": [1]}, "len"),
        ("alloc", {"len": PAGE, "align": 3 * PAGE}, "align"),
        ("alloc", {"len": PAGE, "align": 0}, "align"),
        ("read", {"addr": "12", "len": 8}, "addr"),
        ("read", {"addr": "0xzz", "len": 8}, "addr"),
        ("read", {"addr": "0x100000", "len": -8}, "len"),
        ("read", {"addr": hex(1 << 64), "len": 8}, "addr"),
        ("read", {"addr": "0x100000", "len": 8, "space": "moon"}, "space"),
        ("write", {"addr": "0x100000", "hex": "abc"}, "hex"),
        ("write", {"addr": "0x100000", "hex": "xy"}, "hex"),
        ("write", {"addr": "0x100000", "hex": 7}, "hex"),
        ("fill", {"addr": "0x100000", "len": 8, "byte": 256}, "byte"),
        ("fill", {"addr": "0x100000", "len": 8, "byte": -1}, "byte"),
        ("call", {"r2": "0x100000", "cpu": 3}, "cpu"),
        ("call", {"r2": "0x100000", "cpu": -1}, "cpu"),
        ("call", {"r2": "0x100000", "host": 1}, "host"),
        ("call", {"r2": "everywhere"}, "r2"),
        ("call", {"r2": "0x100000", "m3": 16}, "m3"),
        ("call", {"r2": "0x100000", "park": "yes"}, "park"),
        ("insn", {"name": "halt"}, "name"),
        ("cpu", {"cpu": 0, "running": 1}, "running"),
        ("cpu", {"cpu": 0, "cr": {"2": "0x0"}}, "cr"),
        ("cpu", {"cpu": 0, "cr": "0x0"}, "cr"),
        ("reset", {"kind": "gentle"}, "kind"),
        ("enter", {"vcpu": "first"}, "vcpu"),
        ("resume", {"call": "never asked"}, "call"),
        ("image", {"components": "kernel"}, "components"),
        ("image", {"components": [{"gaddr": "0x10001", "len": 1}]}, None),
        ("image", {"components": [{"gaddr": "0x10000", "len": 1}], "keys": ["theirs"]}, "keys"),
        ("guest", {"vcpu": "0x100000", "do": "work"}, "do"),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_a_bad_value_is_named_and_changes_nothing(
    raw: Host, op: str, fields: dict[str, Any], field: str
) -> None:
    raw.write(MIB, b"\xee" * 16)
    raw.error(op, "bad_value", field, **fields)
    assert raw.read(MIB, 16) == b"\xee" * 16
    assert raw.alloc() == MIB, "a refused request allocated something"


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("alloc", {}),
        ("free", {}),
        ("read", {"addr": "0x0"}),
        ("write", {"addr": "0x0"}),
        ("write", {"hex": "00"}),
        ("fill", {"addr": "0x0"}),
        ("call", {}),
        ("insn", {}),
        ("enter", {}),
        ("guest", {"vcpu": "0x0"}),
        ("resume", {}),
        ("reset", {}),
        ("image", {}),
    ],
    ids=str,
)
def test_a_request_that_lacks_a_field_is_refused(raw: Host, op: str, fields: dict[str, Any]) -> None:
    """The contract does not say by which of the two codes."""
    body = raw.keyboard.error(op, **fields)
    assert body["code"] in ("bad_request", "bad_value"), body


def test_counts_are_what_the_host_issued_since_the_last_reset(raw: Host) -> None:
    raw.query()
    raw.ok("counts", reset=True)
    empty = raw.ok("counts", reset=False)
    raw.query()
    once = raw.ok("counts", reset=False)
    raw.query()
    raw.query()
    thrice = raw.ok("counts")
    assert total(thrice) == 3 * total(once) > 0
    assert total(empty) == 0
    assert total(raw.ok("counts")) == 0


def total(counts: Any) -> int:
    """The sum of every number of what this host issued and received."""
    if isinstance(counts, dict):
        return sum(total(value) for name, value in counts.items() if name != "machine")
    return int(counts) if isinstance(counts, (int, float)) else 0
