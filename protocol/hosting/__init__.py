"""The other way: a guest host asks the host below to run the secure guest for it.

The guest is then a guest of L0 and belongs to the requester. Pure like the rest of `protocol`: frames and
times go in, replies and effects on L0's own machine come out.

  messages     what a requester may say, field by field; everything else is refused before it changes anything
  errors       every refusal: number, name, whether a repetition can help, who can do something about it
  states       the life of a child, as a table
  machine      what the service asks of L0's machine, and what that may answer
  records      requesters, children, exit records: the state that hosting costs
  registry     the tables of them, bounded, every change counted; a state is journalled before it is acted on
  quota images idempotency leases watch     one concern each
  lifecycle    sequences on one child: build, stop, reset, take down
  service      one request in, one reply out

Spoken by: docs/wire.md. Deferred so far: docs/decisions/0003-hosting-first-form.md.
"""

from protocol.hosting.journal import Fact, Gathering, Intent, Journal, MemoryJournal, SimulatedDisk
from protocol.hosting.limits import Limits
from protocol.hosting.ports import Book, CountingBook
from protocol.hosting.records import Identity, record_sizes
from protocol.hosting.service import Service

__all__ = [
    "Book",
    "CountingBook",
    "Fact",
    "Gathering",
    "Identity",
    "Intent",
    "Journal",
    "Limits",
    "MemoryJournal",
    "Service",
    "SimulatedDisk",
    "record_sizes",
]
