"""Host keys come from the seed, slots open for one machine only."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.arch.s390.image import HostKey, host_key
from protocol.arch.s390.image.keys import (
    SlotFailure,
    agree,
    gcm_open,
    key_pair,
    public_key,
    scalar_from,
    unwrap,
    wrap,
)

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def customer() -> HostKey:
    """The owner's key pair, made for one image."""
    return key_pair(scalar_from(b"owner" * 20))


def test_a_seed_gives_the_same_key_every_time() -> None:
    host_key.cache_clear()
    first = host_key(3, "host")
    host_key.cache_clear()
    assert host_key(3, "host") == first


def test_machines_and_seeds_have_different_keys() -> None:
    keys = {host_key(seed, which).public for seed in (3, 4) for which in ("host", "other", "backup")}
    assert len(keys) == 6


def test_the_public_form_is_two_coordinates_of_80_bytes(host: HostKey) -> None:
    assert len(host.public) == 160
    # 521 bits need 66 bytes; the rest of each coordinate is padding.
    assert host.public[:14] == host.public[80:94] == bytes(14)
    assert host.public_hash == hashlib.sha256(host.public).digest()


def test_both_sides_agree_on_the_wrapping_key(host: HostKey, customer: HostKey) -> None:
    key = agree(host.scalar, customer.public)
    assert key == agree(customer.scalar, host.public)
    assert key is not None and len(key) == 32


def test_the_wrapping_key_is_the_hash_of_secret_and_counter(host: HostKey, customer: HostKey) -> None:
    secret = ec.derive_private_key(host.scalar, ec.SECP521R1()).exchange(
        ec.ECDH(), ec.derive_private_key(customer.scalar, ec.SECP521R1()).public_key()
    )
    assert len(secret) == 66
    key = hashlib.sha256(secret + b"\x00\x00\x00\x01").digest()
    assert agree(host.scalar, customer.public) == key

    slot = wrap(KEY, customer.scalar, host)
    assert gcm_open(key, bytes(12), b"", slot.wrapped, slot.tag) == KEY


def test_a_slot_opens_for_its_machine(host: HostKey, other: HostKey, customer: HostKey) -> None:
    slots = [wrap(KEY, customer.scalar, other), wrap(KEY, customer.scalar, host)]
    assert unwrap(slots, customer.public, host) == KEY
    assert unwrap(slots, customer.public, other) == KEY
    assert unwrap(slots[:1], customer.public, host) is SlotFailure.NO_SLOT
    assert unwrap([], customer.public, host) is SlotFailure.NO_SLOT


def test_a_bad_customer_key_is_found_before_a_missing_slot(host: HostKey) -> None:
    assert unwrap([], bytes(160), host) is SlotFailure.CUSTOMER_KEY
    assert unwrap([], b"\xff" * 160, host) is SlotFailure.CUSTOMER_KEY


def test_another_customer_key_does_not_open_a_slot(host: HostKey, other: HostKey, customer: HostKey) -> None:
    slots = [wrap(KEY, customer.scalar, host)]
    assert unwrap(slots, other.public, host) is SlotFailure.TAG


def test_a_wrapping_key_for_a_point_off_the_curve_is_refused(customer: HostKey) -> None:
    with pytest.raises(ValueError, match="no point of the curve"):
        wrap(KEY, customer.scalar, HostKey(1, bytes(160)))


@pytest.mark.parametrize("begin", ["CERTIFICATE", "PUBLIC KEY"])
def test_a_pem_that_holds_nothing_is_no_host_key(begin: str) -> None:
    pem = f"-----BEGIN {begin}-----\nAAAA\n-----END {begin}-----\n".encode()
    with pytest.raises(ValueError, match="no public key and no certificate"):
        public_key(pem)


def test_importing_the_package_does_not_load_the_cryptography_library() -> None:
    code = "import sys, protocol.arch.s390.image; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
