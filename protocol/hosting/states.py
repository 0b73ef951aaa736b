"""The life of a child, as a table: what is not in it cannot happen.

RESERVED, LOADING, STARTING, READY, STOPPING, STOPPED, RELEASED is the way of a child that lives and ends
well. FAILED keeps what a failed step left behind, ORPHANED is a grace time without a lease, LOST is a
record whose guest vanished. RELEASED is the end: the child's record becomes an exit record.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """The state of a child, as it stands on the wire."""

    RESERVED = "RESERVED"
    LOADING = "LOADING"
    STARTING = "STARTING"
    READY = "READY"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    RELEASED = "RELEASED"
    FAILED = "FAILED"
    ORPHANED = "ORPHANED"
    LOST = "LOST"


_END = {State.RELEASED}

LEGAL: Mapping[State, frozenset[State]] = {
    State.RESERVED: frozenset({State.LOADING, State.ORPHANED} | _END),
    State.LOADING: frozenset({State.STARTING, State.FAILED}),
    State.STARTING: frozenset({State.READY, State.FAILED, State.LOST}),
    State.READY: frozenset({State.STARTING, State.STOPPING, State.STOPPED, State.ORPHANED, State.LOST}),
    State.STOPPING: frozenset({State.STOPPED, State.ORPHANED, State.LOST}),
    State.STOPPED: frozenset({State.ORPHANED, State.LOST} | _END),
    State.FAILED: frozenset({State.ORPHANED, State.LOST} | _END),
    # Back to where it was, if the lease is renewed in time; else on to the end.
    State.ORPHANED: frozenset(
        {State.RESERVED, State.READY, State.STOPPING, State.STOPPED, State.FAILED, State.LOST} | _END
    ),
    State.LOST: frozenset(_END),
    State.RELEASED: frozenset(),
}

# What satisfies a wait for a state: the state itself, and what can only come after it.
REACHED: Mapping[State, frozenset[State]] = {
    State.READY: frozenset({State.READY}),
    State.STOPPED: frozenset({State.STOPPED, State.RELEASED}),
    State.RELEASED: frozenset({State.RELEASED}),
}

# States in which a wait for READY is hopeless.
PAST_READY = frozenset({State.STOPPING, State.STOPPED, State.RELEASED, State.FAILED, State.LOST})
