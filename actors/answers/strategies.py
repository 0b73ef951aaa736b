"""(f) Handles passed on or mapped; (g) donated memory taken, bounded, or left."""

from __future__ import annotations

from functools import partial

import trio

from actors.answers import runs as r
from actors.answers.page import Grid, Page
from actors.compare.answer import duration
from actors.compare.paths import stage
from actors.compare.stage import Parts
from actors.runtime.actor import open_runtime
from actors.scenario import load as scenario_of
from protocol.arch import load
from protocol.ledger import Ledger
from protocol.plan.operations import Create
from protocol.plan.workload import workload

WORDS = {"handles": ("passed", "mapped"), "donation": ("full", "bounded", "off")}
GIVEN = 4
HANDLES = ("handle", "lpid", "asid")  # stages of translation that are about one


def handles() -> Page:
    """Page (f)."""
    rows, more = [], []
    for arch in r.arches():
        times = {}
        for word in WORDS["handles"]:
            why = r.refused("handles", arch=arch, strategy__handles=word)
            if why:
                rows.append((f"{arch} {word}", "-", "-", "-", f"not possible: {why}"))
                continue
            result = r.result(r.outcome("handles", arch=arch, strategy__handles=word), arch, "nested")
            translated = sum(result["counts"].get(f"translations.{name}", 0) for name in HANDLES)
            times[word] = r.modelled(result, r.LIFE)["ns"]
            cells = (f"{r.counted(result, 'te_calls'):,}", f"{translated:,}", duration(times[word]), "")
            rows.append((f"{arch} {word}", *cells))
        if len(times) == 2:
            more.append(f"{arch} {100 * (times['mapped'] / times['passed'] - 1):.1f} %")
    return Page(
        "f",
        "Handles passed on, or mapped?",
        (
            "**Passed on, where the architecture lets a hypervisor choose.** Mapping costs a look-up in "
            "each call that names a guest or a CPU and nothing else: in modelled time "
            + ", ".join(more)
            + " more. The check whose "
            "handle it is has to be made either way, so passing handles on saves no safety; a mapped "
            "handle hides from a guest host how many guests others have, and nothing it could not find "
            "out otherwise.",
        ),
        (Grid(("nested", "calls", "handles translated", "modelled life", ""), rows),),
        (
            "Where a handle is an address (TDX, SEV-SNP) it is translated like any other: there is "
            "nothing to choose.",
            "On PEF the choice is that of the nested interface: version 2 gives out LPIDs (passed), "
            "version 1 leaves them to the guest host (mapped) and carries all registers with each "
            "entry, which is most of the difference.",
        ),
        ("handles",),
    )


def donations() -> Page:
    """Page (g)."""
    rows, fewer = [], {}
    for arch in r.arches():
        for word in WORDS["donation"]:
            why = r.refused("donations", arch=arch, strategy__donation=word)
            if why:
                rows.append((f"{arch} {word}", "-", "-", "-", why))
                continue
            result = r.result(r.outcome("donations", arch=arch, strategy__donation=word), arch, "nested")
            ns = r.modelled(result, r.LIFE)["ns"]
            before, after = trio.run(partial(_free, arch, word))
            fewer[arch, word] = before - after
            rows.append(
                (f"{arch} {word}", f"{r.counted(result, 'exits'):,}", duration(ns), f"{before - after:,}", "")
            )
    return Page(
        "g",
        "What if a host's donations are not taken away?",
        (
            "**Then L0 pays for them.** The Trusted Entity needs memory for each guest; on s390 L0 "
            f"gives its own, and with full donation takes the guest host's in exchange: {GIVEN} guests "
            f"leave its pool {fewer['s390', 'full']} pages smaller, and {fewer['s390', 'off']} pages "
            "without. Bounded, the guest host loses the memory but L0 cannot use it; off, nobody loses "
            "it and nothing limits how many guests a guest host creates but L0's own pool, which it "
            "empties for all others.",
            "None of the three costs a guest host more exits or time than another: it is about who owns "
            "the memory.",
        ),
        (
            Grid(
                ("nested", "exits", "modelled life", f"pages that L0 has fewer with {GIVEN} guests", ""),
                rows,
                "The last column is L0's pool before and after the guests are created.",
            ),
        ),
        (
            "A guest host that goes on reading what it has donated would not be stopped with off; none "
            "here does.",
        ),
        ("donations",),
    )


async def _free(arch_name: str, word: str) -> tuple[int, int]:
    """Free frames of L0's pool before the guests of a host are created, and after."""
    scenario = scenario_of("donations", flags={"arch": arch_name, "strategy.donation": word}).scenario
    arch = load(arch_name)
    assert arch.comparison is not None
    image = arch.comparison.image(scenario.seed, scenario.guest.image_pages, None)
    plan = workload(scenario, "nested")
    async with open_runtime() as runtime, trio.open_nursery() as nursery:
        parts = Parts(
            arch_name, scenario, arch.comparison, Ledger(arch.comparison.prices.entry), runtime, image
        )
        staged = await stage(parts, plan, 1, nursery)
        host = plan.hosts[0]
        for act in host.phases["host_setup"]:
            await staged.perform(0, act)
        pool = staged.rig.chain[0].pool
        before = pool.free
        for act in host.phases["create"]:
            assert isinstance(act, Create)
            await staged.perform(0, act)
        after = pool.free
        await staged.close()
        nursery.cancel_scope.cancel()
    return before, after
