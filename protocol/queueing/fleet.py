"""Many machines at once: how long guests wait for what their machine has one of, for millions of them.

A machine is one L0 with everything under it, and machines share nothing, so a fleet is as many independent
queues. Guests arrive at each; what they need of the machine's narrowest resource they need in one piece. The
wait of each follows from that of the one before (Lindley's recursion), for all machines in one step of numpy;
time and memory grow with the guests, and no event is simulated. The engine says the same for one machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Waits:
    """Times of all guests of a fleet, in nanoseconds: from request to the end of the start."""

    guests: int
    mean_ns: float
    p50_ns: float
    p99_ns: float
    largest_ns: float
    last_ns: float  # when the last start ends


def started(
    machines: int,
    guests: int,  # of each machine
    held_ns: float,  # of the narrowest resource, for each guest
    alone_ns: float,  # of everything else
    between_ns: float,  # mean time between requests at a machine; 0: all at once
    random: np.random.Generator,
) -> Waits:
    """Every machine starts so many guests, one request after the other or all at once."""
    end = np.zeros(machines)  # when the resource is free
    now = np.zeros(machines)
    latency = np.empty((guests, machines))
    for number in range(guests):
        if between_ns:
            now += random.exponential(between_ns, machines)
        begun = np.maximum(now, end)
        end = begun + held_ns
        latency[number] = end - now + alone_ns
    flat = latency.reshape(-1)
    p50, p99 = (float(value) for value in np.percentile(flat, (50, 99)))
    return Waits(flat.size, float(flat.mean()), p50, p99, float(flat.max()), float((end + alone_ns).max()))
