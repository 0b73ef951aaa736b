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
RC_SUCCESS, RC_COMMAND_CODE, RC_SIZE, RC_INTEGRITY, RC_HANDLE = 0, 0x143, 0x142, 0x1F, 0x8B
BUFFER = 4096
KEY_BYTES = 32
PUBLIC_BYTES = 32
HANDLE_BYTES = 4
SESSIONS_AT_ONCE = 64  # the oldest one goes
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
        self._sessions: dict[int, bytes] = {}  # several ultravisor calls may be talking to it
        self._handles = 0

    def execute(self, request: bytes) -> bytes:
        """Do one command. Whatever is wrong with it is in the response's code."""
        code, payload = self._do(request)
        return _HEADER.pack(NO_SESSIONS, _HEADER.size + len(payload), code) + payload

    def _do(self, request: bytes) -> tuple[int, bytes]:
        try:
            code, payload = response(request)
        except ValueError:
            return RC_SIZE, b""
        if code == START_SESSION and len(payload) == PUBLIC_BYTES:
            try:
                return RC_SUCCESS, self._opened(agree(self._key, payload, "session"))
            except ValueError:
                return RC_INTEGRITY, b""
        if code != UNSEAL:
            return RC_COMMAND_CODE, b""
        if len(payload) != HANDLE_BYTES + _LOCKBOX_BYTES:
            return RC_SIZE, b""
        session = self._sessions.pop(int.from_bytes(payload[:HANDLE_BYTES], "big"), None)
        if session is None:
            return RC_HANDLE, b""
        payload = payload[HANDLE_BYTES:]
        try:
            key = AESGCM(agree(self._key, payload[:PUBLIC_BYTES], "lockbox")).decrypt(
                _ZERO_IV, payload[PUBLIC_BYTES:], None
            )
        except (InvalidTag, ValueError):
            return RC_INTEGRITY, b""
        return RC_SUCCESS, AESGCM(session).encrypt(_ZERO_IV, key, None)

    def _opened(self, key: bytes) -> bytes:
        """The handle of a new session, which ends with the one message that its key seals."""
        if len(self._sessions) == SESSIONS_AT_ONCE:
            del self._sessions[next(iter(self._sessions))]
        self._handles += 1
        self._sessions[self._handles] = key
        return self._handles.to_bytes(HANDLE_BYTES, "big")


class Session:
    """The ultravisor's side of one exchange."""

    def __init__(self, public: bytes, random: Random) -> None:
        once = key_from(random)
        self._key = agree(once, public, "session")
        self.start = command(START_SESSION, once.public_key().public_bytes_raw())

    @staticmethod
    def unseal(started: bytes, lockbox: bytes) -> bytes:
        """The second command; `started` is the answer to the first. Raises ValueError if that is none."""
        code, handle = response(started)
        if code != RC_SUCCESS or len(handle) != HANDLE_BYTES:
            raise ValueError(f"the TPM answers {code:#x}")
        return command(UNSEAL, handle + lockbox)

    def opened(self, answer: bytes) -> bytes:
        """The key of the lockbox. Raises ValueError if the TPM did not answer this session with one."""
        code, payload = response(answer)
        if code != RC_SUCCESS:
            raise ValueError(f"the TPM answers {code:#x}")
        try:
            return AESGCM(self._key).decrypt(_ZERO_IV, payload, None)
        except InvalidTag as wrong:
            raise ValueError("not sealed for this session") from wrong
