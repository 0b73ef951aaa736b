"""What an owner, a guest and a Trusted Entity show each other: headers, dumps, messages, quotes.

Most of it is sealed, and a change outside is refused at the seal. So half of what is tried here was changed
first and sealed then, with keys that the fuzzer holds.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import Any

import msgpack
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from draw import anything, changed, number

from protocol.arch.pef import blob, fdt, tpm
from protocol.arch.s390.evidence import attestation, secrets
from protocol.arch.s390.evidence import dump as dumps
from protocol.arch.s390.evidence import request as form
from protocol.arch.s390.host import dump as taken_by_host
from protocol.arch.s390.image import build, host_key
from protocol.arch.s390.image.build import Component, Image
from protocol.arch.s390.image.header import FIXED_BYTES, Fixed
from protocol.arch.s390.image.unseal import Refusal as NotTaken
from protocol.arch.s390.image.unseal import Unsealed, unseal
from protocol.arch.s390.profiles import PCF, SCF
from protocol.arch.sev import cpuid
from protocol.arch.sev.crypto import identity, message, session
from protocol.arch.sev.machine.swap import Mdata, open_page, seal_page
from protocol.arch.sev.profiles import PROFILES as SEV_PROFILES
from protocol.arch.sev.status import Status
from protocol.arch.sev.structs import PAGE
from protocol.arch.tdx import quote
from protocol.arch.tdx import structs as tdx
from protocol.hosting import evidence as hosted
from protocol.hosting.errors import Refusal
from protocol.hosting.idempotency import open_key
from protocol.hosting.journal import open_row
from protocol.hosting.machine import Spec
from protocol.hosting.signature import check

SEED = 1
KEY = bytes(range(32))


def said(read: Callable[[], Any], *refusals: type[Exception]) -> str:
    """What reading something came to. Raises what is no refusal."""
    try:
        read()
    except refusals as error:
        assert str(error), repr(error)
        return "refused"
    return "taken"


def spoilt(random: Random, data: bytes) -> bytes:
    """Mostly with mistakes; of the same length, or not; now and then something else."""
    way = random.random()
    if way < 0.1:
        return data
    if way < 0.2:
        return random.randbytes(random.choice((0, 1, 8, len(data), len(data) + 3)))
    if way < 0.6:
        return patched(random, data)
    return changed(random, data)


def patched(random: Random, data: bytes) -> bytes:
    """Some fields with another number in them; the length stays."""
    made = bytearray(data)
    for _ in range(random.randrange(1, 4)):
        width = random.choice((1, 2, 4, 8))
        at = random.randrange(max(1, min(len(made), 0x400)))
        word = number(random, bits=8 * width).to_bytes(width, random.choice(("big", "little")))
        made[at : at + width] = word[: len(made) - at]
    return bytes(made)


# -- s390: images' headers, evidence, dumps ----------------------------------------------------------------


@cache
def image(pcf: int = 0, scf: int = 0) -> Image:
    component = Component(0x10000, b"kernel" * 1000, 1)
    key = host_key(SEED, "host")
    return build([component], seed=SEED, digest=b"fuzz", slots=[key], psw=None, pcf=pcf, scf=scf)


@cache
def request() -> attestation.Request:
    return attestation.build([host_key(SEED, "host")], seed=SEED, digest=b"fuzz")


def s390_papers(random: Random) -> Iterator[str]:
    """SE headers, evidence, lists of secrets."""
    header, key = image(random.choice((0, PCF)), random.choice((0, SCF))).header, host_key(SEED, "host")
    asked = request()
    for _ in range(20):
        # The call that hands a header over has looked at its length.
        data = spoilt(random, header)[:0x2000]
        outcome = unseal(data, key, supported_pcf=PCF, supported_scf=SCF, backup=random.choice((None, key)))
        assert isinstance(outcome, NotTaken | Unsealed)
        yield type(outcome).__name__
        size = attestation.additional_bytes(asked.flags)
        words = [attestation.measure(asked.measurement_key, attestation.ImageTags.of_header(header),
                                     bytes(16), b"", asked.nonce, bytes(size)), bytes(size), b""]  # fmt: skip
        measurement, additional, own = (spoilt(random, each) for each in words)
        brought = attestation.Evidence(spoilt(random, bytes(16)), measurement, additional, own)
        yield str(attestation.verify(asked, header, brought))
        yield said(lambda data=data: attestation.ImageTags.of_header(data), struct.error)
        yield said(lambda: _head_of(spoilt(random, asked.raw)), struct.error)
        assert Fixed.unpack(data.ljust(FIXED_BYTES, b"\0"))
        yield said(lambda: _listed(random), ValueError)
        assert len(secrets.plaintext_of(spoilt(random, b"\0\5hello"))) < 1 << 16


def _head_of(request: bytes) -> None:
    """What is read of a request before its tag has been looked at."""
    head = form.Head.read(request)
    assert attestation.area_bytes(head) <= head.length
    assert attestation.additional_bytes(attestation.authenticated(request)[0]) < PAGE


def _listed(random: Random) -> None:
    entries = tuple(secrets.Entry(n, 3, 32, bytes(32)) for n in range(random.randrange(80)))
    page = secrets.SecretList(random.randrange(200), 0, entries).pack()
    secrets.SecretList.unpack(spoilt(random, page))


@cache
def dump() -> tuple[bytes, bytes, bytes]:
    """CCK, a completion that it opens, and the key that this has for CPUs."""
    cck, seed = bytes(range(32)), bytes(range(64))
    key = dumps.dump_key(cck, seed)
    return cck, dumps.seal_completion(key, bytes(12), seed, bytes(16), bytes(range(64))), key


def s390_dumps(random: Random) -> Iterator[str]:
    """A guest's dump, as its owner gets it: changed outside, or inside before it was sealed."""
    cck, completion, key = dump()
    for _ in range(10):
        state = dumps.CpuState(tuple(number(random) for _ in range(16)), random.randbytes(16),
                               number(random, bits=32), number(random))  # fmt: skip
        cpus = [dumps.seal_cpu(key, bytes(12), state)]
        components = b"".join(_component(random) for _ in range(random.randrange(4)))
        pages = [(page, random.randbytes(random.choice((4096, 4096, 10)))) for page in range(4)]
        parts = [completion, cpus, components, pages]
        way = random.randrange(4)
        if way == 0:
            parts[0] = spoilt(random, completion)
        elif way == 1:
            parts[1] = [spoilt(random, cpus[0])]
        elif way == 2:
            parts[random.randrange(4)] = anything(random)
        packed = _packed(parts)
        yield said(lambda packed=packed: _opened(cck, packed), ValueError)
        yield said(lambda packed=packed: _opened(cck, spoilt(random, packed)), ValueError)


