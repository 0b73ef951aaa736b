"""Random scripts give the same answers at depth 0, 1 and 2: a guest host cannot tell."""

from __future__ import annotations

from typing import Any

import pytest
from driver import Json, Keyboard, in_process
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pef_field import DEPTHS, HCALLS, MIB, PAGE, UCALLS, V2, GuestIds

LPIDS = (1, 2)
STOPS = [*HCALLS, "0xe00", "0xe20"]
VM_BYTES = 4 * MIB
GFNS = VM_BYTES // PAGE
MASK = (1 << 64) - 1

gfns = st.sampled_from([0, 1, 2, 3, 16, 17, 18, 19, 20, 21, 22, 57, 58, 60, 63, 64, 200])
gpas = gfns.map(lambda gfn: gfn * PAGE)
addresses = st.sampled_from([0x200000, 0x210000, 0x220000, 0x200800, 0, 1 << 48, 1 << 30])
orders = st.sampled_from([16, 16, 16, 16, 12])
lpids = st.sampled_from([*LPIDS, *LPIDS, 7])
vcpus = st.sampled_from([0, 0, 0, 1])
bytes8 = st.binary(min_size=1, max_size=8)


def ucall(name: str, *arguments: int) -> Json:
    return {"op": "call", "r3": hex(UCALLS[name])} | {
        f"r{4 + n}": hex(value & MASK) for n, value in enumerate(arguments)
    }


def step_call(name: str, *arguments: int) -> Json:
    call = ucall(name, *arguments)
    del call["op"]
    return {"call": call}


by_hand = st.one_of(
    st.builds(lambda *a: ucall("PAGE_IN", a[0], a[1], a[2], 0, a[3]), lpids, addresses, gpas, orders),
    st.builds(lambda *a: ucall("PAGE_OUT", a[0], a[1], a[2], 0, a[3]), lpids, addresses, gpas, orders),
    st.builds(lambda *a: ucall("PAGE_INVAL", *a), lpids, gpas, orders),
    st.builds(
        lambda lpid, gpa, size, slot: ucall("REGISTER_MEM_SLOT", lpid, gpa, size, 0, slot),
        lpids,
        st.sampled_from([8 * MIB, 16 * MIB, 0, 64 * MIB + PAGE]),
        st.sampled_from([PAGE, 2 * MIB, 180 * MIB]),
        st.sampled_from([0, 1, 2, 512]),
    ),
    st.builds(lambda lpid, slot: ucall("UNREGISTER_MEM_SLOT", lpid, slot), lpids, st.sampled_from([0, 1, 5])),
    st.builds(lambda lpid: ucall("SVM_TERMINATE", lpid), lpids),
    st.builds(
        lambda lpid, dw1: ucall("WRITE_PATE", lpid, 0, dw1), st.sampled_from([7, 9]), st.integers(0, 9)
    ),
    st.builds(lambda spr, value: ucall("RESTRICTED_SPR_WRITE", spr, value), st.sampled_from([0xB4, 1]), gfns),
    st.builds(lambda spr: ucall("RESTRICTED_SPR_READ", spr), st.sampled_from([0xB4, 0x352])),
)

guest_steps = st.one_of(
    st.builds(lambda gpa, at: {"touch": hex(gpa + at)}, gpas, st.sampled_from([0, 8, PAGE - 4])),
    st.builds(lambda gpa, data: {"touch": hex(gpa), "write": True, "value": data.hex()}, gpas, bytes8),
    st.builds(lambda gpa: {"fetch": hex(gpa)}, gpas),
    st.builds(lambda gfn, n: step_call("SHARE_PAGE", gfn, n), gfns, st.integers(0, 3)),
    st.builds(lambda gfn, n: step_call("UNSHARE_PAGE", gfn, n), gfns, st.integers(0, 3)),
    st.just(step_call("UNSHARE_ALL_PAGES")),
    st.builds(lambda r4, r5: step_call("ESM", r4, r5), st.sampled_from([0, 1 << 20]), gpas),
    st.just("esm"),  # the real one
    st.builds(
        lambda number, r4: {"hcall": {"r3": hex(number), "r4": hex(r4)}},
        st.sampled_from([0x1234, 0xE0, 0x300, 0xF000, 0xEF00, 0xF804]),
        gpas,
    ),
    st.builds(lambda vector: {"exit": hex(vector)}, st.sampled_from([0x500, 0x980, 0xE80, 0xF80, 0xE40])),
)

