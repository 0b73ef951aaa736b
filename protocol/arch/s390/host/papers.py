"""What a guest brings before the Ultravisor for its owner: a request for evidence, a secret.

Both are calls of the guest's own. The owner knows the image and the public key of the machine, makes a
request wherever it is, and sends it to its guest by ways of their own (a network, a disk), which are not
modelled: the guest has it in a page that no loader uses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from protocol.arch.s390 import guest as g
from protocol.arch.s390.host.guests import Guest, Vcpu
from protocol.arch.s390.host.memory import frame_of
from protocol.arch.s390.host.run import Feed, run
from protocol.arch.s390.structs import GUEST_ADDRESS, Attest, block
from protocol.effects import Step
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.evidence.attestation import Request
    from protocol.arch.s390.host.system import Host

# The page, and what it holds. Nothing runs over its end: an attestation request has 0x180 bytes, one for a
# secret of SECRET_BYTES has 0x598.
PAGE_AT = 0x2000
BLOCK_AT, REQUEST_AT, MEASUREMENT_AT, ADDITIONAL_AT = PAGE_AT, 0x2200, 0x2800, 0x2840
ADD_SECRET_CODE, ADD_SECRET_LENGTH = 0x1031, 0x48
USER_DATA = b"nestbed"  # the guest's own words in its evidence
SECRET_BYTES = 32


def attest(host: Host, guest: Guest, vcpu: Vcpu, number: int) -> Step[None]:
    """The guest gets the measurement that answers its owner's request. Raises GuestFailed."""
    from protocol.arch.s390.evidence.attestation import MEASUREMENT_BYTES, additional_bytes

    asked = attestation(host, guest.number, number)
    fields = Attest(
        request=REQUEST_AT,
        token=0,
        user_length=len(USER_DATA),
        user=USER_DATA,
        measurement_length=MEASUREMENT_BYTES,
        measurement=MEASUREMENT_AT,
        additional_length=additional_bytes(asked.flags),
        additional=ADDITIONAL_AT,
    )
    yield from run(host, guest, vcpu, Feed(_brought(host, guest, asked.raw, fields.pack())))


def add_secret(host: Host, guest: Guest, vcpu: Vcpu, number: int) -> Step[None]:
    """The guest's store has one secret more. Raises GuestFailed."""
    uvcb = block(ADD_SECRET_LENGTH, ADD_SECRET_CODE, GUEST_ADDRESS, REQUEST_AT)
    yield from run(host, guest, vcpu, Feed(_brought(host, guest, secret(host, guest.number, number), uvcb)))


def _brought(host: Host, guest: Guest, request: bytes, uvcb: bytearray) -> Iterator[tuple[g.GuestStep, bool]]:
    """The request, the block, the call. Only the first store can find the page missing."""
    yield g.Touch(REQUEST_AT, True, request), frame_of(host.level, guest.table, PAGE_AT >> PAGE_SHIFT) is None
    yield g.Touch(BLOCK_AT, True, bytes(uvcb)), False
    yield g.Uvc(BLOCK_AT), False


# -- the owner's part ------------------------------------------------------------------------------------


def attestation(host: Host, guest: int, number: int) -> Request:
    """The owner's request for evidence of a guest, with a nonce that comes once; it keeps the key."""
    from protocol.arch.s390.evidence.attestation import build
    from protocol.arch.s390.image import host_key

    key = host_key(host.machine_seed, "host")
    return build([key], seed=host.machine_seed, digest=_digest("evidence", guest, number))


def secret(host: Host, guest: int, number: int) -> bytes:
    """The owner's request to add a secret that the guest may retrieve, for guests of this image only."""
    from protocol.arch.s390.evidence.secrets import build, plaintext
    from protocol.arch.s390.image import host_key

    assert host.image is not None, "a guest runs without an image"
    digest = _digest("secret", guest, number)
    sealed = plaintext(f"{guest}/{number}", digest[: SECRET_BYTES - 2])
    keys = [host_key(host.machine_seed, "host")]
    return build(sealed, host.image.header, keys, seed=host.machine_seed, digest=digest)


def _digest(kind: str, guest: int, number: int) -> bytes:
    return hashlib.sha256(f"{kind}/{guest}/{number}".encode()).digest()