def _component(random: Random) -> bytes:
    if random.random() < 0.5:
        return dumps.special(random.choice((1, 2, 4, 6, 3, 0x80, 0)))
    return random.randbytes(dumps.COMPONENT_BYTES)


def _opened(cck: bytes, packed: bytes) -> None:
    """As an owner does it: what is read is what was asked for."""
    given, pages = taken_by_host.unpack(packed)
    opened = dumps.open_dump(cck, given.completion, given.cpus, given.storage_state, pages)
    opened.read(0, min(opened.length, 8192))


def _packed(value: Any) -> bytes:
    try:
        packed: bytes = msgpack.packb(value)
    except (TypeError, ValueError, OverflowError):
        return b"\xc1"
    return packed


# -- AMD: guest messages, certificates, sessions, pages that were swapped out ------------------------------


def sev_papers(random: Random) -> Iterator[str]:
    """Pages with messages, certificates of owners and peers, NV areas, session blobs, CPUID pages."""
    profile = SEV_PROFILES["small"]
    own = identity.Identity(SEED)
    owner = identity.Identity(SEED + 1)
    for _ in range(6):
        body = spoilt(random, bytes(0x60))[:0x400]
        sealed = message.seal(KEY, number(random, bits=8), 1, random.randrange(4), body)
        read = message.Message.unpack(spoilt(random, sealed).ljust(PAGE, b"\0")[:PAGE])
        opened = None if read is None else read.open(KEY)
        yield "no message" if read is None else "sealed otherwise" if opened is None else "opened"
        yield str(_certified(random, own, owner))
        found = identity.Identity.load(SEED, spoilt(random, own.save()))
        yield "another platform" if found is None else "this platform"
        keys = session.Keys(random.randbytes(16), random.randbytes(16))
        secret = random.randbytes(16)
        wrapped = session.wrap(secret, keys, bytes(16), bytes(16), 1)
        assert session.unwrap(secret, spoilt(random, wrapped).ljust(128, b"\0")[:128], 1) in (keys, None)
        page = cpuid._HEADER.pack(random.randrange(70)) + b"".join(_leaf(random) for _ in range(64))
        corrected = cpuid.corrected(profile, spoilt(random, page).ljust(PAGE, b"\0")[:PAGE])
        yield "right" if corrected is None else "corrected" if corrected else "malformed"
        yield _swapped(random)


