"""Images that wrap firmware: whoever wants a guest brought them, so anything may be in one."""

from __future__ import annotations

import msgpack
import pytest

from protocol.arch.sev.image import _HEAD, _MAGIC, firmware_image, launch_of
from protocol.arch.sev.structs import PAGE

FIRMWARE = bytes(2 * PAGE)


def wrapped(*what: object) -> bytes:
    body: bytes = msgpack.packb(what)
    return _HEAD.pack(_MAGIC, len(body)) + body


@pytest.mark.parametrize("snp", [False, True])
def test_wrapped_firmware_is_launched_as_it_is(snp: bool) -> None:
    """It ends at 4 GiB; bytes that fill its last page up are none of it."""
    launch = launch_of(firmware_image(FIRMWARE, "EPYC"), 1, snp)
    assert [page.gpa for page in launch.pages] == [(1 << 32) - 2 * PAGE, (1 << 32) - PAGE]
    assert b"".join(page.data for page in launch.pages) == FIRMWARE
    assert len(launch.vmsas) == 1


@pytest.mark.parametrize(
    ("image", "wrong"),
    [
        (_MAGIC, "without its head"),
        (_HEAD.pack(_MAGIC, 1) + b"\xc1", "cannot be read"),
        (_HEAD.pack(_MAGIC, 9), "cannot be read"),
        (wrapped("EPYC", FIRMWARE), "cannot be read"),
        (_HEAD.pack(_MAGIC, 1) + b"\x07", "cannot be read"),
        (wrapped("Z80", b"", FIRMWARE), "VCPU type 'Z80'; allowed: "),
        (wrapped(7, b"", FIRMWARE), "type is a text"),
        (wrapped("EPYC", "hashes", FIRMWARE), "are bytes"),
        (wrapped("EPYC", b"", [1]), "are bytes"),
        (wrapped("EPYC", b"", b"short"), "whole pages of 4096 bytes"),
    ],
    ids=["cut", "no value", "empty", "two values", "a number", "type", "no type", "hashes", "data", "size"],
)
def test_what_wraps_no_firmware_is_refused_with_what_is_wrong(image: bytes, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        launch_of(image, 1, snp=True)


def test_firmware_is_wrapped_for_a_vcpu_that_there_is() -> None:
    with pytest.raises(ValueError, match="VCPU type 'Z80'; allowed: "):
        firmware_image(FIRMWARE, "Z80")
