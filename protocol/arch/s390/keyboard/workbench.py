"""The owner's workbench: the op `image`. It builds what an owner brings, and touches no machine."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from protocol.keyboard import Complaint, Fields

COMPONENTS = 256
IMAGE_BYTES = 4 << 20  # of all components: the answer holds twice as many digits
KEYS = ("host", "other")
PAGE = 4096


def image(fields: Fields, seed: int) -> dict[str, Any]:
    """Header, pages in load order, the key that the owner keeps. Depends on `seed` and the request alone."""
    from protocol.arch.s390.image import Component, ImageError, build, host_key

    components = [
        Component(part.number("gaddr"), data, part.number("tweak", 0))
        for part, data in zip(fields.objects("components", COMPONENTS), _contents(fields), strict=True)
    ]
    psw = fields.data("psw") if "psw" in fields else None
    pcf, scf = fields.number("pcf", 0), fields.number("scf", 0)
    keys = fields.texts("keys", KEYS, ["host"])
    asked = [[part.gaddr, part.tweak, sha256(part.data).hexdigest(), len(part.data)] for part in components]
    digest = sha256(json.dumps([asked, psw.hex() if psw else None, pcf, scf, keys]).encode()).digest()
    try:
        made = build(
            components,
            seed=seed,
            digest=digest,
            slots=[host_key(seed, "host" if key == "host" else "other") for key in keys],
            psw=psw,
            pcf=pcf,
            scf=scf,
        )
    except ImageError as wrong:
        field = "components" if wrong.field in ("gaddr", "tweak") else wrong.field
        raise Complaint("bad_value", f"{wrong.field}: {wrong}", field) from None
    pages = [
        {"gaddr": hex(page.gaddr), "tweak": [hex(part) for part in page.tweak], "hex": page.data.hex()}
        for page in made.pages
    ]
    return {"header": made.header.hex(), "pages": pages, "cck": made.cck.hex()}


def _contents(fields: Fields) -> list[bytes]:
    """The bytes of each component, all together within the limit; `len` stands for so many zero bytes."""
    contents = []
    room = IMAGE_BYTES
    for part in fields.objects("components", COMPONENTS):
        part.only("gaddr", "hex", "len", "tweak")
        if ("hex" in part) == ("len" in part):
            raise part.wrong("hex", "hex or len, one of them")
        data = part.data("hex") if "hex" in part else None
        length = len(data) if data is not None else part.number("len")
        room -= max(PAGE, -(-length // PAGE) * PAGE)
        if room < 0:
            raise Complaint("limit", f"components: at most {IMAGE_BYTES:#x} bytes in all", "components")
        contents.append(bytes(length) if data is None else data)
    return contents
