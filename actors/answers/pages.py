"""(b) Page management: two faults, merged in L1 or in L0, or asked for ahead in batches."""

from __future__ import annotations

from actors.answers import runs as r
from actors.answers.page import Grid, Page
from actors.compare.answer import duration
from protocol.plan.scenario import Strategy, kind_of

SCENARIO = "page-policies"
BOOT = ("load", "boot")
FORMULA = {"two_fault": "two_fault", "merged_l1": "merged", "prefault": "prefault"}
MORE = {
    "guest__memory_mib": "5",
    "guest__image_pages": "16",
    "guest__touch_pages": "1248",
    "run__swap_pages": "0",
}  # a guest that touches all that it has, for asking ahead brings in all of it


def pages() -> Page:
    """The page."""
    policies = kind_of(Strategy, "pages").one_of or ()
    rows, worth = [], []
    for arch in r.arches():
        base = 0
        for policy in policies:
            why = r.refused(SCENARIO, arch=arch, strategy__pages=policy, **MORE)
            if why:
                rows.append((f"{arch} {policy}", "-", "-", "-", why))
                continue
            result = r.result(
                r.outcome(SCENARIO, arch=arch, paths="nested", strategy__pages=policy, **MORE), arch, "nested"
            )
            touched = int(MORE["guest__touch_pages"])
            exits, reflected = (r.counted(result, family, BOOT) for family in ("exits", "reflections"))
            time = r.modelled(result, BOOT)
            base = base or exits
            rows.append(
                (
                    f"{arch} {policy}",
                    f"{exits / touched:.2f}",
                    f"{reflected / touched:.2f}",
                    duration(time["ns"] / touched),
                    f"{100 - 100 * exits / base:.0f} % fewer exits" if exits < base else "",
                )
            )
            if exits < base:
                worth.append(f"{policy} {base / max(exits, 1):.1f} times fewer on {arch}")
    return Page(
        "b",
        "How should a nested guest's pages become secure?",
        (
            "**Ahead, and in batches where the guest host may know of it.** Exits of load and boot against "
            "two faults a page: " + "; ".join(worth) + ".",
            "The call itself is cheap to emulate: what costs is that every fault arrives at L0, goes up "
            "to the guest host, comes back as a call, and goes in again. Merging in L1 needs no new "
            "interface, nor does asking ahead on SEV-SNP and TDX: the guest host makes the same calls before "
            "its guest runs, each still an exit. On s390 merging in L0 and asking ahead change what a guest "
            "host may call itself, so they are enlightenments and off by default; there one call asks for "
            "all pages, which is why so few exits are left.",
        ),
        (
            Grid(
                ("nested, load and boot", "exits a page", "reflections a page", "modelled a page", ""),
                rows,
                "Counted from the first page of an image of 16 pages to the last of 1,024 that the "
                "guest touches; what is asked for ahead is asked for when the image is loaded. On PEF a "
                "page of the ultravisor has 64 KiB, and all of a guest becomes secure as it enters "
                "secure mode. Where an architecture lacks a policy, its line says why.",
            ),
            _by_formula(),
        ),
        (
            "A host that swaps under pressure meets both faults again, whatever the policy at boot.",
            "Asking ahead brings in pages that the guest may never touch, and here touches all.",
        ),
        (SCENARIO,),
    )


def _by_formula() -> Grid:
    rows = []
    for arch in r.arches():
        for path in ("nested", "hosted"):
            cells = []
            for policy in FORMULA.values():
                values = [
                    r.formulas(arch, which).boot_page(path, policy) for which in ("value", "low", "high")
                ]
                cells.append(r.ranged([value / 1000 for value in values], " us"))
            rows.append((f"{arch} {path}", *cells))
    return Grid(
        ("by formula, a page", "two faults", "merged in L1", "asked ahead"),
        rows,
        "The same by the formulas of the cost sheet, for all architectures whether they have it or not "
        "(PEF: 64 KiB).",
    )