def _certified(random: Random, own: identity.Identity, owner: identity.Identity) -> Status | str:
    """An owner's certificates over the key of this platform, with mistakes in one of them."""
    oca, signed = owner.oca(), ((identity.OCA, owner.key(identity.OCA)),)
    pek = identity.certificate(identity.PEK, own.key(identity.PEK).public_key(), signed)
    pair = [pek, oca]
    at = random.randrange(2)
    pair[at] = spoilt(random, pair[at]).ljust(len(oca), b"\0")[: len(oca)]
    taken = own.with_owner(*pair)
    return taken if isinstance(taken, Status) else "owned"


def _leaf(random: Random) -> bytes:
    leaf = random.choice((0, 1, 7, 0xD, 0x8000_0001, 0x8000_0008, 0x8000_001F, number(random, bits=32)))
    registers = [number(random, bits=32) for _ in range(4)]
    packed: bytes = cpuid._ENTRY.pack(leaf, random.randrange(3), 0, 0, *registers, 0)
    return packed


def _swapped(random: Random) -> str:
    mdata = Mdata(number(random), number(random, bits=62), gpa=random.getrandbits(40) << 12, vmsa=True)
    sealed, entry = seal_page(KEY, mdata, bytes(PAGE))
    read = Mdata.unpack(patched(random, entry) if random.random() < 0.7 else entry)
    if read is None:
        return "not valid"
    return "opened" if open_page(KEY, read, sealed) is not None else "another page"


# -- TDX: reports and quotes -------------------------------------------------------------------------------

REPORT_KEY = b"report key".ljust(32, b"\0")


@cache
def enclave() -> quote.QuotingEnclave:
    return quote.QuotingEnclave(SEED, REPORT_KEY)


@cache
def root() -> bytes:
    return quote.root_certificate()


def tdreport(random: Random) -> bytes:
    """A report of this machine over parts that may be anything."""
    tcb, about = bytes(tdx.TEE_TCB_INFO.size), random.randbytes(tdx.TD_INFO.size)
    digests = [hashlib.sha384(part).digest() for part in (tcb, about)]
    fields = (tdx.TEE_TYPE_TDX, 0, 0, 0, bytes(16), *digests, bytes(64), bytes(32))
    unsigned = tdx.REPORT_MAC.pack(*fields)[: tdx.MAC_COVERS]
    if random.random() < 0.3:
        unsigned = patched(random, unsigned)
    mac = quote.hmac.digest(REPORT_KEY, unsigned, "sha256")
    return (unsigned + mac).ljust(tdx.REPORT_MAC_SIZE, b"\0") + tcb + about


def tdx_papers(random: Random) -> Iterator[str]:
    """Reports to the quoting enclave; quotes to whoever trusts the root."""
    made = enclave().quote(_right_report())
    for _ in range(6):
        found = tdreport(random)
        yield said(lambda found=found: enclave().quote(found), ValueError)
        yield said(lambda found=found: enclave().quote(spoilt(random, found)), ValueError)
        data = spoilt(random, made)
        if random.random() < 0.3:  # in the certificates, which are text
            at = made.index(b"-----BEGIN") + random.randrange(1500)
            data = made[:at] + random.choice((b"A", b"z", b"\n", b"", b"/")) + made[at + 1 :]
        yield said(lambda data=data: quote.verify(data, root()), ValueError)


@cache
def _right_report() -> bytes:
    for seed in range(99):
        found = tdreport(Random(seed))
        if said(lambda found=found: enclave().quote(found), ValueError) == "taken":
            return found
    raise AssertionError("no report is right")


# -- POWER: the blob that a guest brings, and what the TPM says to it --------------------------------------


@cache
def esm_blob() -> tuple[bytes, bytes]:
    """A blob and the key of its sealed part."""
    parts = dict.fromkeys(blob.MEASURED, b"data")
    made = blob.make(parts, (tpm.Tpm(SEED).public,), {"file": b"secret"}, Random(0))
    return made, Random(0).randbytes(tpm.KEY_BYTES)


