"""Whole deployments in one process on simulated time, with faults, and checkers that look on.

Theory of operation. A *soak* of one seed is a row of *episodes*. Each builds a deployment anew from the seed
and its own number: a few machines (L0s) of different architectures with guest hosts at depth 1 or 2, each
running secure guests, some of the hosts hostile; and an L0 whose hosting service other hosts ask over a
network. A scheduler draws what goes on next: one message between levels, one message of the network, or a
fault. Nothing here needs a task, a clock or a socket: the generators of `protocol` are driven directly, so
that one seed is always the same run, and the hash of its trace says so.

  options    what a soak is asked for, and the kinds of faults
  island     an L0 with its guest hosts; how a host dies, and comes again
  living     what a host's software does, and what its guests must find in their memory
  hostile    a host that issues what it likes
  network    ordered pairs of hosts: loss, delay, duplicates, partitions, holding
  hosted     an L0 whose broker serves requesters; `requester` has these, and what they must see
  checks     what must hold: secrecy, books against truth, nothing left over
  episode    the scheduler
  isolation  the same victim with and without a hostile sibling
  run        episodes in a row, and the search for a smaller failure

Not covered here: processes, sockets and Trio's part of the house; tests of `actors` do that.
"""

from protocol.soak.options import KINDS, Options
from protocol.soak.run import Outcome, shrink, soak

__all__ = ["KINDS", "Options", "Outcome", "shrink", "soak"]
