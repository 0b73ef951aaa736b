"""Keys and certificates that somebody else made: whatever is wrong with one is a ValueError.

The library has many words for that: a curve or a kind that it does not know, a password, a version, an
extension that stands there twice, an error of OpenSSL that it cannot name. None of them is a ValueError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Read a key or a certificate inside of it. Raises ValueError alone; `what` is named in its message."""
    from cryptography import exceptions, x509  # later: programs that start in milliseconds come by here

    wrong = (
        ValueError, TypeError, exceptions.UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    )  # fmt: skip
    try:
        yield
    except exceptions.InternalError:
        raise ValueError(f"{what}: OpenSSL refuses it") from None
    except wrong as error:
        raise ValueError(f"{what}: {error}") from None