def pef_papers(random: Random) -> Iterator[str]:
    """ESM blobs, with mistakes outside or below the seal; a talk with the TPM past a hostile host."""
    made, key = esm_blob()
    chip = tpm.Tpm(SEED)
    for _ in range(8):
        yield said(lambda: _blob(random, made, key), ValueError)
        yield said(lambda: _talk(random, chip, made), ValueError)
        answer = chip.execute(spoilt(random, tpm.command(tpm.START_SESSION, bytes(32))))
        yield said(lambda answer=answer: tpm.response(spoilt(random, answer)), ValueError)


def _blob(random: Random, made: bytes, key: bytes) -> None:
    tree = fdt.unpack(made)[0]
    if random.random() < 0.5:
        tree = fdt.unpack(spoilt(random, made))[0]
    elif random.random() < 0.8:
        sealed = tree.child("sealed")
        inner = AESGCM(key).decrypt(sealed.data("iv"), sealed.data("data"), None)
        sealed.properties["data"] = AESGCM(key).encrypt(sealed.data("iv"), spoilt(random, inner), None)
    else:
        spoil_tree(random, tree)
    assert len(blob.lockbox_for(tree, tpm.Tpm(SEED).public)) >= 0
    found = blob.unsealed(tree, key)
    assert set(found.digests) == set(blob.MEASURED)


def spoil_tree(random: Random, node: fdt.Node) -> None:
    """A property is gone, or another; or one of a child."""
    inside = [*node.children.values()]
    if inside and random.random() < 0.7:
        spoil_tree(random, random.choice(inside))
        return
    for name in list(node.properties):
        node.properties[name] = random.choice((b"", b"\0", spoilt(random, node.properties[name])))
    if inside and random.random() < 0.3:
        node.children.popitem()


def _talk(random: Random, chip: tpm.Tpm, made: bytes) -> None:
    """The ultravisor's side; the hypervisor may change each word."""

    def carried(data: bytes) -> bytes:
        return spoilt(random, data) if random.random() < 0.3 else data

    box = blob.lockbox_for(fdt.unpack(made)[0], chip.public)
    talk = tpm.Session(chip.public, Random(random.random()))
    started = carried(chip.execute(carried(talk.start)))
    talk.opened(carried(chip.execute(carried(talk.unseal(started, carried(box))))))


# -- hosting: evidence of a child, and what a service finds on its disk ------------------------------------


@cache
def signer() -> hosted.KeySigner:
    from cryptography.hazmat.primitives.asymmetric import ec

    return hosted.KeySigner(ec.derive_private_key(12345, ec.SECP384R1()))


def hosting_papers(random: Random) -> Iterator[str]:
    """Evidence, as a requester verifies it; rows of a journal, keys, signed images, as a service reads."""
    facts = {"child": bytes(16), "debug": False, "nonce": b"nonce"}
    made = hosted.evidence(signer(), facts, hosted.Measured(bytes(48)))
    trusted = signer().public_key()
    for _ in range(6):
        data = spoilt(random, made)
        way = random.random()
        if way < 0.4:  # one that is in the way brings the key that is trusted, and anything else
            outer = msgpack.unpackb(made)
            outer[random.choice(("payload", "signature", "format", "key"))] = anything(random)
            data = _packed(outer)
        elif way < 0.7:  # the host itself says something else
            payload = _packed(random.choice((anything(random), facts | {"nonce": anything(random)})))
            data = _packed({"format": hosted.FORMAT, "payload": payload, "key": trusted,
                            "signature": signer().sign(payload)})  # fmt: skip
        yield said(lambda data=data: hosted.verify(data, trusted, b"nonce"), ValueError)
        row = spoilt(random, _packed({"state": "RUNNING"}))
        yield said(lambda row=row: open_row(row), ValueError)
        assert open_key(random.randbytes(16)).epoch < 1 << 32
        made_by = hashlib.sha256(data := spoilt(random, trusted)).hexdigest()
        spec = Spec(
            bytes(32), 1, 1, signature=spoilt(random, b"0D"), signer=data, not_after=number(random) >> 1
        )
        yield said(lambda spec=spec, by=made_by: check(spec, frozenset({by}), 1), Refusal)


TARGETS: tuple[Callable[[Random], Iterator[str]], ...] = (
    s390_papers, s390_dumps, sev_papers, tdx_papers, pef_papers, hosting_papers,
)  # fmt: skip
