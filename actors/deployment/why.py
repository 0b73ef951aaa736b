"""What a live process is at: calls in flight, parked handlers, locks and who holds them, who waits for whom.

A *picture* is a plain map of one actor or link, made without disturbing it. The wait-for tree is drawn from
those of all processes (`actors.deployment.waits`): an actor whose handler is parked waits for whoever
performs the effect that it yielded, if need be at the other end of a link.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from actors.deployment.behind import behind
from actors.deployment.waits import Picture, tree
from actors.runtime.actor import Actor, InFlight
from actors.runtime.link import Link
from actors.runtime.port import Deliver
from actors.runtime.tracing import context_of

UNTOLD = ("part",)  # the supervisor's renewals, and the question that is being answered


def pictures(
    cast: Iterable[tuple[str, Actor]],
    locks: Iterable[tuple[str, str]],
    links: Mapping[str, Link],
    no_locks: Mapping[str, str] | None = None,
) -> list[Picture]:
    """One picture of each actor that is at something, of each lock that is held, of each link.

    And of each architecture here whose calls lock nothing, with the reason.
    """
    found: list[Picture] = []
    names = {id(link): peer for peer, link in links.items()}
    for role, actor in cast:
        mailbox, _ = actor.statistics()
        parked = [_step(step, names) for step in actor.under_way()]
        if parked or mailbox.depth or actor.dead is not None:
            found.append(
                {"actor": actor.name, "role": role, "queued": mailbox.depth, "parked": parked,
                 "dead": actor.dead is not None}
            )  # fmt: skip
    found += [{"lock": lock, "holder": holder} for holder, lock in locks]
    found += [{"no_locks": arch, "reason": reason} for arch, reason in (no_locks or {}).items()]
    for peer, link in links.items():
        told = link.statistics()
        found.append(
            {"link": peer, "outstanding": told.outstanding, "held": told.held, "serving": told.serving,
             "calls": [_call(*call) for call in link.calls() if call[1] not in UNTOLD],
             "serves": [{"call": n, "target": target} for n, target in link.serves() if target not in UNTOLD]}
        )  # fmt: skip
    return found


def as_text(by_process: Mapping[str, Sequence[Picture]]) -> str:
    """The wait-for tree of a deployment, for a person."""
    lines = []
    for process, found in by_process.items():
        at_rest = all("no_locks" in picture for picture in found)
        lines.append(f"{process}: {'at rest' if at_rest else ''}".rstrip())
        for picture in found:
            lines += _lines(picture)
    waits = tree(by_process)
    if waits:
        lines += ["who waits for whom:", *(f"  {line}" for line in waits)]
    return "\n".join(lines) + "\n"


def _step(step: InFlight, links: Mapping[int, str]) -> Picture:
    """A parked handler. `serves` is the number of a step here, or a link and the number of its call."""
    served = behind(step.deliver)
    serves: int | list[object] | None = None
    if isinstance(served, InFlight):
        serves = id(served)
    elif served is not None:
        serves = [links.get(id(served[0]), ""), served[1]]
    return {"step": id(step), "for": str(step.owner), "waits_for": step.waits_for(), "serves": serves}


def _call(number: int, target: str, deliver: Deliver) -> Picture:
    waiting = behind(deliver)
    trace = context_of(deliver)
    return {
        "call": number,
        "target": target,
        "step": id(waiting) if isinstance(waiting, InFlight) else None,
        "trace": "" if trace is None else trace.trace_id.hex(),
    }


def _lines(picture: Picture) -> list[str]:
    if "lock" in picture:
        return [f"  lock {picture['lock']} held by {picture['holder']}"]
    if "no_locks" in picture:
        return [f"  no locks on {picture['no_locks']}: {picture['reason']}"]
    if "link" in picture and picture["link"].startswith("control ") and not picture["serving"]:
        return []
    if "link" in picture:
        out, held, served = picture["outstanding"], picture["held"], picture["serving"]
        return [f"  link to {picture['link']}: {out} calls out, {held} held back, {served} served"]
    state = " dead" if picture["dead"] else ""
    lines = [f"  {picture['actor']} ({picture['role']}){state}: {picture['queued']} queued"]
    lines += [f"    for {each['for']}: waits for {each['waits_for']}" for each in picture["parked"]]
    return lines
