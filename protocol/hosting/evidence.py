"""Evidence about a hosted child: what runs, for whom, in which of its boots, signed by the host.

    evidence   msgpack map {format, payload, signature, key}
    payload    msgpack map {child, cid, requester, epoch, measurement, debug, nonce, user_data, guest_data,
               vmm, policy, at_ms, te}

`signature` is ECDSA with SHA-384 over `payload`, in DER; `key` the public key it verifies with, in DER. A
verifier trusts a host by its key, not because the evidence brings one. The requester's CID and epoch are in
what is signed: a child is the guest of somebody. `measurement` is the SHA-384 of the image, and 48 zero bytes
for a debug child, which anybody may have looked into. `te` is what the Trusted Entity itself signed, where
there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgpack
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.keys import readable

FORMAT = "nestbed-evidence-1"
EVIDENCE_BYTES = 16 * 1024
NONCE_BYTES = USER_BYTES = 512
DEBUG_MEASUREMENT = bytes(48)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the machine says of a guest: the SHA-384 of what was loaded, and the TE's own evidence.

    `guest_data`: what the guest itself had bound to it, such as the key of its end of a channel.
    """

    measurement: bytes
    te: bytes | None = None
    guest_data: bytes = b""


class Signer(Protocol):
    """Whoever signs for the host."""

    def sign(self, payload: bytes) -> bytes: ...

    def public_key(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Trust:
    """What a host keeps to itself: who signs for it, and what credentials and tokens are made from."""

    secret: bytes
    signer: Signer | None = None


class KeySigner:
    """Signs with a private key on the curve P-384."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    def sign(self, payload: bytes) -> bytes:
        return self._key.sign(payload, ec.ECDSA(hashes.SHA384()))

    def public_key(self) -> bytes:
        return self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def evidence(signer: Signer, facts: Mapping[str, Any], measured: Measured) -> bytes:
    """Return evidence over `facts`. Raises ValueError where it would be too long to be told."""
    measurement = DEBUG_MEASUREMENT if facts["debug"] else measured.measurement
    payload = msgpack.packb({**facts, "measurement": measurement, "te": measured.te}, use_bin_type=True)
    made: bytes = msgpack.packb(
        {
            "format": FORMAT,
            "payload": payload,
            "signature": signer.sign(payload),
            "key": signer.public_key(),
        },
        use_bin_type=True,
    )
    if len(made) > EVIDENCE_BYTES:
        raise ValueError(f"evidence of {len(made)} bytes; at most {EVIDENCE_BYTES}")
    return made


def verify(made: bytes, trusted_key: bytes, nonce: bytes) -> dict[str, Any]:
    """Return what evidence says; raises ValueError: forged, of another host, or of another question."""
    try:
        outer = msgpack.unpackb(made)
        payload, signature = outer["payload"], outer["signature"]
    except (ValueError, TypeError, KeyError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"no evidence: {error}") from error
    if type(payload) is not bytes or type(signature) is not bytes:
        raise ValueError("no evidence: payload and signature are bytes")
    if outer.get("format") != FORMAT:
        raise ValueError(f"evidence of another format; read here: {FORMAT}")
    if outer.get("key") != trusted_key:
        raise ValueError("signed by a host that is not trusted")
    with readable("the trusted key cannot be used"):
        key = serialization.load_der_public_key(trusted_key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("the trusted key is not on an elliptic curve")  # noqa: TRY004 - one kind for callers
    try:
        key.verify(signature, payload, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise ValueError("the signature does not verify") from None
    try:
        said: Any = msgpack.unpackb(payload)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"what was signed is no evidence: {error}") from error
    if type(said) is not dict or said.get("nonce") != nonce:
        raise ValueError("the answer to another question: not this nonce")
    facts: dict[str, Any] = said
    return facts
