"""Signed images: what a policy may ask of a start, looked at before anything is reserved.

`signature` is ECDSA with SHA-384, in DER, over the image's digest and `not_after` (8 bytes, big-endian, ms of
the host's clock); `signer` is the public key, in DER. A policy names signers by the SHA-256 of that.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.hosting.errors import Code, Refusal
from protocol.hosting.machine import Spec
from protocol.keys import readable


def said(digest: bytes, not_after: int) -> bytes:
    """What is signed."""
    return digest + not_after.to_bytes(8, "big")


def check(spec: Spec, signers: frozenset[str], now_ms: int) -> None:
    """Raise Refusal (SIGNATURE), with the true cause, unless one of `signers` signed and it still holds."""
    if not spec.signature:
        raise Refusal(Code.SIGNATURE, "the policy wants a signed image", stage="image")
    if hashlib.sha256(spec.signer).hexdigest() not in signers:
        raise Refusal(Code.SIGNATURE, "signed by somebody whom the policy does not name", stage="image")
    try:
        with readable("the signer's key"):
            key = serialization.load_der_public_key(spec.signer)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(spec.signature, said(spec.image, spec.not_after), ec.ECDSA(hashes.SHA384()))
    except (ValueError, AssertionError, InvalidSignature):
        raise Refusal(Code.SIGNATURE, "the signature does not verify", stage="image") from None
    if spec.not_after <= now_ms:
        late = (now_ms - spec.not_after) // 1000
        raise Refusal(Code.SIGNATURE, f"the signature expired {late} s ago", stage="image")
