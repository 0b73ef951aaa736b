"""Images that requesters sent, cached by SHA-256 digest.

Each requester has a table of its own: that another one has an image can neither be used nor seen, so
every requester sends its image itself, and the bytes are charged. Images in use by a child are pinned;
the least recently used others make room.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from protocol.hosting.errors import Code, Refusal
from protocol.hosting.quota import Quota


@dataclass(slots=True)
class Image:
    """One image, or the part of it that has come. `size` bytes are charged from the first piece on."""

    digest: bytes
    size: int
    parts: bytearray = field(default_factory=bytearray)
    data: bytes | None = None  # all of it, once its digest was right
    pins: int = 0

    @property
    def have(self) -> int:
        return self.size if self.data is not None else len(self.parts)

    def charges(self) -> dict[str, int]:
        return {"image_bytes": self.size, "images": 1}


class Images:
    """The images of one requester, least recently used first."""

    __slots__ = ("_images", "_quota", "_restored", "evicted")

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._images: dict[bytes, Image] = {}
        self._restored: dict[bytes, Image] = {}  # of children of a former life; their bytes are gone
        self.evicted = 0

    def put(self, digest: bytes, size: int, offset: int, data: bytes) -> dict[str, object]:
        """Take one piece; return how much is there. Raises Refusal: out of order, too big, wrong digest."""
        image = self._images.get(digest)
        if image is not None and image.size != size:
            raise Refusal(Code.BAD_ARGUMENT, f"b.size was {image.size} before")
        if offset + len(data) > size:
            raise Refusal(Code.BAD_ARGUMENT, "b.data goes beyond b.size")
        have = image.have if image is not None else 0
        if offset > have:
            raise Refusal(Code.BAD_ARGUMENT, f"b.offset is at most {have}", stage="image")
        if image is None and data:
            self._make_room(size)
            image = self._images[digest] = Image(digest, size)
            self._quota.charge(image.charges())
        if image is None:
            return {"have": 0, "complete": False}
        self._images[digest] = self._images.pop(digest)
        if image.data is None:
            image.parts += data[have - offset :]
            self._complete(image)
        return {"have": image.have, "complete": image.data is not None}

    def pin(self, digest: bytes) -> Image:
        """Return the complete image and keep it until `unpin`; raises Refusal (NOT_FOUND)."""
        image = self._images.get(digest)
        if image is None or image.data is None:
            raise Refusal(Code.NOT_FOUND, "the image is not here, or not all of it: image.put", stage="image")
        self._images[digest] = self._images.pop(digest)
        image.pins += 1
        return image

    def restored(self, digest: bytes) -> Image:
        """The image of a child of a former life, until `unpin`: charged once for all that share it."""
        image = self._restored.get(digest)
        if image is None:
            image = self._restored[digest] = Image(digest, 0)
            self._quota.owe(image.charges())
        image.pins += 1
        return image

    def unpin(self, image: Image) -> None:
        image.pins -= 1
        assert image.pins >= 0, "an image was given back more often than taken"
        if not image.pins and self._images.get(image.digest) is not image:
            self._quota.refund(image.charges())  # its requester is gone: it lived for these children only
            if self._restored.get(image.digest) is image:
                del self._restored[image.digest]

    def forget(self) -> None:
        """Drop all images; what a child still uses goes with its last child."""
        for image in list(self._images.values()):
            del self._images[image.digest]
            if not image.pins:
                self._quota.refund(image.charges())

    def _complete(self, image: Image) -> None:
        if len(image.parts) < image.size:
            return
        if hashlib.sha256(image.parts).digest() != image.digest:
            self._drop(image)
            raise Refusal(Code.IMAGE_INVALID, "the bytes have another digest; send them again", stage="image")
        image.data, image.parts = bytes(image.parts), bytearray()

    def _make_room(self, size: int) -> None:
        """Evict until `size` bytes fit; raises Refusal, and evicts nothing, where even that would not do."""
        need = {"image_bytes": size, "images": 1}
        idle = [image for image in self._images.values() if not image.pins]
        if not self._fits({"image_bytes": size - sum(i.size for i in idle), "images": 1 - len(idle)}):
            self._quota.check(need)
        for image in idle:
            if self._fits(need):
                return
            self._drop(image)
            self.evicted += 1

    def _fits(self, need: dict[str, int]) -> bool:
        try:
            self._quota.check(need)
        except Refusal:
            return False
        return True

    def _drop(self, image: Image) -> None:
        del self._images[image.digest]
        self._quota.refund(image.charges())
