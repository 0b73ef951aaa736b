"""What a live process is at: calls in flight, parked handlers, locks and who holds them, who waits for whom.

A *picture* is a plain map of one actor or link, made without disturbing it. The wait-for tree is drawn from
them: an actor whose handler is parked waits for whoever performs the effect that it yielded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from actors.runtime.actor import Actor
from actors.runtime.link import Link

Picture = dict[str, Any]


def pictures(
    cast: Iterable[tuple[str, Actor]], locks: Iterable[tuple[str, str]], links: Mapping[str, Link]
) -> list[Picture]:
    """One picture of each actor that is at something, of each lock that is held, of each link."""
    found: list[Picture] = []
    for role, actor in cast:
        mailbox, _ = actor.statistics()
        parked = [{"for": str(owner), "waits_for": what} for owner, what in actor.under_way()]
        if parked or mailbox.depth or actor.dead is not None:
            found.append(
                {"actor": actor.name, "role": role, "queued": mailbox.depth, "parked": parked,
                 "dead": actor.dead is not None}
            )  # fmt: skip
    found += [{"lock": lock, "holder": holder} for holder, lock in locks]
    for peer, link in links.items():
        told = link.statistics()
        found.append(
            {"link": peer, "outstanding": told.outstanding, "held": told.held, "serving": told.serving}
        )
    return found


def as_text(by_process: Mapping[str, Sequence[Picture]]) -> str:
    """The wait-for tree of a deployment, for a person."""
    lines = []
    for process, found in by_process.items():
        lines.append(f"{process}: {'at rest' if not found else ''}".rstrip())
        for picture in found:
            lines += _lines(picture)
    return "\n".join(lines) + "\n"


def _lines(picture: Picture) -> list[str]:
    if "lock" in picture:
        return [f"  lock {picture['lock']} held by {picture['holder']}"]
    if "link" in picture:
        out, held, served = picture["outstanding"], picture["held"], picture["serving"]
        return [f"  link to {picture['link']}: {out} calls out, {held} held back, {served} served"]
    state = " dead" if picture["dead"] else ""
    lines = [f"  {picture['actor']} ({picture['role']}){state}: {picture['queued']} queued"]
    lines += [f"    for {each['for']}: waits for {each['waits_for']}" for each in picture["parked"]]
    return lines
