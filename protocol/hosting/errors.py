"""Every refusal of the hosting service: number, name, whether to try again, who can do something about it.

A refusal is a value on the wire. Inside the service it travels as the exception `Refusal`, raised where
the request stops and caught in one place, `Service.handle`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

Detail = Mapping[str, object]


class Code(IntEnum):
    """Hundreds: 1 frame, 2 permission, 3 object, 4 resources, 5 start of the child, 6 time and host."""

    BAD_FRAME = 100
    BAD_ARGUMENT = 101
    UNSUPPORTED = 102
    NOT_PERMITTED = 200
    NOT_OWNER = 201
    STALE_EPOCH = 202
    POLICY = 203
    NOT_FOUND = 300
    BAD_STATE = 301
    KEY_CONFLICT = 302
    EXISTS = 303
    GAP = 304
    KEY_EXPIRED = 305
    QUOTA = 400
    NO_RESOURCE = 401
    BUSY_RELEASING = 402
    RATE_LIMITED = 403
    NEED_MEMORY = 404
    CID_EXHAUSTED = 405
    IMAGE_INVALID = 500
    SIGNATURE = 501
    BOOT_TIMEOUT = 502
    BOOT_DIED = 503
    TE_ERROR = 504
    ATTEST_FAILED = 505
    TIMEOUT = 600
    LEASE_EXPIRED = 601
    CHANNEL_RESET = 602
    HOST_RESTARTED = 603
    INTERNAL = 604


@dataclass(frozen=True, slots=True)
class Row:
    """What a code means. `detail` names the keys of the error's `detail` map."""

    text: str
    who: str  # caller | admin | host | te: who can do something about it
    retryable: bool = False
    detail: tuple[str, ...] = ()
    answered: bool = True  # False: nothing that is asked leads to it; the text says why


ERRORS: Mapping[Code, Row] = {
    Code.BAD_FRAME: Row("the frame is not one of this protocol", "caller"),
    Code.BAD_ARGUMENT: Row("a field is missing, unknown, of the wrong type or out of range", "caller"),
    Code.UNSUPPORTED: Row("this version, message or option is not offered", "caller", detail=("versions",)),
    Code.NOT_PERMITTED: Row(
        "policy does not let this requester ask that", "admin", detail=("policy", "rule")
    ),
    Code.NOT_OWNER: Row("never answered: a stranger is told NOT_FOUND", "caller", answered=False),
    Code.STALE_EPOCH: Row("not the requester's present epoch: say hello", "caller", detail=("epoch",)),
    Code.POLICY: Row("refused on principle; the cause says why", "admin", detail=("children",)),
    Code.NOT_FOUND: Row("no such object", "caller"),
    Code.BAD_STATE: Row("not in this state of the child", "caller", detail=("have", "need")),
    Code.KEY_CONFLICT: Row("the key was used for another request", "caller"),
    Code.EXISTS: Row(
        "never answered: the host gives the names, and what is sent again is the same",
        "caller",
        answered=False,
    ),
    Code.GAP: Row("events were missed: list again, then watch", "caller", detail=("first", "last")),
    Code.KEY_EXPIRED: Row(
        "the key is too old to tell whether its request was done", "caller", detail=("watermark",)
    ),
    Code.QUOTA: Row("the requester's own limit", "admin", detail=("dimension", "limit", "charged", "asked")),
    Code.NO_RESOURCE: Row("the host has no more", "host", True, ("dimension",)),
    Code.BUSY_RELEASING: Row("something is still being released", "host", True, ("held",)),
    Code.RATE_LIMITED: Row("too many requests of this requester", "caller", True),
    Code.NEED_MEMORY: Row("the host lacks memory for the guest's control blocks", "host", True, ("pages",)),
    Code.CID_EXHAUSTED: Row("no CID is free", "host", True),
    Code.IMAGE_INVALID: Row("the image's bytes are not what was announced", "caller"),
    Code.SIGNATURE: Row("the image's signature is not valid", "caller"),
    Code.BOOT_TIMEOUT: Row("the guest did not come up in time", "caller", detail=("timeout_ms",)),
    Code.BOOT_DIED: Row("the guest ended while it booted", "caller", detail=("exit",)),
    Code.TE_ERROR: Row("the Trusted Entity refused", "te", detail=("call", "rc", "rrc")),
    Code.ATTEST_FAILED: Row("no evidence could be made", "te"),
    Code.TIMEOUT: Row("the time that the caller gave is over", "caller"),
    Code.LEASE_EXPIRED: Row("the lease is over: renew it", "caller"),
    Code.CHANNEL_RESET: Row(
        "the channel of this key was reset; again opens another", "host", True, ("cause",)
    ),
    Code.HOST_RESTARTED: Row("the host restarted and knows less than before", "host"),
    Code.INTERNAL: Row("a mistake of the host", "host", detail=("ref",)),
}

CAUSES = 4  # lines of an error's cause
CAUSE_CHARACTERS = 160


class Refusal(Exception):
    """A request stops here. `stage` names the part of a longer operation, "" where there is only one."""

    def __init__(
        self,
        code: Code,
        *cause: str,
        stage: str = "",
        retry_after_ms: int = 0,
        detail: Detail | None = None,
    ) -> None:
        super().__init__(code, *cause)
        self.code = code
        self.cause = tuple(line[:CAUSE_CHARACTERS] for line in cause[:CAUSES])
        self.stage = stage
        self.retry_after_ms = retry_after_ms
        self.detail = dict(detail or {})

    def explain(self, *more: str) -> None:
        """Add to the cause, as far as there is room."""
        self.cause = (*self.cause, *(line[:CAUSE_CHARACTERS] for line in more))[:CAUSES]

    def body(self) -> dict[str, object]:
        """Return what goes into the reply's `b`."""
        row = ERRORS[self.code]
        return {
            "code": int(self.code),
            "name": self.code.name,
            "retryable": row.retryable,
            "retry_after_ms": self.retry_after_ms or (RETRY_AFTER_MS if row.retryable else 0),
            "stage": self.stage,
            "cause": list(self.cause),
            "who": row.who,
            "detail": self.detail,
        }


def refusal_from(body: Mapping[str, Any]) -> Refusal:
    """Return the refusal that `Refusal.body` described."""
    return Refusal(
        Code(body["code"]),
        *body["cause"],
        stage=body["stage"],
        retry_after_ms=body["retry_after_ms"],
        detail=body["detail"],
    )


RETRY_AFTER_MS = 250  # a floor: clients wait a random time up to a multiple of it that doubles


def explain(code: Code) -> dict[str, object]:
    """Return what the message `explain` answers about `code`."""
    row = ERRORS[code]
    return {
        "code": int(code),
        "name": code.name,
        "text": row.text,
        "retryable": row.retryable,
        "who": row.who,
        "detail": list(row.detail),
    }