requests = st.one_of(
    by_hand,
    *[
        st.builds(
            lambda vm, vcpu, do: {"op": "guest", "vm": vm, "vcpu": vcpu, "do": do},
            st.sampled_from(LPIDS),
            vcpus,
            st.lists(guest_steps, min_size=1, max_size=4),
        )
    ]
    * 3,
    *[
        st.builds(
            lambda vm, vcpu, stop: {"op": "enter", "vm": vm, "vcpu": vcpu, "stop": stop},
            st.sampled_from(LPIDS),
            vcpus,
            st.lists(st.sampled_from(STOPS), max_size=2, unique=True),
        )
    ]
    * 4,
    st.builds(
        lambda vm, r3, r4: {"op": "enter", "vm": vm, "vcpu": 0, "gpr": {"r3": hex(r3 & MASK), "r4": hex(r4)}},
        st.sampled_from(LPIDS),
        st.sampled_from([0, -4, -9]),
        gfns,
    ),
    st.builds(
        lambda r0, more: {"op": "call", "r3": "0xf11c", "r0": hex(r0 & MASK)} | more,
        st.sampled_from([0, 0, -4]),
        st.sampled_from([{}] * 9 + [{"hsrr0": "0x300"}] * 3 + [{"hsrr0": "0x301"}, {"r31": 5}]),
    ),
    st.builds(
        lambda lpidr, pidr: {"op": "cpu", "lpidr": lpidr, "pidr": pidr},
        st.sampled_from(LPIDS),
        st.integers(0, 1),
    ),
    st.builds(
        lambda vm, gpa: {"op": "read", "space": f"vm:{vm}", "addr": hex(gpa), "len": 16},
        st.sampled_from(LPIDS),
        gpas,
    ),
    st.builds(
        lambda vm, gpa, data: {"op": "write", "space": f"vm:{vm}", "addr": hex(gpa), "hex": data.hex()},
        st.sampled_from(LPIDS),
        gpas,
        bytes8,
    ),
    st.builds(
        lambda vm, number, gpa, flags, srr1: {
            "op": "hcall",
            "vm": vm,
            "vcpu": 0,
            "r3": hex(number),
            "r4": hex(gpa),
            "r5": flags,
            "r6": 16,
            "srr1": srr1,
        },
        st.sampled_from(LPIDS),
        st.sampled_from(list(HCALLS.values())),
        gpas,
        st.integers(0, 2),
        st.sampled_from([0, 0x400000]),
    ),
    st.builds(
        lambda vm, name: {"op": "kvm", "name": name, "vm": vm},
        st.sampled_from(LPIDS),
        st.sampled_from(["KVM_PPC_SVM_OFF", "KVM_PPC_SVM_OFF", "KVM_CREATE_VM", "close"]),
    ),
    st.builds(
        lambda vm, slot, gpa, size: {
            "op": "kvm",
            "name": "KVM_SET_USER_MEMORY_REGION",
            "vm": vm,
            "slot": slot,
            "gpa": gpa,
            "size": size,
        },
        st.sampled_from(LPIDS),
        st.integers(0, 2),
        st.sampled_from([0, VM_BYTES, 12 * MIB]),
        st.sampled_from([0, MIB, VM_BYTES]),
    ),
)


def prepared(depth: int, api: str, second: bool) -> tuple[Keyboard, dict[int, Json]]:
    """A host with two VMs that could become secure; the second one has done so if `second`."""
    console = in_process("pef", depth, profile="guest-ids" if api == V2 else "small", memory_mib=64)
    keyboard = GuestIds(console, depth) if api == V2 else Keyboard(console, depth)
    esm = {}

    def do(op: str, **fields: Any) -> Json:
        body: Json = keyboard.ask(op, **fields)["ok"]
        return body

    for lpid in LPIDS:
        do(op="kvm", name="KVM_CREATE_VM", vm=lpid)
        do(op="kvm", name="KVM_SET_USER_MEMORY_REGION", vm=lpid, slot=0, gpa=0, size=VM_BYTES)
        for vcpu in (0, 1):
            do(op="kvm", name="KVM_CREATE_VCPU", vm=lpid, vcpu=vcpu)
        do(op="kvm", name="KVM_ENABLE_CAP", vm=lpid, cap="KVM_CAP_PPC_SECURE_GUEST")
        at = do(op="load", vm=lpid, at=hex(MIB), kernel=PAGE, initrd=PAGE, cmdline="")
        esm[lpid] = {"call": {"r3": "0xf110", "r4": at["kernel"], "r5": at["fdt"]}}
    if second:
        do(op="guest", vm=2, vcpu=0, do=[esm[2]])
        do(op="enter", vm=2, vcpu=0)
    return keyboard, esm


def play(depth: int, api: str, second: bool, script: list[Json]) -> list[Json]:
    """Every answer, then what the host can see of its books and of its counts."""
    keyboard, esm = prepared(depth, api, second)
    answers = []
    for request in script:
        steps = [esm[request["vm"]] if step == "esm" else step for step in request.get("do", ())]
        answers.append(keyboard.ask(**request | ({"do": steps} if steps else {})))
    audit = keyboard.ask("audit")
    if "ok" in audit:
        assert audit["ok"]["leaks"] == [], audit
    counts = keyboard.ask("counts")
    if "ok" in counts:
        del counts["ok"]["machine"]
    return [*answers, audit, counts]


@pytest.mark.slow
@given(st.booleans(), st.lists(requests, min_size=1, max_size=25))
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_random_script_is_answered_alike(second: bool, script: list[Json]) -> None:
    answered_alike("v1", second, script)


@pytest.mark.slow
@given(st.booleans(), st.lists(requests.filter(lambda request: not picks(request)), min_size=1, max_size=25))
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_so_is_one_where_the_level_below_picks_the_lpids(second: bool, script: list[Json]) -> None:
    answered_alike(V2, second, script)


def picks(request: Json) -> bool:
    """Does the host write an entry for an LPID of its own choice? In API v2 there is none."""
    return request["op"] == "call" and request["r3"] == hex(UCALLS["WRITE_PATE"])


def answered_alike(api: str, second: bool, script: list[Json]) -> None:
    """As on the machine, whose hypervisor picks its LPIDs itself."""
    first = play(0, "v1", second, script)
    for depth in DEPTHS[1:]:
        other = play(depth, api, second, script)
        for request, one, two in zip([*script, "audit", "counts"], first, other, strict=True):
            for answer in (one, two) if api == V2 else ():
                answer.get("error", {}).pop("message", None)  # it may name a VM by its LPID
            assert one == two, f"depth {depth}, {api}: {request}"
