"""What a level with a guest host tracks of that host's secure guests: section 7.2 of the fact sheet.

An SNP guest needs no more than `books.Context`: its handle is an address, and the slot map says where that
is below.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.arch.sev.books import Guest
from protocol.arch.sev.crypto.session import Keys


@dataclass(slots=True)
class TrackedGuest(Guest):
    """`handle` is what the guest host knows, `real` what the level below answers to.

    `keys` are those of the transport: this level took part in the session on the guest host's behalf.
    """

    real: int = field(kw_only=True)
    keys: Keys = field(kw_only=True)
    digest: bytes = bytes(32)
    measurement: bytes = bytes(32)
