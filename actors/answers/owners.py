"""(c) A guest host reboots or dies with K guests running."""

from __future__ import annotations

from actors.answers import runs as r
from actors.answers.page import Grid, Page
from actors.compare.answer import duration
from protocol.cost.formulas import GIB

SCENARIO = "owner-loss"
REBOOT = ("owner_reboot",)
GUESTS = (1, 2, 4)
LARGE, VCPUS = 8, 4  # guests of 4 GiB, by formula
WHOLE = frozenset({"pef"})  # whose Trusted Entity ends a guest with its pages, in one call


def owner_loss() -> Page:
    """The page."""
    waits = _waiting()
    factors = []
    for arch in r.arches():
        dead, live = (r.formulas(arch).reboot(LARGE, 4 * GIB, live) for live in (False, True))
        factors.append(f"{arch} {live / dead:.1f}")
    return Page(
        "c",
        "What if a guest host reboots, or dies, with its guests running?",
        (
            "**L0 cleans up alone, and the order decides what it costs.** The guest host makes no call; "
            "L0 walks its own tables and makes one real call for each guest, CPU and page. Where guests "
            "are destroyed first and their pages taken back when they are dead, that is cheaper than "
            "taking pages from guests that live, by "
            "the factor " + ", ".join(factors) + ".",
            waits[0],
            "A death is a reboot after which nobody comes back: the same calls, and nobody waits.",
        ),
        (_counts(), _sizes(), waits[1]),
        (
            "Memory of guests whose teardown goes on behind the guest host's back is not free before it "
            "is done: a host that starts the same guests at once needs up to twice their memory, which "
            "is the last table.",
        ),
        (SCENARIO,),
    )


def _counts() -> Grid:
    rows = []
    for arch in r.arches():
        for path in ("nested", "hosted"):
            cells = []
            for guests in GUESTS:
                result = r.result(r.outcome(SCENARIO, arch=arch, guest__per_l1=str(guests)), arch, path)
                calls = r.counted(result, "te_issued", REBOOT)
                cells.append(f"{calls:,} in {duration(r.modelled(result, REBOOT)['ns'])}")
            rows.append((f"{arch} {path}", *cells))
    return Grid(
        ("real calls, modelled time", *(f"K = {guests}" for guests in GUESTS)),
        rows,
        "A sudden reboot with K guests of 128 pages each, counted.",
    )


def _sizes() -> Grid:
    rows = []
    for arch in r.arches():
        cells = []
        for live in (False, True):
            values = [
                r.formulas(arch, which).reboot(LARGE, 4 * GIB, live) / 1e9
                for which in ("value", "low", "high")
            ]
            cells.append(r.ranged(values, " s"))
        parallel = r.formulas(arch).reboot(LARGE, 4 * GIB, False, workers=8, serial=_serial(arch)) / 1e9
        waits = [r.formulas(arch, which).waits(LARGE, VCPUS) for which in ("value", "low", "high")]
        apart = arch not in WHOLE  # pages that can be left for later
        rows.append(
            (
                arch,
                *cells,
                f"{parallel:.3g} s",
                r.spanned(dict(zip(r.SPAN, waits, strict=True))) if apart else "-",
            )
        )
    return Grid(
        (
            f"{LARGE} guests of 4 GiB, {VCPUS} CPUs",
            "pages of dead guests",
            "pages of living guests",
            "dead, 8 workers",
            "left for later: the host waits",
        ),
        rows,
        "The same by formula, for guests as they are; of eight workers' time a share stays serial (TDX: "
        "derived; others: a tenth, assumed). Left for later, the host waits for guests to be marked and "
        f"CPUs to end alone, and then {4 * LARGE} GiB are in use twice until L0 has done the rest: peak "
        f"{8 * LARGE} GiB. On PEF one call ends a guest with its pages, so nothing can be left.",
    )


def _serial(arch: str) -> float:
    return r.costs().factor("tdx", "secure_serial_fraction").value if arch == "tdx" else 0.1


def _waiting() -> tuple[str, Grid]:
    """Before the host comes back, or behind its back."""
    rows: list[tuple[str, ...]] = []
    waited: dict[str, dict[str, str]] = {}
    for arch in r.arches():
        for how in ("sync", "async"):
            why = r.refused(SCENARIO, arch=arch, strategy__teardown=how)
            if why:
                rows.append((f"{arch} {how}", "-", "-", why))
                continue
            settings = {"arch": arch, "guest__per_l1": str(GUESTS[-1])}
            if how != "sync":
                settings |= {"strategy__teardown": how}
            result = r.result(r.outcome(SCENARIO, **settings), arch, "nested")
            left = result["counts"].get("teardown.left_over.l1_reboot", 0)
            held = result["counts"].get("teardown.page.l1_reboot", 0)
            took = duration(r.modelled(result, REBOOT)["ns"])
            rows.append((f"{arch} {how}", took, f"{left:,} of {held:,}", _double(left, held)))
            waited.setdefault(arch, {})[how] = took
    both = [
        f"{each['async']} instead of {each['sync']} on {arch}"
        for arch, each in waited.items()
        if len(each) == 2
    ]
    return (
        "A guest host need not wait for its pages: torn down behind its back, its reboot waits for guests "
        f"and CPUs alone ({', '.join(both)}, with {GUESTS[-1]} guests). Where that is not built, its line "
        "says why, and the formula what it would save.",
        Grid(
            ("teardown", "the host waits", "pages left over", "memory if the guests start anew at once"),
            rows,
            "Before the host comes back (sync) or behind its back (async), modelled from the counts of "
            "4 guests.",
        ),
    )


def _double(left: int, held: int) -> str:
    return f"{1 + left / held:.1f} times what they have" if held else "-"
