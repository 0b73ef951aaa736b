"""The secret store of a guest: calls 0x1031 Add, 0x1033 List, 0x1034 Lock, 0x1035 Retrieve.

Follows sections 2.1 P to R and 3.5 of the fact sheet, and for requests and extension secrets s390-tools
`rust/pvsecret`. A request is taken if it is for the image that the guest runs and, where it names one, for
this configuration, and if it carries the right extension secret: the one of the first request, or, with
secret control flag 1 in the image, the one that follows from the owner's CCK. A store lives as long as its
configuration.

Guesses: the order of checks (ascending codes, but slots before size); one code, 0x010C, for everything that
does not fit; indices from 0 on; that the kind of user data in the magic is not looked at. Code 0x0101 ("not
allowed to modify") is never given: nothing here forbids a guest its store. Kinds that are retrieved as
protected keys are not offered and answer 0x0109.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from protocol.arch.s390.machine.attest import config_uid, request_head
from protocol.arch.s390.machine.entities import Config, Secret, SecureCpu
from protocol.arch.s390.machine.guest_storage import inside, load, store
from protocol.arch.s390.profiles import MAX_ASSOCIATIONS, MAX_RETRIEVABLE
from protocol.arch.s390.structs import (
    DONE,
    GUEST_ADDRESS,
    LIST_SECRETS,
    MORE_DATA,
    RETRIEVE_SECRET,
    Outcome,
)
from protocol.effects import Fault

if TYPE_CHECKING:
    from protocol.arch.s390.evidence.request import Head
    from protocol.arch.s390.evidence.secrets import Described
    from protocol.arch.s390.machine import Machine

LOCKED = Outcome(0x0102)
NO_REQUEST = Outcome(0x0103)
BAD_VERSION = Outcome(0x0104)
BAD_SIZE = Outcome(0x0105)
NO_SLOTS = Outcome(0x0106)
BAD_FLAGS = Outcome(0x0107)
NOT_UNSEALED = Outcome(0x0108)
BAD_KIND = Outcome(0x0109)
BAD_LENGTH = Outcome(0x010A)
FULL = Outcome(0x010B)
DOES_NOT_FIT = Outcome(0x010C)
DUMPING = Outcome(0x010D)

NO_AREA = Outcome(0x0102)
TOO_SMALL = Outcome(0x0109)
EMPTY = Outcome(0x010F)
NO_SUCH_SECRET = Outcome(0x0110)
NOT_RETRIEVABLE = Outcome(0x0111)


def add(uv: Machine, secure: SecureCpu, block: bytes) -> Outcome | Fault:
    from protocol.arch.s390.evidence import request as requests
    from protocol.arch.s390.evidence import secrets as form
    from protocol.arch.s390.image import host_key

    config = secure.config
    if config.store.locked:
        return LOCKED
    address = GUEST_ADDRESS.unpack_from(block)[0]
    head = request_head(uv, secure, address, form.REQUEST_MAX)
    if not isinstance(head, requests.Head):
        return NO_REQUEST if head is None else head
    request = _whole(uv, secure, address, head)
    if not isinstance(request, bytes):
        return request
    said = form.described(request, head)
    if said.flags & ~form.FLAG_DISABLE_DUMP:
        return BAD_FLAGS
    opened = requests.unseal(request, head, form.KEYS_AT, host_key(uv.seed, "host"))
    if opened is None:
        return NOT_UNSEALED
    value, extension = opened[: -form.EXTENSION_BYTES], opened[-form.EXTENSION_BYTES :]
    return _not_wanted(uv, config, said, value, extension) or _take(config, said, value, extension)


def _whole(uv: Machine, secure: SecureCpu, address: int, head: Head) -> bytes | Outcome | Fault:
    """The request, if its head says that it is one; the kind of its secret decides which length is right."""
    from protocol.arch.s390.evidence import request as requests
    from protocol.arch.s390.evidence import secrets as form

    if head.version != requests.VERSION_1 or not head.magic.startswith(form.MAGIC):
        return BAD_VERSION
    if not head.slots:
        return NO_SLOTS
    if not any(form.right_length(head, kind) for kind in (form.Kind.NULL, form.Kind.ASSOCIATION)):
        return BAD_SIZE
    if head.length > form.REQUEST_MAX:
        return BAD_SIZE
    raw = load(uv.sie, secure, address, head.length)
    if isinstance(raw, Fault):
        return raw
    return raw if form.right_length(head, form.described(raw, head).kind) else BAD_SIZE


def _not_wanted(
    uv: Machine, config: Config, said: Described, value: bytes, extension: bytes
) -> Outcome | None:
    """The checks of an authentic request."""
    from protocol.arch.s390.evidence import secrets as form
    from protocol.arch.s390.image.header import SCF_CCK_UPDATE

    params = config.params
    assert params is not None, "a guest runs without an image"
    if said.kind not in set(form.Kind):
        return BAD_KIND
    if said.described != len(value) or not form.fits(said.kind, len(value)):
        return BAD_LENGTH
    room = {form.Kind.ASSOCIATION: MAX_ASSOCIATIONS, form.Kind.PLAINTEXT: MAX_RETRIEVABLE}
    if said.kind in room and _stored(config, said.kind) >= room[form.Kind(said.kind)]:
        return FULL
    if said.tags != params.pld + params.ald + params.tld + params.tag:
        return DOES_NOT_FIT
    if any(said.uid) and said.uid != config_uid(uv, config):
        return DOES_NOT_FIT
    if extension != _wanted_extension(config, extension):
        return DOES_NOT_FIT
    if said.kind == form.Kind.UPDATE_CCK and not params.scf & SCF_CCK_UPDATE:
        return DOES_NOT_FIT
    return DUMPING if config.dump is not None else None


def _stored(config: Config, kind: int) -> int:
    return sum(secret.kind == kind for secret in config.store.secrets)


def _wanted_extension(config: Config, given: bytes) -> bytes:
    """What a request has to carry; the first one decides, unless the image says that the CCK does."""
    from protocol.arch.s390.evidence.secrets import derived_extension
    from protocol.arch.s390.image.header import SCF_EXTENSION_SECRET

    params = config.params
    assert params is not None
    if params.scf & SCF_EXTENSION_SECRET:
        return derived_extension(params.cck, params.tag)
    return given if config.store.extension is None else config.store.extension


def _take(config: Config, said: Described, value: bytes, extension: bytes) -> Outcome:
    from protocol.arch.s390.evidence import secrets as form

    assert config.params is not None
    kept = config.own_store()
    if kept.extension is None:
        kept.extension = extension
    if said.flags & form.FLAG_DISABLE_DUMP:
        config.dump_disabled = True
    if said.kind == form.Kind.UPDATE_CCK:
        config.params = replace(config.params, cck=value)
    elif said.kind != form.Kind.NULL:
        kept.secrets.append(Secret(said.kind, said.id, value))
    return DONE


def list_all(uv: Machine, secure: SecureCpu, block: bytes) -> Outcome | Fault:
    """One page of the list, from an index on; the code and the next index say that there is more."""
    from protocol.arch.s390.evidence import secrets as form

    first, address = LIST_SECRETS.unpack_from(block)
    if not inside(secure, address, form.LIST_BYTES):
        return NO_AREA
    kept = secure.config.store.secrets
    last = min(first + form.ENTRIES, len(kept))
    entries = tuple(
        form.Entry(number, kept[number].kind, len(kept[number].value), kept[number].id)
        for number in range(first, last)
    )
    more = last < len(kept)
    page = form.SecretList(len(kept), last if more else 0, entries).pack()
    fault = store(uv.sie, secure, address, page)
    if fault is not None:
        return fault
    return Outcome(MORE_DATA) if more else DONE


def lock(uv: Machine, secure: SecureCpu, block: bytes) -> Outcome | Fault:
    """From now on the store does not change any more."""
    if secure.config.store.locked:
        return LOCKED
    secure.config.own_store().locked = True
    return DONE


def retrieve(uv: Machine, secure: SecureCpu, block: bytes) -> Outcome | Fault:
    from protocol.arch.s390.evidence.secrets import Kind

    number, length, address = RETRIEVE_SECRET.unpack_from(block)
    kept = secure.config.store.secrets
    if not kept:
        return EMPTY
    if number >= len(kept):
        return NO_SUCH_SECRET
    secret = kept[number]
    if secret.kind != Kind.PLAINTEXT:
        return NOT_RETRIEVABLE
    if length < len(secret.value):
        return TOO_SMALL
    if not inside(secure, address, len(secret.value)):
        return NO_AREA
    return store(uv.sie, secure, address, secret.value) or DONE
