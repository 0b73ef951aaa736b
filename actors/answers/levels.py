"""(d) Several levels: a secure guest of a host that is a guest of a host that is a guest."""

from __future__ import annotations

from actors.answers import runs as r
from actors.answers.page import Grid, Page
from actors.compare.answer import duration

SCENARIO = "levels"
DEPTHS = (1, 2, 3)
BY_FORMULA = (1, 2, 3, 4)
BOOT = ("boot",)
TOUCHED = 64


def levels() -> Page:
    """The page."""
    grown = []
    for arch in r.arches():
        exits = [_exits(arch, depth, "nested") for depth in DEPTHS]
        grown.append(f"{arch} {exits[1] / exits[0]:.1f} and {exits[2] / exits[1]:.1f} times")
    return Page(
        "d",
        "Several levels?",
        (
            "**It works, and every level multiplies.** Exits while a guest boots, from depth 1 to 2 and "
            "from 2 to 3: "
            + "; ".join(grown)
            + ". A fault of the guest goes up through every level, and each level's call down through every "
            "level; what a hypervisor above L0 does to pass one on are exits again.",
            "Hosting stays flat where every host can ask L0 itself, and grows by one request with each "
            "level where each passes it on. It is the answer for depth; nesting is one for the first "
            "level.",
        ),
        (_counted(), _priced(), _formula()),
        (
            "Depth 4 is by formula: compositions here end at depth 3.",
            "For depth 3 there is one published figure, a hypercall on x86 (390 us); the level "
            "multiplier was set by it, so it agrees by construction. For secure guests nobody has "
            "published any.",
            "Priced counts and the formula are two models: the first prices every exit of the emulation "
            "as one exit of the machine, the second has a factor for each level. They are not to be "
            "added.",
        ),
        (SCENARIO,),
    )


def _exits(arch: str, depth: int, path: str) -> int:
    return r.counted(r.result(r.outcome(SCENARIO, arch=arch, depth=str(depth)), arch, path), "exits", BOOT)


def _counted() -> Grid:
    rows = []
    for arch in r.arches():
        for path in ("nested", "hosted"):
            cells = [f"{_exits(arch, depth, path):,}" for depth in DEPTHS]
            rows.append((f"{arch} {path}", *cells))
        calls = []
        for depth in DEPTHS:
            result = r.result(r.outcome(SCENARIO, arch=arch, depth=str(depth)), arch, "nested")
            calls.append(f"{r.counted(result, 'te_calls', BOOT):,}")
        rows.append((f"{arch} nested, calls at every level", *calls))
    return Grid(
        ("exits at L0, boot", *(f"depth {depth}" for depth in DEPTHS)),
        rows,
        f"Counted message by message while a guest boots that touches {TOUCHED} pages.",
    )


def _priced() -> Grid:
    rows = []
    for arch in r.arches():
        for path in ("nested", "hosted"):
            cells = []
            for depth in DEPTHS:
                result = r.result(r.outcome(SCENARIO, arch=arch, depth=str(depth)), arch, path)
                cells.append(r.spanned(r.modelled(result, r.LIFE)))
            rows.append((f"{arch} {path}", *cells))
    return Grid(
        ("modelled life", *(f"depth {depth}" for depth in DEPTHS)),
        rows,
        "The same guest's whole life, priced exit by exit.",
    )


def _formula() -> Grid:
    rows = []
    for arch in r.arches():
        model = r.formulas(arch)
        rows.append((f"{arch}, a page call", *(duration(model.page_call(depth)) for depth in BY_FORMULA)))
        rows.append((f"{arch}, a fault", *(duration(model.fault(depth)) for depth in BY_FORMULA)))
    model = r.formulas("tdx")
    rows.append(("x86, a null exit", *(duration(model.null_exit(depth + 1)) for depth in BY_FORMULA)))
    for name, relayed in (("hosted, everybody asks L0", False), ("hosted, each level passes it on", True)):
        rows.append((name, *(duration(model.hosted(depth, relayed)) for depth in BY_FORMULA)))
    return Grid(
        ("by formula", *(f"depth {depth}" for depth in BY_FORMULA)),
        rows,
        "With a factor for each level; published for x86: 17.2 us at depth 1 and 390 us at depth 2, to "
        "which the factor was fitted.",
    )
