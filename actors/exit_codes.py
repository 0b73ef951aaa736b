"""How the command ends, for scripts: one number for each kind of end."""

from __future__ import annotations

OK = 0
FAILED = 1  # a run failed, or a replay found a difference
USAGE = 2  # arguments or a scenario that make no sense
ENVIRONMENT = 3  # a port is taken, a directory cannot be written, a peer is silent or breaks the protocol
GONE = 75  # what this process stands on is gone (machine, supervisor, lease): start it again
MISSED = 99  # everything ran, and a threshold does not hold or a count is another one
INTERRUPTED = 130
