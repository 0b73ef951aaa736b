"""The dashboards are what their source makes, and keep what a reader of any of them relies on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from actors.compare.style import PATH_COLOURS
from actors.observe import metrics as m

Json = dict[str, Any]
FOLDER = Path(__file__).resolve().parents[2] / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))
# What a run has series of: a dashboard about anything else would be empty.
SEEN = {*m.BY_LEDGER.values(), m.CONTENTION, m.RECORDS, m.MODEL_BYTES, m.BUILD, m.STARTED}
LIVE = {
    *(m.ACTORS, m.MAILBOX_DEPTH, m.MAILBOX_FULLEST, m.IN_FLIGHT, m.LINK_FRAMES, m.LINK_CALLS),
    *(m.FRAME_ERRORS, m.RESTARTS, m.FOLDED, m.BUILD),
}  # of a process while it lives
RUNTIME = "nestbed-runtime"  # the one that is about the program alone
SCHEMA = os.environ.get("NESTBED_GRAFANA_SCHEMA")
PROMTOOL = os.environ.get("NESTBED_PROMTOOL") or shutil.which("promtool")


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def board(request: Any) -> Json:
    return json.loads(request.param.read_text())


def queries(board: Json) -> list[str]:
    of_panels = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [*of_panels, *(each["expr"] for each in marks(board))]


def marks(board: Json) -> list[Json]:
    return board.get("annotations", {}).get("list", [])


def whole(query: str) -> str:
    """A query as Grafana sends it."""
    for name, value in {"$__rate_interval": "1m", "$__range": "15m", "$__interval": "15s"}.items():
        query = query.replace(name, value)
    return re.sub(r"\$\w+", ".*", query)


# The classic form on purpose: provisioning from files takes it in every Grafana of today.
@pytest.mark.filterwarnings("ignore:Prefer using dashboardv2:DeprecationWarning")
def test_the_files_are_what_the_source_makes() -> None:
    from dashboards.build import files

    made = files()
    assert {path.name for path in FILES} == set(made)
    for name, text in made.items():
        assert (FOLDER / name).read_text() == text, "python -m dashboards.build writes it"


@pytest.mark.filterwarnings("ignore:Prefer using dashboardv2:DeprecationWarning")
def test_grafanas_own_types_know_every_field(board: Json) -> None:
    """Read and written again nothing is missing: a field that they do not know would be."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    assert json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder)) == board


