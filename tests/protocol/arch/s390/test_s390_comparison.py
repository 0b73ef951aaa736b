"""Where the image of a comparison comes from, and what of it travels."""

from __future__ import annotations

from protocol.arch.s390.comparison import COMPARISON
from protocol.arch.s390.image.file import unpack_file
from protocol.arch.s390.owner import OWNER


def test_an_image_file_is_taken_as_it_is() -> None:
    """Whoever has one built it for a machine: nothing of it is built anew."""
    data, _ = OWNER.build({"kernel": b"mine" * 2000}, seed=0, machines=(7,))
    image = COMPARISON.image(7, 99, data)
    assert image == unpack_file(data)
    assert len(image.pages) == 2


def test_bytes_that_are_no_image_file_are_put_into_one_and_none_are_drawn() -> None:
    image = COMPARISON.image(7, 99, b"a kernel of one's own")
    assert len(image.pages) == 1
    assert image.header != COMPARISON.image(7, 1, None).header
    assert COMPARISON.unpack_image(COMPARISON.pack_image(image)).pages == image.pages
