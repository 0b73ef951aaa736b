"""(e) Migration of a secure host: refused, and what instead."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from actors.answers import runs as r
from actors.answers.page import Grid, Page
from actors.compare.answer import duration
from actors.scenario import load as scenario_of
from protocol.arch.sev.comparison import COMPARISONS
from protocol.arch.sev.compose import Rig, compose
from protocol.arch.sev.host.kinds import KINDS
from protocol.arch.sev.host.migrate import arrive, certificate, leave
from protocol.arch.sev.host.system import Host
from protocol.arch.sev.profiles import MIB
from protocol.cost.price import priced
from protocol.effects import run
from protocol.ledger import Ledger
from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES

SCENARIO = "impact"
RESTART = ("destroy", "create", "load", "boot")
FIRMWARE = {"snp": "boot_verifier"}
WAYS: Mapping[str, str] = {
    "s390": "cold restart: no call moves a configuration",
    "snp": "cold restart: the ABI has SWAP_OUT and SWAP_IN for each page and a migration agent, and no "
    "kernel issues them; legacy SEV guests are sent (below)",
    "tdx": "cold restart: the ABI has TDH.EXPORT.* and TDH.IMPORT.*, up to 512 pages a call, and no kernel "
    "issues them",
    "pef": "cold restart: the ultravisor has no call for it",
}
LEGACY, MEMORY_MIB, CPUS = "sev", 64, 2  # what can be sent, and the hosts that do it
DEPTHS = {0: "L0's own guest", 1: "nested guest"}
Moved = Mapping[str, Mapping[str, int]]


def migration() -> Page:
    """The page."""
    restarts = _restarts()
    moved = {depth: _moved(depth) for depth in DEPTHS}
    sent = {depth: r.added(sides["span"] for sides in found.values()) for depth, found in moved.items()}
    return Page(
        "e",
        "Can a secure host be migrated?",
        (
            "**No, on none of them; its guests can be started anew elsewhere, and legacy SEV guests can be "
            "sent.** A secure host's guests are bound to the Trusted Entity that runs them, and no emulation "
            "can change that. So L0 refuses to migrate it while it has any, and the way round is to create "
            "the host on the other machine and bring its guests there.",
            f"Down time of a guest of {_pages()} pages that is started cold on the other side: "
            + ", ".join(f"{arch} {duration(span['ns'])}" for arch, (_, span) in restarts.items())
            + f". A legacy SEV guest of as many pages that stands still while it is sent: "
            f"{duration(sent[1]['ns'])} nested, {duration(sent[0]['ns'])} on L0 itself. One command seals a "
            "page and one opens it; nested, each page that the firmware writes is handed to it and taken "
            "back as well, for below a nested host SNP is switched on.",
        ),
        (_cold(restarts), _sending(moved)),
        (
            "What a guest's own services need to come up is not in it, and neither is the network: an image "
            "or a guest's memory has to travel, too.",
            "Linux can send pages of a legacy guest while it runs; then it stands still for those alone that "
            "it changed last, and the figure is the most that it can take.",
            "For its guest host L0 opens each page and seals it anew, in software: that has no count, and no "
            "price.",
            "The ways of SNP and TDX that no kernel issues are not priced: nobody has published what their "
            "calls take.",
        ),
        (SCENARIO,),
    )


def _pages() -> int:
    guest = scenario_of(SCENARIO).scenario.guest
    return guest.image_pages + guest.touch_pages + guest.share_pages


def _restarts() -> dict[str, tuple[str, Mapping[str, float]]]:
    """Why each architecture refuses, and the time of a cold restart with its range."""
    outcome = r.outcome(SCENARIO)
    found: dict[str, tuple[str, Mapping[str, float]]] = {}
    for arch in r.arches():
        fence = next((each for each in r.fences(arch) if "migration of the" in each.what), None)
        refused = f"{fence.why}: {fence.instead}" if fence else "not offered"
        guests = scenario_of(SCENARIO).scenario.guest.per_l1
        time = r.modelled(r.result(outcome, arch, "nested"), RESTART)
        boot = [r.costs().of(arch, "vm_boot_base")]
        boot += [r.costs().of("snp", FIRMWARE[arch])] if arch in FIRMWARE else []
        found[arch] = (
            refused,
            {
                name: time[name] / guests + sum(getattr(cost, which) for cost in boot)
                for name, which in (("ns", "value"), ("low_ns", "low"), ("high_ns", "high"))
            },
        )
    return found


def _cold(restarts: Mapping[str, tuple[str, Mapping[str, float]]]) -> Grid:
    return Grid(
        ("", "refused because", "the way round", "down time, cold restart"),
        [
            (arch, refused, WAYS.get(arch, "cold restart"), r.spanned(span))
            for arch, (refused, span) in restarts.items()
        ],
        "Down time: the guest's end, its creation, load and boot as counted, and a kernel's boot from the "
        "table.",
    )


# -- legacy SEV: a guest travels between two emulated machines ---------------------------------------------


def _machine(depth: int, seed: int) -> tuple[Rig, Host]:
    """A machine of its own, with a host at a depth that runs legacy guests."""
    comparison = COMPARISONS[LEGACY]
    rig = compose(
        comparison.profiles["small"],
        depth,
        1,
        memory_bytes=MEMORY_MIB * MIB,
        cpus=CPUS,
        seed=seed,
        ledger=Ledger(comparison.prices.entry),
    )
    guest = scenario_of(SCENARIO).scenario.guest
    image = comparison.image(seed, guest.image_pages, None)
    seat = rig.seats[0]
    host = Host(seat.level, seat.cpus, Random(seed), depth=depth, image=image, kind=KINDS[LEGACY])
    run(host.perform(op.BootHost()))
    return rig, host


def _moved(depth: int) -> dict[str, Moved]:
    """Send a guest from one machine to another; what each side did: counts, and modelled time as `span`."""
    guest = scenario_of(SCENARIO).scenario.guest
    (here, source), (there, target) = _machine(depth, 1), _machine(depth, 2)
    touched = guest.touch_pages + guest.share_pages
    for act in (
        op.Create(0, guest.memory_mib, guest.vcpus),
        op.Load(0),
        op.Start(0),
        op.Touch(0, 0, op.Pages(FIRST_PAGES + guest.image_pages, touched, touched)),
    ):
        run(source.perform(act))
    peer = run(certificate(target))
    here.ledger.phase = there.ledger.phase = "move"
    run(arrive(target, 0, run(leave(source, 0, peer))))
    run(source.perform(op.Destroy(0)))
    prices = COMPARISONS[LEGACY].prices
    sides: dict[str, Moved] = {}
    for name, rig in (("source", here), ("target", there)):
        counts = rig.ledger.phases()["move"]
        span = priced(r.costs(), prices, depth + 1, {"move": counts})["phases"]["move"]
        sides[name] = {"counts": counts, "span": span}
    return sides


def _sending(moved: Mapping[int, Mapping[str, Moved]]) -> Grid:
    rows = []
    for depth, words in DEPTHS.items():
        for side, found in moved[depth].items():
            counts = found["counts"]
            rows.append(
                (
                    f"{words}, {side}",
                    f"{counts.get('exits', 0):,}",
                    f"{counts.get('te_issued', 0):,}",
                    r.spanned(found["span"]),
                )
            )
    return Grid(
        ("legacy SEV", "exits", "real calls", "modelled time"),
        rows,
        f"SEND and RECEIVE, run between two emulated machines: a guest of {_pages()} pages leaves one and "
        "goes on with its memory on the other. At the source its end is counted, too.",
    )
