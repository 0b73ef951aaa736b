"""The machine's TPM, as far as opening a lockbox needs one.

Commands have TPM 2.0's form and contents of ours.

The ultravisor reaches it through the hypervisor (H_SVM_TPM_COMM), which sees every byte. So the first command
makes a session that only the TPM's holder shares (X25519 with the TPM's static key), and the second one
returns the key of the lockbox sealed for that session.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from random import Random

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NO_SESSIONS, SESSIONS = 0x8001, 0x8002
START_SESSION, UNSEAL = 0x0176, 0x015E
RC_SUCCESS, RC_COMMAND_CODE, RC_SIZE, RC_INTEGRITY = 0, 0x143, 0x142, 0x1F
BUFFER = 4096
KEY_BYTES = 32
PUBLIC_BYTES = 32
_HEADER = struct.Struct(">HII")
_ZERO_IV = bytes(12)  # every key of an exchange seals one message
_LOCKBOX_BYTES = PUBLIC_BYTES + KEY_BYTES + 16


def command(code: int, payload: bytes) -> bytes:
    return _HEADER.pack(NO_SESSIONS, _HEADER.size + len(payload), code) + payload


def response(data: bytes) -> tuple[int, bytes]:
    """Return code and payload. Raises ValueError for what is no response."""
    if len(data) < _HEADER.size:
        raise ValueError("shorter than a header")
    _, size, code = _HEADER.unpack_from(data)
    if not _HEADER.size <= size <= len(data):
        raise ValueError("a wrong size")
    return int(code), data[_HEADER.size : size]


def agree(private: X25519PrivateKey, public: bytes, use: str) -> bytes:
    """The key that both sides of an exchange derive for `use`. Raises ValueError for a bad public key."""
    shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    return HKDF(SHA256(), KEY_BYTES, None, use.encode()).derive(shared)


def key_from(random: Random) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(random.randbytes(32))


def seal_lockbox(public: bytes, key: bytes, random: Random) -> bytes:
    """`key` for the machine whose TPM has this public key."""
    once = key_from(random)
    sealed = AESGCM(agree(once, public, "lockbox")).encrypt(_ZERO_IV, key, None)
    return once.public_key().public_bytes_raw() + sealed


def machine_id(public: bytes) -> bytes:
    """How a lockbox names the machine that it is for."""
    return sha256(public).digest()


class Tpm:
    """One machine's, by its seed."""

    def __init__(self, seed: int) -> None:
        self._key = key_from(Random(f"{seed}:tpm"))
        self.public = self._key.public_key().public_bytes_raw()
        self._session: bytes | None = None

    def execute(self, request: bytes) -> bytes:
        """Do one command. Whatever is wrong with it is in the response's code."""
        code, payload = self._do(request)
        return _HEADER.pack(NO_SESSIONS, _HEADER.size + len(payload), code) + payload

    def close(self) -> None:
        self._session = None

    def _do(self, request: bytes) -> tuple[int, bytes]:
        try:
            code, payload = response(request)
        except ValueError:
            return RC_SIZE, b""
        if code == START_SESSION and len(payload) == PUBLIC_BYTES:
            try:
                self._session = agree(self._key, payload, "session")
            except ValueError:
                return RC_INTEGRITY, b""
            return RC_SUCCESS, b""
        if code != UNSEAL or self._session is None:
            return RC_COMMAND_CODE, b""
        if len(payload) != _LOCKBOX_BYTES:
            return RC_SIZE, b""
        try:
            key = AESGCM(agree(self._key, payload[:PUBLIC_BYTES], "lockbox")).decrypt(
                _ZERO_IV, payload[PUBLIC_BYTES:], None
            )
        except (InvalidTag, ValueError):
            return RC_INTEGRITY, b""
        sealed = AESGCM(self._session).encrypt(_ZERO_IV, key, None)
        self._session = None  # its key has sealed its one message
        return RC_SUCCESS, sealed


class Session:
    """The ultravisor's side of one exchange."""

    def __init__(self, public: bytes, random: Random) -> None:
        once = key_from(random)
        self._key = agree(once, public, "session")
        self.start = command(START_SESSION, once.public_key().public_bytes_raw())

    @staticmethod
    def unseal(lockbox: bytes) -> bytes:
        return command(UNSEAL, lockbox)

    def opened(self, answer: bytes) -> bytes:
        """The key of the lockbox. Raises ValueError if the TPM did not answer this session with one."""
        code, payload = response(answer)
        if code != RC_SUCCESS:
            raise ValueError(f"the TPM answers {code:#x}")
        try:
            return AESGCM(self._key).decrypt(_ZERO_IV, payload, None)
        except InvalidTag as wrong:
            raise ValueError("not sealed for this session") from wrong
