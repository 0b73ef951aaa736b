"""The kinds of errors and the road that each one takes.

Five things can go wrong, and they never share a road:

  ABI outcome              a value: status and detail words, unknown ones too; it travels back to the caller
  architectural exception  a value (`effects.Fault`): it travels to the CPU that caused it
  peer violation           RemoteProtocolError: the link is closed, and it counts; LocalProtocolError if ours
  operational              OwnerGone, LevelGone, NotDelivered, OutcomeUnknown: policy of whoever supervises
  broken invariant         an AssertionError, never caught in the pure half: the actor dies

So the exceptions here are the third and the fourth road only. Mistakes of a user are met at the door, by
the command.
"""

from __future__ import annotations


class NestbedError(Exception):
    """Whatever this project raises on purpose."""


class RemoteProtocolError(NestbedError):
    """The peer did what the protocol does not allow: close the link, do not resynchronise, count it.

    `reason` is one word from a small fixed set, fit for a metric's label; `detail` is for a person and may
    quote the peer, shortened.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class LocalProtocolError(NestbedError):
    """We were about to do what the protocol does not allow: a mistake in this program, or in its use."""


class OperationalError(NestbedError):
    """Something outside of the protocol failed; nobody broke a rule."""


class OwnerGone(OperationalError):
    """The guest host for which a handler works is gone.

    Thrown into a parked handler after its outstanding reply has arrived: it may still yield its undo.
    """


class LevelGone(OperationalError):
    """The level below is gone, with all of its state: there is nothing to undo."""


class NotDelivered(OperationalError):
    """The message was certainly not handled: it is safe to send it again."""


class OutcomeUnknown(OperationalError):
    """The message may have been handled: only a repetition with the same key is safe."""


class OperationFailed(OperationalError):
    """A host could not do what was wanted of it. It undid what it had begun, or says that it could not."""


class TeRefused(OperationFailed):
    """The Trusted Entity refused a call that the host cannot do without."""

    def __init__(self, call: str, rc: int, rrc: int = 0) -> None:
        super().__init__(f"{call}: rc {rc:#06x}, rrc {rrc:#06x}")
        self.call, self.rc, self.rrc = call, rc, rrc
