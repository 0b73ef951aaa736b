"""A guest host that has L0 run its secure guests, and what it must see, whatever the network does.

It is the sequential model of the interface with unknown outcomes. A request without an answer may have been
done or not; it is sent again with the same key. From what was answered follows what a later answer may say:
one key is one child, a child that was promised is there as long as its lease holds, one that is destroyed
stays so.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from protocol.hosting import Identity
from protocol.hosting.idempotency import Key
from protocol.soak.options import Violation

if TYPE_CHECKING:
    from protocol.soak.hosted import Hosted

RETRY_MS, LEASE_MS, RENEW_MS = 1_500, 30_000, 10_000
OUTSTANDING, CHILDREN = 4, 3
IMAGE = b"what is booted does not matter here" * 8
DIGEST = hashlib.sha256(IMAGE).digest()
UP, ENDING, UNKNOWN = "up", "ending", "unknown"
STRANGER = ("NOT_FOUND", "STALE_EPOCH", "RATE_LIMITED", "LEASE_EXPIRED")
REBOOT = 0.004  # of all that it does
PLAN = {"start": 5, "list": 6, "describe": 3, "destroy": 2, "stop": 1, "image.put": 1, "reset": 1}


@dataclass(slots=True)
class Asked:
    """A request that has no answer yet. `must` and `gone`: what was certain when a list was asked for."""

    kind: str
    frame: dict[str, Any]
    sent_ms: int
    again_ms: int
    child: bytes = b""
    key: bytes = b""
    must: frozenset[bytes] = frozenset()
    gone: frozenset[bytes] = frozenset()


@dataclass(slots=True)
class Requester:
    """One of them: `skew` is how fast its clock runs."""

    name: str
    cid: int
    hosted: Hosted
    hostile: bool = False
    epoch: int = 1
    random: Random = field(init=False)
    skew: float = 1.0
    asked: dict[bytes, Asked] = field(default_factory=dict)
    keys: dict[bytes, bytes] = field(default_factory=dict)  # key -> child
    children: dict[bytes, str] = field(default_factory=dict)
    gone: set[bytes] = field(default_factory=set)
    image: bool = False
    welcome: bool = False
    lease_until: int = 0  # for certain
    renew_at: int = 0
    numbers: int = 0
    keys_made: int = 0  # of this boot
    next_ms: int = 0
    finishing: bool = False  # nothing new is asked

    def __post_init__(self) -> None:
        self.random = Random(f"{self.hosted.seed}:{self.name}")
        if "skew" in self.hosted.allowed:
            self.skew = self.random.uniform(0.8, 1.25)
            self.hosted.tally.faults["skew"] += 1

    @property
    def who(self) -> Identity:
        return Identity(self.cid, self.epoch)

    @property
    def now(self) -> int:
        return self.hosted.now_ms

    def uncertain(self) -> None:
        """Something happened after which nothing is certain about what lives."""
        for child in self.children:
            self.children[child] = UNKNOWN
        self.asked = {rid: asked for rid, asked in self.asked.items() if asked.kind != "list"}
        self.lease_until = 0
        self.image = False

    # -- what it does ----------------------------------------------------------------------------------------

    def wants(self) -> bool:
        return self.now >= self.next_ms

    def act(self) -> None:
        self.next_ms = self.now + self.random.randrange(5, 120)
        late = [asked for asked in self.asked.values() if asked.again_ms <= self.now]
        if late:
            asked = late[0]
            asked.again_ms = self.now + int(RETRY_MS * self.skew)
            self._send(asked.frame)
        elif self.finishing:
            return
        elif self.random.random() < REBOOT and "reset" in self.hosted.allowed:
            self._reboot()
        elif not self.welcome:
            if not any(asked.kind == "hello" for asked in self.asked.values()):
                self._ask("hello", versions=[1])
        elif self.now >= self.renew_at and not any(a.kind == "lease.renew" for a in self.asked.values()):
            self._ask("lease.renew")
            self.renew_at = self.now + int(RENEW_MS * self.skew)
        elif len(self.asked) < OUTSTANDING:
            self._something()

    def _something(self) -> None:
        kind = self.random.choices(list(PLAN), list(PLAN.values()))[0]
        mine = sorted(child for child, state in self.children.items() if state != ENDING)
        if self.hostile and self.random.random() < 0.3:
            self._attack()
        elif not self.image or kind == "image.put":
            self._ask("image.put", digest=DIGEST, size=len(IMAGE), offset=0, data=IMAGE)
        elif kind == "start" and len(self.children) + self._starting() < CHILDREN:
            self.keys_made += 1
            key = Key(self.epoch, self.keys_made).packed()
            spec = {"image": DIGEST, "vcpus": 1, "memory_mib": 16}
            self._ask("start", key, spec=spec, mode="run")
        elif kind == "list":
            self._list()
        elif kind in ("describe", "destroy", "stop", "reset") and mine:
            child = self.random.choice(mine)
            if kind == "destroy":
                self.children[child] = ENDING
            elif kind in ("stop", "reset") and self.children[child] == UP:
                self.children[child] = UNKNOWN  # the machine may refuse half way, and then it is no more
            self._ask(kind, b"", child=child)

    def _starting(self) -> int:
        return sum(asked.kind == "start" for asked in self.asked.values())

    def _list(self) -> None:
        must = {child for child, state in self.children.items() if state == UP}
        asked = self._ask("list")
        asked.must, asked.gone = frozenset(must), frozenset(self.gone)

    def _reboot(self) -> None:
        """Everything is forgotten; the host below may hear of it, or not."""
        self.hosted.tally.faults["reset"] += 1
        if self.random.random() < 0.7:
            self.hosted.network.send(self.name, self.hosted.name, (self.who, None), self.now)
        self.epoch += 1
        for one in (self.asked, self.keys, self.children, self.gone):
            one.clear()
        self.image = self.welcome = False
        self.lease_until = self.keys_made = 0

    def _attack(self) -> None:
        """Ask for what others have."""
        others = [child for one in self.hosted.requesters if one is not self for child in one.children]
        child = self.random.choice(others) if others else self.random.randbytes(16)
        self.hosted.tally.faults["hostile"] += 1
        self._ask(f"{self.random.choice(('destroy', 'stop', 'describe', 'reset'))}", b"foreign", child=child)

    # -- requests --------------------------------------------------------------------------------------------

    def _ask(self, kind: str, key: bytes = b"", **body: Any) -> Asked:
        self.numbers += 1
        rid = self.epoch.to_bytes(8, "big") + self.numbers.to_bytes(8, "big")
        foreign = key == b"foreign"
        frame = {"v": 1, "t": kind, "rid": rid, "epoch": self.epoch, "dl": None, "b": body}
        frame["key"] = key if key and not foreign else None
        again = self.now + int(RETRY_MS * self.skew)
        asked = Asked("foreign" if foreign else kind, frame, self.now, again, body.get("child", b""), key)
        self.asked[rid] = asked
        self._send(frame)
        return asked

    def _send(self, frame: dict[str, Any]) -> None:
        self.hosted.network.send(self.name, self.hosted.name, (self.who, frame), self.now)

    # -- answers ---------------------------------------------------------------------------------------------

    def receive(self, message: tuple[Identity, dict[str, Any]]) -> None:
        """Hold an answer against what is known. Raises Violation."""
        who, reply = message
        if who != self.who:
            return  # the connection of a former boot
        asked = self.asked.pop(reply["rid"], None)
        if asked is None:
            return  # a second answer
        self.hosted.tally.checks["hosting_history"] += 1
        body, failed = reply["b"], reply["t"] == "err"
        self.hosted.tally.note(self.name, asked.kind, body.get("name") if failed else "ok")
        self.hosted.tally.done[f"{asked.kind}_{'refused' if failed else 'done'}"] += 1
        if self.now >= self.lease_until:
            self._lapsed()
        if asked.kind == "foreign":
            self._strange(asked, body, failed)
        elif failed:
            self._refused(asked, body)
        else:
            self._granted(asked, body)

    def _lapsed(self) -> None:
        """The lease may have ended: what lived is unknown."""
        for child, state in self.children.items():
            if state == UP:
                self.children[child] = UNKNOWN

    def _strange(self, asked: Asked, body: dict[str, Any], failed: bool) -> None:
        """A stranger's child is answered as one that never was: to destroy that is done already."""
        never = asked.frame["t"] == "destroy" and body == {"state": "RELEASED"}
        if not never and not (failed and body["name"] in STRANGER):
            raise Violation("hosting", f"{self.name} is answered {body} about the child of another")

    def _granted(self, asked: Asked, body: dict[str, Any]) -> None:
        match asked.kind:
            case "hello":
                self.welcome, self.renew_at = True, self.now + int(RENEW_MS * self.skew)
                self.lease_until = asked.sent_ms + LEASE_MS
            case "lease.renew":
                self.lease_until = max(self.lease_until, asked.sent_ms + LEASE_MS)
            case "image.put":
                self.image = True
            case "start":
                self._started(asked, body)
            case "list":
                self._listed(asked, body)
            case "destroy":
                self.children.pop(asked.child, None)
                self.gone.add(asked.child)
            case "stop" | "reset" if asked.child in self.children:
                if self.children[asked.child] == UP:
                    self.children[asked.child] = UNKNOWN

    def _started(self, asked: Asked, body: dict[str, Any]) -> None:
        child = bytes(body["child"])
        before = self.keys.setdefault(asked.key, child)
        if before != child:
            raise Violation("hosting", f"{self.name}: one key, two children: {before.hex()}, {child.hex()}")
        owners = [one.name for one in self.hosted.requesters if one is not self and child in one.children]
        if owners:
            raise Violation("hosting", f"{self.name} and {owners[0]} have one child {child.hex()}")
        if child not in self.gone and self.children.get(child) != ENDING:
            certain = body["state"] == "READY" and self.now < self.lease_until
            self.children[child] = UP if certain else UNKNOWN

    def _listed(self, asked: Asked, body: dict[str, Any]) -> None:
        listed = {bytes(each["child"]): each["state"] for each in body["children"]}
        self.hosted.tally.checks["hosting_lists"] += 1
        back = [child for child in asked.gone if child in listed]
        if back:
            raise Violation(
                "hosting", f"{self.name}: {back[0].hex()} was destroyed, and is {listed[back[0]]}"
            )
        missing = [child for child in asked.must if child not in listed and self.children.get(child) == UP]
        if missing:
            raise Violation("hosting", f"{self.name}: {missing[0].hex()} was promised, and is not there")
        strange = {
            child
            for one in self.hosted.requesters
            if one is not self
            for child in one.children
            if child in listed
        }
        if strange:
            raise Violation("hosting", f"{self.name} is shown the child of another")

    def _refused(self, asked: Asked, body: dict[str, Any]) -> None:
        name = body["name"]
        if name in ("STALE_EPOCH", "HOST_RESTARTED", "LEASE_EXPIRED"):
            self.welcome = False
        if asked.kind == "start":
            self.image = self.image and name not in ("NOT_FOUND", "IMAGE_INVALID")
        elif asked.kind == "destroy" and asked.child in self.children:
            if name == "NOT_FOUND":
                del self.children[asked.child]
                self.gone.add(asked.child)
            else:
                self.children[asked.child] = UNKNOWN
        elif asked.kind == "describe" and name == "NOT_FOUND" and self.children.get(asked.child) == UP:
            raise Violation("hosting", f"{self.name}: {asked.child.hex()} was promised, and is not found")
