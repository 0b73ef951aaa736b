"""What happened in a service so far, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Statistics:
    """What happened so far: a look that changes nothing."""

    messages: Mapping[str, int]  # by type
    refusals: Mapping[str, int]  # by name of the error
    lookups: Mapping[str, int]  # hit, miss, denied
    replays: Mapping[str, int]  # same, conflict
    leases: Mapping[str, int]  # renewed, expired
    teardowns: Mapping[str, int]  # by cause
    image_bytes: int  # that came
    channel_bytes: Mapping[str, int]  # sent to children, received from them
    channel_wait_s: Mapping[str, float]  # that what was sent or received waited for room
    channel_resets: Mapping[str, int]  # by cause
    channels: Mapping[str, int]  # now: offered, open
    channel_limits: Mapping[str, int]  # of one requester, of the host
    channels_refused: int  # because there was no room for one more
    strays: int  # guests of the machine without a record, still to be ended
    children: Mapping[str, int]  # that are not released, by state
