"""Which processes a deployment has, and which of it one instance of a platform runs.

A part is one process. Its name is its path: `l0-1` is a machine, `l0-1.l1-0` the process of its first L1,
`load` drives all of them. A machine comes before its L1s, and the load comes last; they go in reverse.

A platform that places whole machines (a StatefulSet, an Indexed Job, SLURM) runs equal instances, numbered
0 to count - 1: the instance of rank r runs the machines r, r + count, ... with everything on them. A shard
is never split between instances, because L1's memory is mapped by its L0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.deployment.settings import Deployment

RANKS = 1 << 16


class Role(Enum):
    """What a process is for."""

    MACHINE = "machine"  # a Trusted Entity, L0's KVM and its broker; together: its L1s as well
    HOSTS = "hosts"  # an L1 and what runs on it
    LOAD = "load"


@dataclass(frozen=True, slots=True)
class Part:
    """One process."""

    name: str
    role: Role
    machine: int = -1  # which L0, -1 for the load
    host: int = -1  # which of its L1s


def machine_name(machine: int) -> str:
    return f"l0-{machine}"


def parts_of(deployment: Deployment, l1s: int) -> tuple[Part, ...]:
    """The processes, in the order in which they start; `l1s` of each machine."""
    found = []
    for machine in range(deployment.machines):
        found.append(Part(machine_name(machine), Role.MACHINE, machine))
        if deployment.placement == "apart":
            found += [
                Part(f"{machine_name(machine)}.l1-{host}", Role.HOSTS, machine, host) for host in range(l1s)
            ]
    if deployment.load is not None:
        found.append(Part("load", Role.LOAD))
    return tuple(found)


def machines_of(rank: int, count: int, machines: int) -> range:
    """The machines of the instance `rank` of `count`."""
    return range(rank, machines, count)


class NoRank(ValueError):
    """The platform's numbers make no sense; the message says which and what is allowed."""


@dataclass(frozen=True, slots=True)
class Rank:
    """Which instance of how many this is. `source` says who told."""

    rank: int
    count: int
    source: str


# Who tells the rank and the count, in the order in which they are asked.
_RANKS = (
    ("NESTBED_RANK", "NESTBED_COUNT"),
    ("JOB_COMPLETION_INDEX", "NESTBED_COUNT"),  # a Kubernetes Indexed Job
    ("SLURM_PROCID", "SLURM_NTASKS"),
)
_ORDINAL = re.compile(r".*-(\d+)$")


def rank_of(rank: int | None, count: int | None, environment: Mapping[str, str]) -> Rank:
    """The rank from the flags, else from the environment, else the only one of one.

    A pod of a StatefulSet has its ordinal in its name (`POD_NAME`) or in `POD_INDEX`. Raises NoRank.
    """
    if rank is not None:
        return _checked(rank, _count(count, environment, "--rank"), "--rank")
    for name, count_name in _RANKS:
        if name in environment:
            number = _number(name, environment[name])
            given = count if count is not None else environment.get(count_name)
            if given is None:
                raise NoRank(
                    f"{name} is {number}, and nothing says of how many: give --count or {count_name}"
                )
            return _checked(number, _number(count_name, str(given)), name)
    for name in ("POD_INDEX", "POD_NAME"):
        if name in environment:
            return _checked(_ordinal(name, environment[name]), _count(count, environment, name), name)
    return _checked(0, 1 if count is None else count, "alone")


def _ordinal(name: str, text: str) -> int:
    if name == "POD_INDEX":
        return _number(name, text)
    found = _ORDINAL.match(text)
    if found is None:
        raise NoRank(f"{name} is {text[:80]!r}; allowed: the name of a StatefulSet's pod, like nestbed-0")
    return int(found[1])


def _count(count: int | None, environment: Mapping[str, str], who: str) -> int:
    if count is not None:
        return count
    if "NESTBED_COUNT" in environment:
        return _number("NESTBED_COUNT", environment["NESTBED_COUNT"])
    raise NoRank(f"{who} tells the rank, and nothing says of how many: give --count or NESTBED_COUNT")


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise NoRank(f"{name} is {text[:80]!r}; allowed: a whole number, 0 to {RANKS}")
    return int(text)


def _checked(rank: int, count: int, source: str) -> Rank:
    if not 1 <= count <= RANKS:
        raise NoRank(f"a count of {count}; allowed: 1 to {RANKS}")
    if not 0 <= rank < count:
        raise NoRank(f"rank {rank} ({source}) of {count}; allowed: 0 to {count - 1}")
    return Rank(rank, count, source)
