"""What is deployed beside nestbed: rules about families that there are, each alert with its runbook line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from actors.observe import metrics as m

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus/rules/nestbed.yml"
CASES = DEPLOY / "prometheus/rules/nestbed_test.yml"
PROMTOOL = os.environ.get("NESTBED_PROMTOOL") or shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="there is no promtool (Debian: apt install prometheus)"
)
SEEN = {*m.BY_LEDGER.values(), m.CONTENTION, m.RECORDS, m.MODEL_BYTES, m.BUILD, m.STARTED}


def said(kind: str) -> list[str]:
    return re.findall(rf"^ +- {kind}: (\S+)$", RULES.read_text(), re.M)


def test_rules_ask_only_for_what_a_run_has() -> None:
    expressions = re.sub(r"^ *(#.*|- (record|alert): .*|dashboard: .*)$", "", RULES.read_text(), flags=re.M)
    recorded = set(said("record"))
    for name in re.findall(r"[\w:]*\bnestbed_\w+(?::\w+)?", expressions):
        assert name in recorded or name in {family.sample for family in SEEN}, name


def test_every_alert_has_its_line_in_the_runbook_and_no_other_is_there(root: Path) -> None:
    headings = re.findall(r"^### (\w+)$", (root / "docs/runbook.md").read_text(), re.M)
    assert headings == said("alert")
    for alert in said("alert"):
        assert f"runbook: docs/runbook.md#{alert.lower()}\n" in RULES.read_text()


def test_every_alert_leads_to_a_dashboard_that_there_is(root: Path) -> None:
    uids = {
        uid
        for path in (root / "dashboards").glob("*.json")
        for uid in re.findall(r'"uid": "(\S+)"', path.read_text())
    }
    named = re.findall(r"^ +dashboard: (\S+)$", RULES.read_text(), re.M)
    assert len(named) == len(said("alert")) and set(named) <= uids


def test_every_rule_is_tried() -> None:
    tried = CASES.read_text()
    for alert in said("alert"):
        assert f"alertname: {alert}\n" in tried
    for record in said("record"):
        assert f"expr: {record}" in tried


# Containers have a network of their own: metrics are served to it, and what leaves it is on the loopback.
WITHIN = re.compile(r"--(?:(?:metrics-host|addr)[=,]\s*|cluster=nats://)0\.0\.0\.0")


def test_nothing_listens_beyond_the_loopback() -> None:
    texts = {path: path.read_text() for path in DEPLOY.rglob("*.y*ml")}
    assert len(texts) >= 5
    for path, text in texts.items():
        contained = path.parent != DEPLOY and path.parent.name != "prometheus"
        said = WITHIN.sub("", text) if contained else text
        for address in re.findall(r"(?<![\w/])(\d+\.\d+\.\d+\.\d+|localhost)(?=[:\s\"])", said):
            assert address == "127.0.0.1", path
        for published in re.findall(r"^\s+ports: \[(.*)\]$", text, re.MULTILINE):
            assert published.startswith('"127.0.0.1:'), path
    compose = (DEPLOY / "compose.yaml").read_text()
    assert "ports:" not in compose, "host networking: what listens says so itself"
    assert compose.count("network_mode: host") == compose.count("image:")


def test_whatever_compose_mounts_is_there() -> None:
    for source in re.findall(r"^ +- (\.[\w./]*):/", (DEPLOY / "compose.yaml").read_text(), re.M):
        assert (DEPLOY / source).exists(), source


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "--lint=all", "--lint-fatal", "rules/nestbed.yml"),
        ("test", "rules", "rules/nestbed_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    ran = subprocess.run(
        [PROMTOOL, *arguments],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
