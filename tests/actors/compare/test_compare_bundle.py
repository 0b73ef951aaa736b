"""What a run leaves behind."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest

import nestbed
from actors.compare import bundle as b
from actors.compare.outcome import Outcome, value_of
from protocol.plan.scenario import Scenario, as_dict

Json = dict[str, Any]


def test_the_document_has_the_promised_keys_and_no_other(results: list[Json]) -> None:
    document = b.document(Scenario(), Outcome(results), [])
    assert set(document) == {"nestbed", "seed", "scenario", "results", "claims", "breakeven", "wall"}
    assert (document["nestbed"], document["seed"]) == (nestbed.__version__, 1)
    assert document["scenario"] == as_dict(Scenario())
    assert json.loads(json.dumps(document)) == document


def test_the_document_says_if_it_is_incomplete_and_what_its_thresholds_say(results: list[Json]) -> None:
    document = b.document(Scenario(), Outcome(results, stopped=True), [{"holds": True}])
    assert document["interrupted"] is True
    assert document["thresholds"] == [{"holds": True}]


def test_break_even_is_worked_out_where_the_run_gave_none(results: list[Json]) -> None:
    assert "s390" in b.document(Scenario(), Outcome(results), [])["breakeven"]
    assert b.document(Scenario(), Outcome(results, breakeven={"a": []}), [])["breakeven"] == {"a": []}


def test_a_bundle_says_where_its_values_and_its_numbers_come_from(results: list[Json]) -> None:
    content = b.bundle(Scenario(), Outcome(results), {"seed": "flag --seed"}, [])
    assert content["origins"] == {"seed": "flag --seed"}
    assert content["interrupted"] is False
    assert content["image_sha256"] is None
    assert {"nestbed", "python", "numpy", "trio"} <= set(content["versions"])
    assert {"system", "kernel", "processor", "cpus", "revision"} <= set(content["environment"])


def test_a_bundle_names_no_machine_and_no_person() -> None:
    import getpass
    import platform

    said = json.dumps(b.environment())
    assert platform.node() not in said or len(platform.node()) < 3
    assert f'"{getpass.getuser()}"' not in said


def test_the_digest_is_that_of_the_image(tmp_path: Path, results: list[Json]) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"secure" * 300_000)
    guest = replace(Scenario().guest, image=str(image))
    content = b.bundle(replace(Scenario(), guest=guest), Outcome(results), {}, [])
    assert content["image_sha256"] == hashlib.sha256(b"secure" * 300_000).hexdigest()
    assert b.digest_of(str(tmp_path / "gone")) is None


def test_run_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = b.write(tmp_path / "new" / "folder", {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(TypeError):
        b.write(path.parent, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [each.name for each in path.parent.iterdir()] == ["run.json"], "nothing half written is left"


def test_what_cannot_be_written_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = b.write_text(tmp_path / "report.html", "the first")

    def full(_file: int) -> None:
        raise OSError(ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            b.write_text(target, "the second")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert target.read_text() == "the first"
    with pytest.raises(OSError, match="Not a directory"):
        b.write_text(target / "under", "x")


def test_a_name_that_is_no_text_is_written_by_its_bytes(tmp_path: Path) -> None:
    """A file's name may hold bytes that are no UTF-8; Python has them as halves of pairs."""
    target = b.write_text(tmp_path / "report.html", "guest \udcff.img")
    assert target.read_text() == "guest \\udcff.img"


def test_a_value_is_zero_where_nothing_happened_and_none_where_it_is_lacking(result: Any) -> None:
    found = result("hosted", lacks=["swap"])
    assert value_of(found, "counts.exits") == found["counts"]["exits"]
    assert value_of(found, "counts.injections") == 0
    assert value_of(found, "phases.dump.exits") == 0
    assert value_of(found, "phases.swap.exits") is None
    assert value_of(found, "phases.run.exits.1.diag_notify.vmm") == 80