@pytest.mark.skipif(SCHEMA is None, reason="NESTBED_GRAFANA_SCHEMA names no dashboard.jsonschema.json")
def test_the_schema_of_the_sdk_allows_it(board: Json) -> None:
    """It lies in the SDK's repository and in no package, so whoever has it says where."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(Path(str(SCHEMA)).read_text())
    # It wants objects where Grafana itself writes the name of a series, or a number.
    schema["definitions"]["MatcherConfig"]["properties"]["options"] = {}
    schema["definitions"]["DynamicConfigValue"]["properties"]["value"] = {}
    found = [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(board)]
    assert found == []


def test_uids_and_titles_are_unique_and_say_whose_they_are() -> None:
    boards = [json.loads(path.read_text()) for path in FILES]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards)
    assert all(
        board["uid"].startswith("nestbed-") and board["title"].startswith("nestbed: ") for board in boards
    )


def test_every_panel_says_what_it_is_in_what_unit_and_what_is_good(board: Json) -> None:
    for panel in board["panels"]:
        assert panel["title"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert "good" in panel["description"].lower(), panel["title"]
        assert panel["targets"], panel["title"]
    titles = [panel["title"] for panel in board["panels"]]
    assert len(titles) == len(set(titles))


def test_every_question_goes_to_the_data_source_that_was_chosen(board: Json) -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert board["uid"] == RUNTIME or "arch" in variables
    asked = [panel["datasource"] for panel in board["panels"]]
    asked += [target["datasource"] for panel in board["panels"] for target in panel["targets"]]
    asked += [each["datasource"] for each in marks(board)]
    asked += [each["datasource"] for name, each in variables.items() if name != "datasource"]
    assert all(each == chosen for each in asked)


def test_every_variable_that_is_used_is_there_and_the_other_way_round(board: Json) -> None:
    said = set(re.findall(r"\$\{?(\w+)", json.dumps([board["panels"], marks(board)])))
    used = {name for name in said if not name.startswith("__")}
    assert used == {each["name"] for each in board["templating"]["list"]}


def test_every_query_names_families_and_labels_that_there_are(board: Json) -> None:
    families = LIVE if board["uid"] == RUNTIME else SEEN
    labels = {family.sample: set(family.labels) for family in families}
    for query in queries(board):
        named = re.findall(r"\bnestbed_\w+", query)
        assert named and set(named) <= set(labels), query
        for name, selector in re.findall(r"(nestbed_\w+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)=", selector)) <= labels[name], query
        for by in re.findall(r"sum by \(([^)]*)\) \((?:\w+\()?(?:nestbed_\w+)", query):
            assert set(by.split(", ")) <= labels[named[0]], query


def test_no_two_panels_overlap_and_none_leaves_the_grid(board: Json) -> None:
    areas = [panel["gridPos"] for panel in board["panels"]]
    assert all(area["x"] + area["w"] <= 24 for area in areas)
    for one, other in combinations(areas, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_a_path_has_its_colour_everywhere(board: Json) -> None:
    for panel in board["panels"]:
        if panel["type"] == "state-timeline":
            continue  # its colours say what state it is
        fixed = {
            each["matcher"]["options"]: each["properties"][0]["value"]["fixedColor"]
            for each in panel["fieldConfig"]["overrides"]
            if each["matcher"]["id"] == "byName"
        }
        assert fixed == PATH_COLOURS, panel["title"]


def test_nobody_edits_them_in_place_and_each_leads_to_the_others(board: Json) -> None:
    assert board["editable"] is False
    (link,) = board["links"]
    assert link["tags"] == board["tags"] == ["nestbed"]
    assert link["includeVars"] and link["keepTime"]


def test_nested_and_hosted_stand_side_by_side_on_one_axis() -> None:
    board = json.loads((FOLDER / "nested-against-hosted.json").read_text())
    panels = {panel["title"]: panel for panel in board["panels"]}
    measures = [title.removesuffix(": nested") for title in panels if title.endswith(": nested")]
    assert len(measures) >= 4
    for measure in measures:
        left, right = (panels[f"{measure}: {path}"] for path in ("nested", "hosted"))
        assert left["gridPos"]["y"] == right["gridPos"]["y"]
        assert left["gridPos"]["x"] < right["gridPos"]["x"]
        assert {each["expr"] for each in left["targets"]} == {each["expr"] for each in right["targets"]}
        assert panels[f"{measure}: difference"]["gridPos"]["y"] == left["gridPos"]["y"]
        (verdicts,) = panels[f"{measure}: verdict"]["fieldConfig"]["defaults"]["mappings"]
        assert set(verdicts["options"]) == {"1", "0", "-1"}


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool (Debian: apt install prometheus)")
def test_promtool_understands_every_query(board: Json, tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": whole(query)} for number, query in enumerate(queries(board))
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    said = subprocess.run(
        [PROMTOOL, "check", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr


# What is put in, a second a value, and when there is a mark (seconds): not before, and once.
MARKS = {
    "Guest host gone": (
        "nestbed_teardown_items_total{arch='s390',path='nested',cause='l1_reboot'}",
        "_x20 3x40",
    ),
    "First fault of its kind": (
        "nestbed_faults_injected_total{arch='s390',path='nested',kind='pgm'}",
        "_x20 3x40",
    ),
    "Started again": ("nestbed_supervisor_restarts_total{supervisor='node'}", "0x20 1x40"),
    "Peer broke the protocol": ("nestbed_frame_errors_total{peer='l1',reason='length'}", "0x20 1x40"),
}


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool (Debian: apt install prometheus)")
def test_a_mark_appears_when_something_happened_and_goes_again(tmp_path: Path) -> None:
    found = {each["name"]: each["expr"] for path in FILES for each in marks(json.loads(path.read_text()))}
    assert set(found) == {*MARKS, "Scenario began"}
    tests = []
    for name, (series, values) in MARKS.items():
        asked = whole(found[name])
        labels = series.partition("{")[2].replace("'", '"').replace('arch="s390",', "").rstrip("}")
        seen = [{"labels": f"{{{labels}}}", "value": 1 if "_x" not in values else 3}]
        when = ((10, []), (25, seen), (50, []))
        tests.append(
            {
                "interval": "1s",
                "input_series": [{"series": series.replace("'", '"'), "values": values}],
                "promql_expr_test": [
                    {"expr": asked, "eval_time": f"{second}s", "exp_samples": samples}
                    for second, samples in when
                ],
            }
        )
    file = tmp_path / "marks.yml"
    file.write_text(json.dumps({"tests": tests, "evaluation_interval": "1s"}))
    said = subprocess.run(
        [PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
