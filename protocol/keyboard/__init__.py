"""The keyboard of a secure host, as far as it is the same for every architecture: the console's contract.

  fields    a request taken apart, field by field; complaints that name the field and what is allowed
  book      which memory of a host was given out
  host      what an architecture says about its hosts
  steps     steps of guests as they are typed
  recorded  the same the other way: what a host's software does, told as requests
  console   one request in, one answer out: dispatch, CPUs that are in a call or in a guest, counts, audit

A slice derives from `SecureHost` and `Keyboard`, adds its own ops, and says how an instruction is written.
"""

from protocol.keyboard.book import AllocationBook
from protocol.keyboard.console import Keyboard
from protocol.keyboard.fields import Complaint, Fields
from protocol.keyboard.host import Answer, Begun, Raised, SecureHost, Space

__all__ = [
    "AllocationBook",
    "Answer",
    "Begun",
    "Complaint",
    "Fields",
    "Keyboard",
    "Raised",
    "SecureHost",
    "Space",
]
