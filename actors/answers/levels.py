"""(d) Several levels: a secure guest of a host that is a guest of a host that is a guest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from actors.answers import runs as r
from actors.answers.page import Grid, Page
from actors.compare.answer import duration
from actors.compare.outcome import Json
from protocol.cost.recursion import Recursion, found

SCENARIO = "levels"
DEPTHS = (1, 2, 3, 4)
FITTED = 2  # the law is set by so many depths; what it says about the others is a prediction
BOOT = ("boot",)
ASKED = ("host_setup", "create", "destroy")  # where a hosted guest's owner asks for something
TOUCHED = 64
HOSTED = {"relayed": "each level passes it on", "flat": "everybody asks L0"}


def levels() -> Page:
    """The page."""
    grown = []
    for arch in r.arches():
        exits = [_exits(arch, depth) for depth in DEPTHS]
        steps = [f"{deeper / less:.1f}" for less, deeper in pairwise(exits)]
        grown.append(f"{arch} {', '.join(steps[:-1])} and {steps[-1]} times")
    return Page(
        "d",
        "Several levels?",
        (
            "**It works, and every level multiplies.** Exits while a guest boots grow from each depth to the "
            "next, 1 to 4, by: "
            + "; ".join(grown)
            + ". A fault of the guest goes up through every level, and each level's call down through every "
            "level; what a hypervisor above L0 does to pass one on are exits again.",
            f"The exits of a guest that boots do not depend on depth where it is hosted. What its owner asks "
            f"for does, if each level passes a request to the one below: then a guest's creation takes "
            f"{_listed(_asked('relayed'))} exits; where L0 takes requests from any level it takes "
            f"{_listed(_asked('flat'))}. Hosting is the answer for depth, nesting one for the first level.",
        ),
        (_counted(), _law(), _requests(), _priced(), _formula()),
        (
            f"Nothing is run beyond depth {DEPTHS[-1]}. A real hypervisor above L0 takes more traps to "
            "handle an exit than the ones counted here, with which it issues and enters again.",
            "For depth 2 there is one published figure, a hypercall of an L3 guest on x86 (390 us); the "
            "level multiplier was set by it, so it agrees by construction. For secure guests nobody has "
            "published any.",
            "Priced counts and the formula are two models: the first prices every exit of the emulation "
            "as one exit of the machine, the second has a factor for each level. They are not to be "
            "added. In counts they are one: with a factor of 2 and no further traps the formula is the law "
            "of the second table.",
        ),
        (SCENARIO,),
    )


def _result(arch: str, depth: int, path: str = "nested", requests: str = "relayed") -> Json:
    return r.result(r.outcome(SCENARIO, arch=arch, depth=str(depth), strategy__requests=requests), arch, path)


def _exits(arch: str, depth: int, path: str = "nested") -> int:
    return r.counted(_result(arch, depth, path), "exits", BOOT)


def recursion(arch: str) -> Recursion:
    """The law of an architecture's boot: what the guest exits by itself, and depth 1 and 2, set it."""
    return found(_exits(arch, 1, "hosted"), *(_exits(arch, depth) for depth in DEPTHS[:FITTED]))


def _asked(requests: str) -> list[int]:
    """Exits of a hosted guest's creation, at every depth; the same on all architectures."""
    found = {
        tuple(r.counted(_result(arch, depth, "hosted", requests), "exits", ("create",)) for depth in DEPTHS)
        for arch in r.arches()
    }
    (exits,) = found
    return list(exits)


def _listed(numbers: Sequence[int]) -> str:
    if len(set(numbers)) == 1:
        return f"{numbers[0]} at each depth"
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _heads(first: str) -> tuple[str, ...]:
    return (first, *(f"depth {depth}" for depth in DEPTHS))


def _counted() -> Grid:
    rows = []
    for arch in r.arches():
        for path in ("nested", "hosted"):
            rows.append((f"{arch} {path}", *(f"{_exits(arch, depth, path):,}" for depth in DEPTHS)))
        calls = [f"{r.counted(_result(arch, depth), 'te_calls', BOOT):,}" for depth in DEPTHS]
        rows.append((f"{arch} nested, calls at every level", *calls))
    return Grid(
        _heads("exits at L0, boot"),
        rows,
        f"Counted message by message while a guest boots that touches {TOUCHED} pages.",
    )


def _law() -> Grid:
    rows = []
    for arch in r.arches():
        law = recursion(arch)
        rows.append(
            (
                arch,
                f"{law.exits:,}",
                f"{law.acts:,}",
                f"{law.between:,}",
                *(f"{law.at(depth):,}; {_exits(arch, depth):,}" for depth in DEPTHS[FITTED:]),
            )
        )
    predicted = (f"depth {depth}: law; counted" for depth in DEPTHS[FITTED:])
    return Grid(
        ("nested, boot", "exits of the guest", "acts of its host", "acts of each level between", *predicted),
        rows,
        "The same by law. At depth d an exit of the guest costs 2^d arrivals at L0, an act of its host "
        "2^d - 1, and an act of every hypervisor between 2^d - 1 - d. The guest's exits are those of the "
        "hosted guest, the other two are set by depth 1 and 2; depth 3 and 4 are predicted, then counted.",
    )


def _requests() -> Grid:
    rows = []
    for requests, words in HOSTED.items():
        for what, family in (("exits", "exits"), ("messages", "hosting")):
            phases = ASKED if family == "exits" else None
            cells = [
                f"{r.counted(_result('s390', depth, 'hosted', requests), family, phases):,}"
                for depth in DEPTHS
            ]
            rows.append((f"{words}: {what}", *cells))
    return Grid(
        _heads("s390 hosted, what the owner asks"),
        rows,
        "The requests of one hosted guest's life, its owner's greeting and image among them, counted in both "
        "ways (`strategy.requests`). VSOCK ends at the host one level down, so it is passed on; flat needs a "
        "device of L0's handed through every level.",
    )


def _priced() -> Grid:
    rows = []
    for arch in r.arches():
        for name, path, requests in (
            ("nested", "nested", "relayed"),
            ("hosted, passed on", "hosted", "relayed"),
            ("hosted, flat", "hosted", "flat"),
        ):
            cells = [r.spanned(r.modelled(_result(arch, depth, path, requests), r.LIFE)) for depth in DEPTHS]
            rows.append((f"{arch} {name}", *cells))
    return Grid(_heads("modelled life"), rows, "The same guest's whole life, priced exit by exit.")


def _formula() -> Grid:
    rows = []
    for arch in r.arches():
        model = r.formulas(arch)
        rows.append((f"{arch}, a page call", *(duration(model.page_call(depth)) for depth in DEPTHS)))
        rows.append((f"{arch}, a fault", *(duration(model.fault(depth)) for depth in DEPTHS)))
    model = r.formulas("tdx")
    rows.append(("x86, a null exit", *(duration(model.null_exit(depth + 1)) for depth in DEPTHS)))
    for name, relayed in (("hosted, everybody asks L0", False), ("hosted, each level passes it on", True)):
        rows.append((name, *(duration(model.hosted(depth, relayed)) for depth in DEPTHS)))
    return Grid(
        _heads("by formula"),
        rows,
        "In time, with a factor for each level; published for x86: 17.2 us at depth 1 and 390 us at depth 2, "
        "to which the factor was fitted.",
    )
