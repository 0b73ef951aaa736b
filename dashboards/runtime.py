"""The emulator itself: its processes, actors, queues, links and supervisors. Nothing here is emulated."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as m

from actors.observe import metrics as f
from dashboards.parts import BYTES, COUNT, EACH_SECOND, Panel, Query, board, figure, lines, query

RATIO = "percentunit"


def runtime() -> m.Dashboard:
    """The dashboard."""
    return board(
        "nestbed-runtime",
        "nestbed: runtime",
        "The program that emulates: what waits, what works, what was started again. It says nothing about "
        "any emulated machine.",
        [
            (4, [(6, _processes()), (6, _folded()), (6, _restarts()), (6, _violations())]),
            (8, [(12, _actors()), (12, _in_flight())]),
            (8, [(12, _waiting()), (12, _fullest())]),
            (8, [(12, _frames()), (12, _calls())]),
            (8, [(12, _memory()), (12, _cpu())]),
        ],
        machines=False,
    )


def _sum(family: f.Family, by: str) -> Query:
    return query(f"sum by ({by}) ({family.sample})", " ".join(f"{{{{{name}}}}}" for name in by.split(", ")))


def _each_second(family: f.Family, by: str) -> Query:
    expression = f"sum by ({by}) (rate({family.sample}[$__rate_interval]))"
    return query(expression, " ".join(f"{{{{{name}}}}}" for name in by.split(", ")))


def _processes() -> Panel:
    text = "Processes of nestbed that are scraped now. Good: as many as were started."
    return figure(
        "Processes that answer", text, COUNT, query(f"count({f.BUILD.sample})", "processes", once=True)
    )


def _folded() -> Panel:
    text = "Values summed up under 'other' because a family had too many series. Good: 0."
    none = f"sum({f.FOLDED.sample}) or vector(0)"
    return figure("Values folded", text, COUNT, query(none, "folded", once=True))


def _restarts() -> Panel:
    text = (
        "Children that supervisors started again, counted up. Good: 0, or as many as were killed on purpose."
    )
    none = f"sum({f.RESTARTS.sample}) or vector(0)"
    return figure("Restarts", text, COUNT, query(none, "restarts", once=True))


def _violations() -> Panel:
    text = "Peers that broke the protocol, whose links were closed. Good: 0."
    none = f"sum({f.FRAME_ERRORS.sample}) or vector(0)"
    return figure("Violations by peers", text, COUNT, query(none, "violations", once=True))


def _actors() -> Panel:
    text = "Actors by role and state. Good: most of them idle, none dead while a run goes on."
    return lines("Actors", text, COUNT, _sum(f.ACTORS, "role, state"))


def _in_flight() -> Panel:
    text = "Handlers parked until the level below answers. Good: it goes back to 0 whenever nothing runs."
    return lines("Steps in flight", text, COUNT, _sum(f.IN_FLIGHT, "role"))


def _waiting() -> Panel:
    text = "Messages in the mailboxes of a role. Good: near 0; a rising line is an actor that is too slow."
    return lines("Messages waiting", text, COUNT, _sum(f.MAILBOX_DEPTH, "role"))


def _fullest() -> Panel:
    text = "How full the fullest mailbox of a role is. Good: far below 1; at 1 messages are refused."
    expression = f"max by (role) ({f.MAILBOX_FULLEST.sample})"
    return lines("Fullest mailbox", text, RATIO, query(expression, "{{role}}"))


def _frames() -> Panel:
    text = (
        "Frames over links to other processes. Good: the same both ways; none where one process does it all."
    )
    return lines(
        "Frames over links a second", text, EACH_SECOND, _each_second(f.LINK_FRAMES, "peer, direction")
    )


def _calls() -> Panel:
    text = "Calls on links that are not answered, by state. Good: below the window of the link, 0 at rest."
    return lines("Calls on links", text, COUNT, _sum(f.LINK_CALLS, "peer, state"))


def _memory() -> Panel:
    text = "Resident memory of each process. Good: flat while nothing is made; guests at rest cost kilobytes."
    expression = "process_resident_memory_bytes and on (instance, job) nestbed_build_info"
    return lines("Memory of processes", text, BYTES, query(expression, "{{part}} {{instance}}"))


def _cpu() -> Panel:
    text = "CPU time that each process uses, in CPUs. Good: at most 1: a process does its work in one thread."
    used = "rate(process_cpu_seconds_total[$__rate_interval]) and on (instance, job) nestbed_build_info"
    return lines("CPU time of processes", text, RATIO, query(used, "{{part}} {{instance}}"))
