"""A client of the hosting interface: a program in a guest host asks the host below to run secure guests.

    from nestbed.client import Hosting

    with Hosting("vsock:2:5200") as host:
        child = host.start(Path("guest.img"), vcpus=2, memory_mib=512)
        host.renew()  # every 10 s, or the children end after 30
        host.destroy(child.id)

It blocks, and needs nothing but the standard library and msgpack. Where a reply does not come it connects
anew and asks again: every request may be repeated, a start because it carries a key. What the host says can
be tried again (`retryable`) is, after a random time that grows, within a budget. Errors are exceptions, one
class for each name of docs/wire.md: `except Quota`, `except HostingError`. Where a host does not keep to that
page it is HostingProtocolError, and nothing is tried again.

An object serves one thread. `events` uses a connection of its own.
"""

from __future__ import annotations

import hashlib
import random
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestbed.connection import Body, Connection, open_channel, tls_context
from protocol.errors import LocalProtocolError
from protocol.hosting.errors import ERRORS as ROWS
from protocol.hosting.errors import Refusal
from protocol.hosting.kinds import read
from protocol.hosting.limits import CHUNK_BYTES
from protocol.hosting.messages import MESSAGES, VERSION
from protocol.hosting.replies import HostingProtocolError
from protocol.vsock.address import parse_address

__all__ = [
    "Budget",
    "Child",
    "Hosting",
    "HostingError",
    "HostingProtocolError",
    "HostingUnreachable",
    "tls_context",
]

DOUBLINGS = 20  # of the bound of a wait; beyond that it is the longest one anyway
DEPOSITING = "l1vh"  # the profile whose requesters deposit pages
LONGEST_S = 600  # that a host waits for anything
LEAST_RENEW_S = 0.05
SPARE_S = 5.0  # a reply may take so much longer than what was asked to take its time


class HostingUnreachable(OSError):
    """Nobody answered within the budget. What was asked may have been done."""


class HostingError(Exception):
    """The host refused. `detail` has the numbers that belong to the error, `cause` words for people."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.code: int = body["code"]
        self.name: str = body["name"]
        self.retryable: bool = body["retryable"]
        self.retry_after_ms: int = body["retry_after_ms"]
        self.stage: str = body["stage"]
        self.cause: tuple[str, ...] = tuple(body["cause"])
        self.who: str = body["who"]
        self.detail: dict[str, Any] = body["detail"]
        at = f" ({self.stage})" if self.stage else ""
        super().__init__(f"{self.name}{at}: {'; '.join(self.cause)}" if self.cause else f"{self.name}{at}")


def _classes() -> dict[str, type[HostingError]]:
    made: dict[str, type[HostingError]] = {}
    for code, row in ROWS.items():
        name = "".join(word.capitalize() for word in code.name.split("_"))
        made[code.name] = type(name, (HostingError,), {"__doc__": f"{code.name}: {row.text}."})
    return made


ERRORS = _classes()  # by the name on the wire


def _what_is_wrong(kind: str, body: Body) -> str:
    """Which field of a request has no form on the wire; empty if none has to."""
    try:
        read(MESSAGES[kind], body)
    except Refusal as refusal:
        return refusal.cause[0]
    return ""


def _ms(seconds: float) -> int:
    """Raises ValueError for what the interface has no place for."""
    if not 0 <= seconds <= LONGEST_S:
        raise ValueError(f"a time of {seconds} s; allowed: 0 to {LONGEST_S}")
    return int(seconds * 1000)


def _refusal(body: Body) -> HostingError:
    return ERRORS.get(body["name"], HostingError)(body)


globals().update({each.__name__: each for each in ERRORS.values()})
__all__ += sorted(each.__name__ for each in ERRORS.values())  # noqa: PLE0605 - one for each row of a table


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to try: at most `tries` times, and no new try after `seconds`."""

    tries: int = 8
    seconds: float = 30.0
    first_s: float = 0.1  # upper bound of the first wait; doubles with each try
    longest_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Child:
    """What a start was answered."""

    id: bytes
    cid: int
    state: str
    replayed: bool
    charged: Mapping[str, int]


