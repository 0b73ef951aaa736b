"""The pictures of the dashboards are of those that are committed."""

from __future__ import annotations

import json
from pathlib import Path

from dashboards.eyes.draw import digests

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "img"
PNG = b"\x89PNG\r\n\x1a\n"


def test_every_dashboard_has_a_picture_of_what_it_is_now() -> None:
    assert json.loads((PICTURES / "drawn.json").read_text()) == digests(), "./x dashboards draws them anew"
    for name in digests():
        picture = PICTURES / name.replace(".json", ".png")
        assert picture.read_bytes().startswith(PNG)
        assert picture.stat().st_size < 300_000
