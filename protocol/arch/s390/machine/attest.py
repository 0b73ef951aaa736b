"""Retrieve Attestation Measurement, call 0x1020: a guest proves to its owner what it is.

Follows section 8.5 of the fact sheet, whose order of checks is proved by tests except where `calls` marks
it. The request stays where the guest put it; it is read once. Nothing is ever partial, so the only
continuation token is zero (guess). A host exception on any area makes the guest leave SIE and do the call
again.

Guesses: the unique identifier is made of seed and handle, as long as the configuration lives; the field
with the length of the additional data stays as the guest set it; of a longer buffer the rest is not
touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390.machine.entities import Config, SecureCpu
from protocol.arch.s390.machine.guest_storage import inside, load, refusal, store
from protocol.arch.s390.profiles import ATTESTATION_FLAGS
from protocol.arch.s390.structs import ATTEST, ATTEST_UID, EXECUTED, Attest, Outcome
from protocol.effects import Fault

if TYPE_CHECKING:
    from protocol.arch.s390.evidence.request import Head
    from protocol.arch.s390.machine import Machine

BAD_TOKEN = Outcome(0x0101)
USER_DATA_TOO_LONG = Outcome(0x0102)
NO_REQUEST = Outcome(0x0103)
NO_MEASUREMENT_AREA = Outcome(0x0104)
NO_ADDITIONAL_AREA = Outcome(0x0105)
BAD_VERSION = Outcome(0x0106)
BAD_LENGTH = Outcome(0x0107)
NO_SLOTS = Outcome(0x0108)
BAD_AREA = Outcome(0x0109)
BAD_FLAGS = Outcome(0x010A)
BAD_ALGORITHM = Outcome(0x010B)
NOT_UNSEALED = Outcome(0x010C)
MEASUREMENT_TOO_SHORT = Outcome(0x010D)
ADDITIONAL_TOO_SHORT = Outcome(0x010E)


def attest(uv: Machine, secure: SecureCpu, block: bytes) -> Outcome | Fault:
    """All areas are looked at before the first is written."""
    from protocol.arch.s390.evidence import attestation as form
    from protocol.arch.s390.evidence import request as requests
    from protocol.arch.s390.image import host_key

    asked = Attest(*ATTEST.unpack_from(block))
    if asked.token:
        return BAD_TOKEN
    if asked.user_length > form.USER_BYTES:
        return USER_DATA_TOO_LONG
    head = request_head(uv, secure, asked.request, form.REQUEST_MAX)
    if not isinstance(head, requests.Head):
        return NO_REQUEST if head is None else head
    refused = _bad_form(head)
    if refused is not None:
        return refused
    raw = load(uv.sie, secure, asked.request, head.length)
    if isinstance(raw, Fault):
        return raw
    refused = _bad_wishes(asked, raw)
    if refused is not None:
        return refused
    key = host_key(uv.seed, "host")
    opened = requests.unseal(raw, head, form.KEYS_AT, key)
    if opened is None:
        return NOT_UNSEALED
    flags, _ = form.authenticated(raw)
    config = secure.config
    assert config.params is not None, "a guest runs without an image"
    additional = config.params.key_hash if flags & form.FLAG_IMAGE_KEY else b""
    areas = (
        (asked.measurement, form.MEASUREMENT_BYTES, NO_MEASUREMENT_AREA),
        (asked.additional, len(additional), NO_ADDITIONAL_AREA),
    )
    for address, length, code in areas:
        if not inside(secure, address, length):
            return code
        fault = refusal(uv.sie, secure, address, length)
        if fault is not None:
            return fault
    params, uid = config.params, config_uid(uv, config)
    measurement = form.measure(
        opened[: form.MEASUREMENT_KEY_BYTES],
        form.ImageTags(params.pld, params.ald, params.tld, params.tag),
        uid,
        asked.user[: asked.user_length],
        opened[form.MEASUREMENT_KEY_BYTES :] or None,
        additional,
    )
    for address, data in ((asked.measurement, measurement), (asked.additional, additional)):
        fault = store(uv.sie, secure, address, data)
        assert fault is None, f"an area that was accessible is not: {fault}"
    return Outcome(EXECUTED, 0, ((ATTEST_UID, uid),))


def _bad_form(head: Head) -> Outcome | None:
    from protocol.arch.s390.evidence import attestation as form
    from protocol.arch.s390.evidence import request as requests

    if head.version != requests.VERSION_1:
        return BAD_VERSION
    if not head.slots:
        return NO_SLOTS
    if form.area_bytes(head) not in form.LENGTHS:
        return BAD_LENGTH
    if head.area != form.area_bytes(head):
        return BAD_AREA
    return None


def _bad_wishes(asked: Attest, raw: bytes) -> Outcome | None:
    from protocol.arch.s390.evidence import attestation as form

    flags, algorithm = form.authenticated(raw)
    if flags & ~ATTESTATION_FLAGS:
        return BAD_FLAGS
    if algorithm != form.HMAC_SHA512:
        return BAD_ALGORITHM
    if asked.measurement_length < form.MEASUREMENT_BYTES:
        return MEASUREMENT_TOO_SHORT
    if asked.additional_length < form.additional_bytes(flags):
        return ADDITIONAL_TOO_SHORT
    return None


def request_head(uv: Machine, secure: SecureCpu, address: int, longest: int) -> Head | Fault | None:
    """The head of an owner's request; None if the request, as long as it says but at most `longest`, is not
    wholly inside the guest. What lies behind the head is not touched before its length is known to be right.
    """
    from protocol.arch.s390.evidence import request as requests

    if not inside(secure, address, requests.HEAD_BYTES):
        return None
    raw = load(uv.sie, secure, address, requests.HEAD_BYTES)
    if isinstance(raw, Fault):
        return raw
    head = requests.Head.read(raw)
    return head if inside(secure, address, min(head.length, longest)) else None


def config_uid(uv: Machine, config: Config) -> bytes:
    """The Configuration Unique ID, 16 bytes."""
    from protocol.arch.s390.evidence.attestation import UID_BYTES
    from protocol.arch.s390.image.keys import derive

    return derive("config/uid", uv.seed, config.handle.to_bytes(8, "big"), UID_BYTES)
