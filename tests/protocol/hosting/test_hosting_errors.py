"""Every code of the catalogue is answered: for each, the shortest way to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.errors import OutcomeUnknown
from protocol.hosting.errors import ERRORS, Code
from protocol.hosting.evidence import KeySigner, Trust
from protocol.hosting.limits import Offer
from protocol.hosting.machine import (
    AttestGuest,
    CreateGuest,
    DestroyGuest,
    Died,
    Failure,
    NeedMemory,
    NoResource,
    StartGuest,
    TeError,
    TimedOut,
)
from protocol.hosting.messages import MESSAGES
from protocol.hosting.policy import policy_from

KEY = b"\0\0\0\1" + b"k" * 12
OLD = b"\0\0\0\0" + b"k" * 12
NOBODY = bytes(16)
SIGNER = KeySigner(ec.derive_private_key(7, ec.SECP384R1()))
MUTE = {"rule": [{"allow": True, "call": ["hello", "image.put"], "source": "*"}]}
SIGNED = {"rule": [{"allow": True, "call": "*", "source": [3], "signer": ["ab" * 32]}]}


class Way:
    """What a way to an error may use: a requester, and worlds of its own."""

    def __init__(self, small_world: Callable[..., Any], join: Callable[..., Any], spec: Any) -> None:
        self.small_world, self.join, self.spec = small_world, join, spec

    def client(self, limits: Mapping[str, Any] | None = None, **each: Any) -> Any:
        service = {"offer": Offer(channels="x:{port}"), "trust": Trust(b"s" * 32, SIGNER)}
        return self.join(self.small_world(limits=dict(limits or {}), service=service, **each), 3)

    def start(self, client: Any, key: bytes | None = None, **spec: Any) -> Any:
        return client.refused("start", key, spec=self.spec(**spec))

    def failing(self, step: type, failure: Failure) -> Any:
        """A start whose `step` fails at the machine."""
        client = self.client()
        client.world.machine.fail[step] = [failure]
        return self.start(client)

    def ruled(self, policy: Any) -> Any:
        """A start under a policy."""
        made = self.small_world(service={"policy": policy_from(policy, MESSAGES)})
        return self.start(self.join(made, 3))


def stale_epoch(way: Way) -> Any:
    client = way.client()
    return client.send(client.frame("list") | {"epoch": 7})["b"]


def bad_frame(way: Way) -> Any:
    client = way.client()
    return client.send(client.frame("list") | {"t": "nonsense"})["b"]


def timeout(way: Way) -> Any:
    client = way.client()
    return client.send(client.frame("list") | {"dl": 0})["b"]


def key_conflict(way: Way) -> Any:
    client = way.client()
    client.start(KEY)
    return way.start(client, KEY, vcpus=1)


def releasing(way: Way) -> Any:
    client = way.client()
    child = client.start()["child"]
    client.world.machine.fail[DestroyGuest] = [TeError("any", 1)]
    return client.refused("destroy", child=child)


def no_cid(way: Way) -> Any:
    client = way.client(limits={"cid_count": 1})
    client.start()
    return way.start(client)


def rate_limited(way: Way) -> Any:
    client = way.client(limits={"starts_per_s": 1})
    client.start()
    return way.start(client)


def full(way: Way) -> Any:
    client = way.client(children=1)
    client.start()
    return way.start(client)


def no_image(way: Way) -> Any:
    digest = hashlib.sha256(b"announced").digest()
    return way.client().refused("image.put", digest=digest, size=4, offset=0, data=b"sent")


def no_evidence(way: Way) -> Any:
    client = way.client()
    child = client.start()["child"]
    client.world.machine.fail[AttestGuest] = [TeError("any", 1)]
    return client.refused("attest", child=child, nonce=b"")


def lease_out(way: Way) -> Any:
    client = way.client()
    client.world.pass_time(30_001)
    return way.start(client)


def channel_reset(way: Way) -> Any:
    client = way.client()
    child = client.start()["child"]
    token = client.ask("channel.open", KEY, child=child, port=7)["token"]
    client.world.service.redeem(client.who, token)
    client.ask("reset", child=child)
    return client.refused("channel.open", KEY, child=child, port=7)


def unanswered(way: Way) -> Any:
    """The machine does not say whether it did it."""
    client = way.client()
    step = client.begin("start", spec=way.spec())
    next(step)
    effect = step.throw(OutcomeUnknown("the link broke"))
    assert isinstance(effect, DestroyGuest)
    with pytest.raises(StopIteration) as ended:
        step.send(None)
    return ended.value.value["b"]


def console(way: Way) -> Any:
    client = way.client()
    return client.refused("console.read", child=client.start()["child"])


def waited_in_vain(way: Way) -> Any:
    client = way.client()
    child = client.start()["child"]
    client.ask("stop", child=child)
    return client.refused("wait", child=child, until="READY")


WAYS: Mapping[Code, Callable[[Way], Any]] = {
    Code.BAD_FRAME: bad_frame,
    Code.BAD_ARGUMENT: lambda way: way.client().refused("wait", child=NOBODY, until="SOON"),
    Code.UNSUPPORTED: lambda way: way.start(way.client(), vmm="qemu"),
    Code.NOT_PERMITTED: lambda way: way.ruled(MUTE),
    Code.STALE_EPOCH: stale_epoch,
    Code.POLICY: console,
    Code.NOT_FOUND: lambda way: way.client().refused("describe", child=NOBODY),
    Code.BAD_STATE: waited_in_vain,
    Code.KEY_CONFLICT: key_conflict,
    Code.GAP: lambda way: way.client().refused("watch", since=9),
    Code.KEY_EXPIRED: lambda way: way.start(way.client(), OLD),
    Code.QUOTA: full,
    Code.NO_RESOURCE: lambda way: way.failing(CreateGuest, NoResource("files")),
    Code.BUSY_RELEASING: releasing,
    Code.RATE_LIMITED: rate_limited,
    Code.NEED_MEMORY: lambda way: way.failing(CreateGuest, NeedMemory(3)),
    Code.CID_EXHAUSTED: no_cid,
    Code.IMAGE_INVALID: no_image,
    Code.SIGNATURE: lambda way: way.ruled(SIGNED),
    Code.BOOT_TIMEOUT: lambda way: way.failing(StartGuest, TimedOut(9)),
    Code.BOOT_DIED: lambda way: way.failing(StartGuest, Died(9)),
    Code.TE_ERROR: lambda way: way.failing(CreateGuest, TeError("create", 9)),
    Code.ATTEST_FAILED: no_evidence,
    Code.TIMEOUT: timeout,
    Code.LEASE_EXPIRED: lease_out,
    Code.CHANNEL_RESET: channel_reset,
    Code.INTERNAL: unanswered,
}

ELSEWHERE = {  # needs a service that comes back
    Code.HOST_RESTARTED: "test_recovery.py::test_a_start_that_the_death_cut_short_is_finished_or_rolled_back"
}


@pytest.mark.parametrize("code", WAYS, ids=lambda code: code.name)
def test_each_code_is_answered(small_world, join, spec, code):
    error = WAYS[code](Way(small_world, join, spec))
    row = ERRORS[code]
    assert (error["name"], error["code"]) == (code.name, int(code))
    assert (error["retryable"], error["who"]) == (row.retryable, row.who)
    assert set(error["detail"]) <= set(row.detail), "the catalogue names what is in `detail`"


def test_every_code_is_answered_by_a_test_or_says_that_it_never_is():
    assert set(WAYS) | set(ELSEWHERE) == {code for code, row in ERRORS.items() if row.answered}
    assert all(row.text.startswith("never answered: ") for row in ERRORS.values() if not row.answered)
