"""What the talk said, held against what was counted.

Each claim is judged `by` construction (it follows from the call table), by emulation (from the counts of
this run) or by model. A claim that does not hold is a result; one that this run cannot judge has no
verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from actors.compare.outcome import Json
from actors.compare.tables import labelled
from protocol.calls import CallSpec, Category, Treatment, less_emulation_higher_up
from protocol.tracking import PLANE_OF

HIGHER = tuple(category for category in Category if category is not Category.GUEST)  # the talk's order


@dataclass(frozen=True, slots=True)
class Run:
    """One architecture's results by path, and its call table."""

    arch: str
    calls: Sequence[CallSpec]
    paths: Mapping[str, Json]
    handles: str

    def sum(self, path: str, family: str, **wanted: str | Callable[[str], bool]) -> int:
        """Counts of a family whose labels are as wanted."""
        return self.sum_of(self.paths[path]["counts"], family, **wanted)

    @staticmethod
    def sum_of(counts: Mapping[str, Any], family: str, **wanted: str | Callable[[str], bool]) -> int:
        from protocol.ledger import FAMILIES

        names = FAMILIES[family][0]
        tests = [(names.index(label), value) for label, value in wanted.items()]
        return sum(
            n
            for labels, n in labelled(counts, family)
            if all(want(labels[at]) if callable(want) else labels[at] == want for at, want in tests)
        )

    def phase(self, path: str, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.paths[path]["phases"].get(name) or {}
        return found


Verdict = tuple[str, bool | None, Json]
Judge = Callable[[Run], Verdict | None]


def _above(level: str) -> bool:
    return level not in ("0", "guest")


def init_is_emulated(run: Run) -> Verdict | None:
    """The Trusted Entity is up already, so nothing of a guest host's set-up reaches it."""
    if "nested" not in run.paths:
        return None
    emulated = run.sum("nested", "te_calls", category="init", treatment="emulated")
    by_name = {spec.name for spec in run.calls if spec.category is Category.INIT}
    reached = run.sum("nested", "te_issued", call=by_name.__contains__, origin=_above)
    if not emulated and not reached:
        return None  # there is nothing to set up
    return "emulation", bool(emulated) and not reached, {"emulated": emulated, "reached the TE": reached}


def less_emulation_by_table(run: Run) -> Verdict | None:
    shares = dict(less_emulation_higher_up(run.calls))
    return (
        "construction",
        _never_rises(shares),
        _shown(shares),
    )


def less_emulation_by_calls(run: Run) -> Verdict | None:
    if "nested" not in run.paths:
        return None
    shares: dict[Category, float] = {}
    for category in HIGHER:
        all_of = run.sum("nested", "te_calls", category=category.value, origin=_above)
        emulated = run.sum(
            "nested", "te_calls", category=category.value, treatment=Treatment.EMULATED.value, origin=_above
        )
        if all_of:
            shares[category] = emulated / all_of
    return "emulation", _never_rises(shares), _shown(shares)


def _shown(shares: Mapping[Category, float]) -> Json:
    """Three digits that matter: a share that is next to nothing is not nothing."""
    return {str(name): float(f"{share:.3g}") for name, share in shares.items()}


def _never_rises(shares: Mapping[Category, float]) -> bool:
    values = [shares[category] for category in HIGHER if category in shares]
    return all(later <= earlier for earlier, later in pairwise(values))


def handles_pass_through(run: Run) -> Verdict | None:
    if "nested" not in run.paths or run.handles != "passed":
        return None
    mapped = run.sum("nested", "translations", stage="handle")
    calls = run.sum("nested", "te_calls", origin=_above)
    return "emulation", not mapped, {"calls": calls, "handles translated": mapped}


def page_requests_cost_an_exit(run: Run) -> Verdict | None:
    """Every page request is one more exit at least; on the direct path it is none."""
    if "nested" not in run.paths or "direct" not in run.paths:
        return None
    found = {}
    for path in ("direct", "nested"):
        boot = run.phase(path, "boot")
        pages = Run.sum_of(boot, "te_calls", category="memory")
        found[path] = (pages, boot.get("exits", 0))
    pages, nested = found["nested"]
    if not pages:
        return None
    more = nested - found["direct"][1]
    return "emulation", more >= pages, {"page requests at boot": pages, "more exits at boot": more}


def exceptions_are_injected(run: Run) -> Verdict | None:
    if "nested" not in run.paths:
        return None
    injected = run.sum("nested", "injections", kind=lambda kind: kind.startswith(("pgm", "fault", "exc")))
    return "emulation", injected > 0, {"exceptions injected into guest hosts": injected}


def reboot_needs_real_calls(run: Run) -> Verdict | None:
    """A guest host that reboots makes no call; the level below makes one for each entity and page."""
    if "nested" not in run.paths:
        return None
    items = run.sum("nested", "teardown", cause=lambda cause: cause.startswith("l1_"))
    if not items:
        return None
    phase = run.phase("nested", "owner_reboot")
    issued = Run.sum_of(phase, "te_issued")
    return "emulation", issued > 0, {"items released": items, "TE calls while rebooting": issued}


def hosting_costs_fewer_exits(run: Run) -> Verdict | None:
    if "nested" not in run.paths or "hosted" not in run.paths:
        return None
    nested, hosted = (_common(run, path) for path in ("nested", "hosted"))
    return "emulation", hosted < nested, {"exits nested": nested, "exits hosted": hosted}


def _common(run: Run, path: str) -> int:
    """Exits in the phases that both paths have."""
    both = [run.paths[name]["phases"] for name in ("nested", "hosted")]
    names = [name for name in run.paths[path]["phases"] if all(p.get(name, {}) is not None for p in both)]
    return sum((run.paths[path]["phases"][name] or {}).get("exits", 0) for name in names)


def hosting_keeps_more_kinds(run: Run) -> Verdict | None:
    """More kinds of records that L0 has to keep about its guest hosts."""
    if "nested" not in run.paths or "hosted" not in run.paths:
        return None
    found = {}
    for path in ("nested", "hosted"):
        updates = labelled(run.paths[path]["counts"], "tracking_updates")
        kinds = {kind for (kind, _, holder), _ in updates if holder == "l0"}
        found[path] = len({kind for kind in kinds if PLANE_OF.get(kind) == "control"})
    return "emulation", found["hosted"] > found["nested"], {f"control kinds {p}": n for p, n in found.items()}


def hosting_keeps_more_in_all(run: Run) -> Verdict | None:
    """More bytes, L0 and L1 taken together: the word "more tracking" read as a sum."""
    if "nested" not in run.paths or "hosted" not in run.paths:
        return None
    figures = {}
    for path in ("nested", "hosted"):
        tracking = run.paths[path].get("tracking") or {}
        figures[path] = sum(
            plane.get("bytes", 0) for planes in tracking.values() for plane in planes.values()
        )
    return (
        "emulation",
        figures["hosted"] > figures["nested"],
        {f"model bytes {path}": n for path, n in figures.items()},
    )


def donations_are_taken_away(run: Run) -> Verdict | None:
    donating = [spec.name for spec in run.calls if spec.donated]
    return "construction", bool(donating), {"calls that donate": len(donating)}


CLAIMS: tuple[tuple[str, Judge], ...] = (
    ("set-up of the Trusted Entity is emulated whole: it is up already", init_is_emulated),
    ("the higher the call, the less is emulated: by the call table", less_emulation_by_table),
    ("the higher the call, the less is emulated: by the calls that were made", less_emulation_by_calls),
    ("real handles can be passed on, so no call needs a handle map", handles_pass_through),
    ("every page request of a nested guest is at least one more exit", page_requests_cost_an_exit),
    ("memory exceptions have to be injected again into the guest host", exceptions_are_injected),
    ("memory that a guest host donates has to be tracked and taken away", donations_are_taken_away),
    ("a sudden reboot is cleaned up with real calls, none of them the guest host's", reboot_needs_real_calls),
    ("hosting costs fewer exits than nesting", hosting_costs_fewer_exits),
    ("hosting needs more host tracking: kinds of control records at L0", hosting_keeps_more_kinds),
    ("hosting needs more host tracking: bytes, L0 and L1 together", hosting_keeps_more_in_all),
)


def claims(arch: str, calls: Iterable[CallSpec], results: Sequence[Json], handles: str) -> list[Json]:
    """Every claim that this run can judge for one architecture."""
    run = Run(arch, tuple(calls), {result["path"]: result for result in results}, handles)
    found = []
    for text, judge in CLAIMS:
        verdict = judge(run)
        if verdict is not None:
            by, holds, figures = verdict
            found.append({"arch": arch, "claim": text, "by": by, "holds": holds, "figures": figures})
    return found