class Hosting:
    """One requester's connection. `address` as in `protocol.vsock.address`, such as `unix:/run/3.vsock_5200`.

    What takes its time (start, wait, stop, reset, destroy) renews the lease meanwhile.

    Raises HostingUnreachable where nobody answers, HostingError for what is refused, HostingProtocolError
    where the host breaks the protocol, ValueError for an address that is none, and for what no message holds.
    """

    def __init__(
        self,
        address: str,
        *,
        budget: Budget | None = None,
        timeout_s: float = 10.0,
        tls: ssl.SSLContext | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.address = parse_address(address)
        self.budget = budget or Budget()
        self.timeout_s = timeout_s
        self._tls = tls
        self.epoch = 0
        self.credential = b""
        self.facts: Body = {}  # what hello answered
        self.retries = 0
        self._rng = rng or random.Random()
        self._connection: Connection | None = None
        self._sequence = 0

    def __enter__(self) -> Hosting:
        self.hello()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. The children stay as long as their lease."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- one request

    def ask(self, kind: str, key: bytes | None = None, wait_s: float = 0.0, **body: Any) -> Body:
        """Put one request of docs/wire.md and return the body of its answer.

        `wait_s`: how long the host may take because it was asked to wait.
        """
        began, tries = time.monotonic(), 0
        while True:
            tries += 1
            try:
                return self._once(kind, key, wait_s, body)
            except HostingError as error:
                if not self._may_help(error) or not self._may_retry(
                    tries, began, error.retry_after_ms / 1000
                ):
                    raise
            except OSError as error:
                if not self._may_retry(tries, began, self.budget.first_s):
                    raise HostingUnreachable(f"{self.address}: {error}") from error

    def _may_help(self, error: HostingError) -> bool:
        """Whether waiting may help: where pages are to be deposited it does not."""
        wanted = isinstance(error, ERRORS["NEED_MEMORY"]) and self.facts.get("profile") == DEPOSITING
        return error.retryable and not wanted

    def _may_retry(self, tries: int, began: float, first_s: float) -> bool:
        """Sleep before the next try, a random time (full jitter). False if the budget is spent."""
        doubled = max(first_s, self.budget.first_s) * 2 ** min(tries - 1, DOUBLINGS)
        bound = min(self.budget.longest_s, doubled)
        pause = self._rng.uniform(0, bound)
        if tries >= self.budget.tries or time.monotonic() + pause > began + self.budget.seconds:
            return False
        self.retries += 1
        time.sleep(pause)
        return True

    def _once(self, kind: str, key: bytes | None, wait_s: float, body: Body) -> Body:
        """One try. However it ends without an answer, the connection ends with it: one may still come."""
        try:
            if self._connection is None:
                self._connection = Connection(self.address, self.timeout_s, self._tls)
            self._connection.patience(self.timeout_s + wait_s)
            renew_s = self._renew_s if wait_s else None
            said, answer = self._exchange(self._connection, kind, key, body, renew_s)
        except BaseException:
            self.close()
            raise
        if said == "err":
            raise _refusal(answer)
        return answer

    def _exchange(
        self, connection: Connection, kind: str, key: bytes | None, body: Body, renew_s: float | None = None
    ) -> tuple[str, Body]:
        """Ask over `connection`. Raises what that raises, and ValueError for what no message holds."""
        try:
            return connection.exchange(kind, self.epoch, key, body, renew_s)
        except LocalProtocolError as error:
            raise ValueError(_what_is_wrong(kind, body) or str(error)) from None

    @property
    def _renew_s(self) -> float | None:
        """How often to renew the lease; None as long as no host has told."""
        return max(LEAST_RENEW_S, self.facts["lease"]["renew_ms"] / 1000) if self.facts else None

    def _broken(self, message: str, field: str, allowed: str) -> HostingProtocolError:
        """What a host breaks that no single reply shows."""
        self.close()
        return HostingProtocolError(message, field, allowed)

    # -- the interface

    def hello(self) -> Body:
        """Say who speaks which version; learn the epoch. First on every boot; renews the lease."""
        self.facts = self.ask("hello", versions=[VERSION])
        self.epoch = self.facts["epoch"]
        self.credential = self.facts["credential"]
        return self.facts

    def key(self) -> bytes:
        """A key for one start: higher than all before, also those of other programs of this requester."""
        self._sequence = max(self._sequence + 1, time.time_ns())
        return self.epoch.to_bytes(4, "big") + self._sequence.to_bytes(12, "big")

    def put(self, image: bytes | Path) -> bytes:
        """Bring an image, as far as the host does not have it; returns its digest."""
        data = image.read_bytes() if isinstance(image, Path) else image
        digest = hashlib.sha256(data).digest()
        offset, piece, stalled = 0, b"", 0
        while True:
            have = self.ask("image.put", digest=digest, size=len(data), offset=offset, data=piece)["have"]
            stalled += bool(piece) and have <= offset  # a host that restarted has to be sent all of it again
            if have > len(data) or stalled > self.budget.tries:
                raise self._broken("image.put", "b.have", f"grows with each piece, up to {len(data)}")
            if have == len(data):
                return digest
            offset, piece = have, data[have : have + CHUNK_BYTES]

    def start(
        self,
        image: bytes | Path,
        *,
        key: bytes | None = None,
        mode: str = "run",
        deposit: bool = False,
        **spec: Any,
    ) -> Child:
        """Start a secure guest; `spec` as `start` of docs/wire.md has it (vcpus, memory_mib, labels, ...).

        The same `key` starts nothing twice. Without one it gets its own, so a lost reply does no harm.
        `deposit`: where the host wants pages for its records (NEED_MEMORY), give it as many as it asks for.
        """
        key = key or self.key()
        for left in range(self.budget.tries, 0, -1):
            body = {"spec": {"image": self.put(image)} | spec, "mode": mode}
            try:
                answer = self.ask("start", key, wait_s=600.0, **body)
                break
            except ERRORS["NOT_FOUND"] as gone:
                # The host restarted, or needed the room: bring it again.
                if gone.stage != "image" or left == 1:
                    raise
            except ERRORS["NEED_MEMORY"] as lacking:
                if not deposit or self._may_help(lacking) or left == 1:
                    raise
                pages = lacking.detail.get("pages")
                if type(pages) is not int or pages < 1:
                    raise self._broken("start", "b.detail.pages", "says how many, 1 or more") from None
                self.deposit(pages)
        return Child(answer["child"], answer["cid"], answer["state"], answer["replayed"], answer["charged"])

    def wait(self, child: bytes, until: str = "READY", timeout_s: float = 30.0) -> Body:
        """Wait until a child has reached READY, STOPPED or RELEASED."""
        ms = _ms(timeout_s)
        return self.ask("wait", wait_s=timeout_s + SPARE_S, child=child, until=until, timeout_ms=ms)

    def describe(self, child: bytes) -> Body:
        """One child, or its exit record."""
        return self.ask("describe", child=child)

    def list(self, **wanted: Any) -> Iterator[Body]:
        """The requester's own children, all pages of them. `exited=True`: exit records as well."""
        after: bytes | None = None
        while True:
            page = self.ask("list", after=after, **wanted)
            yield from page["children"]
            before, after = after, page["after"]
            if after is None:
                return
            if before is not None and after <= before:
                raise self._broken("list", "b.after", "is beyond the page before")

    def stop(self, child: bytes, how: str = "graceful", grace_s: float = 10.0) -> str:
        """End a child's run; it keeps what it holds."""
        grace_ms = max(1, _ms(grace_s))
        answer = self.ask("stop", wait_s=grace_s + SPARE_S, child=child, how=how, grace_ms=grace_ms)
        return str(answer["state"])

    def reset(self, child: bytes) -> str:
        """Boot a child again from its image."""
        return str(self.ask("reset", wait_s=600.0, child=child)["state"])

    def destroy(self, child: bytes) -> None:
        """End a child whatever its state; asks again while the host is still at it, within the budget."""
        self.ask("destroy", wait_s=60.0, child=child)

    def acknowledge(self, child: bytes) -> None:
        """Have the exit record of a child dropped."""
        self.ask("ack_exit", child=child)

    def renew(self) -> Body:
        """Keep the children."""
        return self.ask("lease.renew")

    def quota(self) -> Body:
        """What is charged and what is free, by dimension."""
        return self.ask("quota.get")

    def deposit(self, pages: int) -> Body:
        """Give the host pages for its records of children (profile l1vh); what it has of them then."""
        return self.ask("memory.deposit", pages=pages)

    def withdraw(self, pages: int) -> Body:
        """Take back pages that were deposited and are free."""
        return self.ask("memory.deposit", pages=pages, withdraw=True)

    def migrate(self) -> None:
        """Ask whether this guest host may move to another host. Raises HostingError (POLICY) if not."""
        self.ask("migrate")

    def console(self, child: bytes, cursor: int = 0) -> tuple[bytes, int, int]:
        """What a debug child wrote from `cursor` on: bytes, the next cursor, how many bytes were lost."""
        answer = self.ask("console.read", child=child, cursor=cursor)
        return answer["data"], answer["cursor"], answer["lost"]

    def channel(self, child: bytes, port: int, window: int = 65_536) -> socket.socket:
        """A connected socket to a port of a child. Raises HostingError, OSError: nothing listens there."""
        offered = self.ask("channel.open", self.key(), child=child, port=port, window=window)
        if offered["token"] is None:
            raise self._broken("channel.open", "b.token", "is bin of 16 bytes: it was never used")
        try:
            return open_channel(
                parse_address(offered["address"]), offered["token"], self.timeout_s, self._tls
            )
        except ValueError as wrong:
            raise self._broken("channel.open", "b.address", f"is one that can be dialed: {wrong}") from None

    def attest(self, child: bytes, nonce: bytes, user_data: bytes = b"") -> bytes:
        """Evidence of what a child is and whose; `verify` of protocol.hosting.evidence looks into it."""
        evidence: bytes = self.ask("attest", child=child, nonce=nonce, user_data=user_data)["evidence"]
        return evidence

    def dump(self, child: bytes) -> Iterator[bytes]:
        """A debug child's dump, piece by piece."""
        offset, size = 0, 1
        while offset < size:
            piece = self.ask("dump", child=child, offset=offset)
            offset, size = offset + len(piece["data"]), piece["size"]
            if offset > size or (offset < size and not piece["data"]):
                raise self._broken(
                    "dump", "b.data", "is a part of b.size bytes, and not empty before their end"
                )
            yield piece["data"]

    def adopt(self, credential: bytes, epoch: int, children: Sequence[bytes] | None = None) -> Body:
        """Take over what lingers from boot `epoch`, with what its `hello` answered as `credential`."""
        return self.ask(
            "adopt", credential=credential, epoch=epoch, children=None if children is None else [*children]
        )

    def explain(self, code: int) -> Body:
        """What an error code means."""
        return self.ask("explain", error=code)

    def events(self, since: int | None = None) -> Iterator[Body]:
        """Every change of a child's state from number `since` on, without end. Begins with `established`.

        A lost connection is made anew, within the budget, and goes on behind the last event. Raises Gap where
        events are gone, and what every request raises.
        """
        tries, began = 0, time.monotonic()
        while True:
            try:
                with Connection(self.address, self.timeout_s, self._tls) as connection:
                    said, event = self._exchange(connection, "watch", None, {"since": since})
                    connection.patience(None)
                    while True:
                        if said == "err":
                            raise _refusal(event)
                        tries, began = 0, time.monotonic()
                        since = event["last"] if event["kind"] == "gap" else event["seq"]
                        yield event
                        said, event = connection.receive()
            except OSError as error:
                tries += 1
                if not self._may_retry(tries, began, self.budget.first_s):
                    raise HostingUnreachable(f"{self.address}: {error}") from error
