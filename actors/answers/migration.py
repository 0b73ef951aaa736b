"""(e) Migration of a secure host: refused, and what instead."""

from __future__ import annotations

from collections.abc import Mapping

from actors.answers import runs as r
from actors.answers.page import Grid, Page
from actors.compare.answer import duration
from actors.scenario import load as scenario_of

SCENARIO = "impact"
RESTART = ("destroy", "create", "load", "boot")
FIRMWARE = {"snp": "boot_verifier"}
WAYS: Mapping[str, str] = {
    "s390": "cold restart of every guest: no call moves a configuration",
    "snp": "legacy SEV: SEND and RECEIVE (built in Linux); SNP: the ABI has it, no kernel issues it",
    "tdx": "the ABI has TDH.EXPORT and TDH.IMPORT, no kernel issues them; until then a cold restart",
    "pef": "cold restart of every guest: the ultravisor has no call for it",
}


def _pages() -> int:
    guest = scenario_of(SCENARIO).scenario.guest
    return guest.image_pages + guest.touch_pages + guest.share_pages


def migration() -> Page:
    """The page."""
    outcome = r.outcome(SCENARIO)
    rows, down = [], []
    for arch in r.arches():
        fence = next((each for each in r.fences(arch) if "migration of the" in each.what), None)
        refused = f"{fence.why}: {fence.instead}" if fence else "not offered"
        time = {name: ns / 2 for name, ns in r.modelled(r.result(outcome, arch, "nested"), RESTART).items()}
        boot = r.costs().of(arch, "vm_boot_base")
        firmware = r.costs().of("snp", FIRMWARE[arch]) if arch in FIRMWARE else None
        whole = {
            "ns": time["ns"] + boot.value + (firmware.value if firmware else 0),
            "low_ns": time["low_ns"] + boot.low + (firmware.low if firmware else 0),
            "high_ns": time["high_ns"] + boot.high + (firmware.high if firmware else 0),
        }
        rows.append((arch, refused, WAYS.get(arch, "cold restart"), r.spanned(whole)))
        down.append(f"{arch} {duration(whole['ns'])}")
    return Page(
        "e",
        "Can a secure host be migrated?",
        (
            "**No, on none of them; its guests can be started anew elsewhere.** A secure host's guests "
            "are bound to the Trusted Entity that runs them, and no emulation can change that. So L0 "
            "refuses to migrate it while it has any, and the way round is to create the host on the "
            "other machine and bring its guests there.",
            f"Down time of a guest of {_pages()} pages that is started cold on the other side: "
            + ", ".join(down)
            + ".",
        ),
        (
            Grid(
                ("", "refused because", "the way round", "down time, cold restart"),
                rows,
                "Down time: the guest's end, its creation, load and boot as counted, and a kernel's "
                "boot from the table.",
            ),
        ),
        (
            "What a guest's own services need to come up is not in it, and an image's way over the "
            "network neither.",
            "The ways that the ABIs of SEV and TDX have are not priced: nobody has published what they take.",
        ),
        (SCENARIO,),
    )
