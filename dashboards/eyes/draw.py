"""Draw every dashboard as Grafana's own panels show it: `./x dashboards`, pictures under docs/img/.

A comparison is run and recorded, its record is put into a real Prometheus, every query of every panel is
asked there, and `@grafana/ui` draws the answers in a headless Chromium. No Grafana server takes part:
marks (annotations) are asked for and drawn over the panels by us, variables and links are not drawn. Needs
npm, Chromium and Debian's prometheus.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dashboards.live import deployed, scraping
from dashboards.recorded import MISSING, PROMETHEUS, PROMTOOL, Server, recorded

Json = dict[str, Any]
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PICTURES = ROOT / "docs" / "img"
DRAWN = PICTURES / "drawn.json"  # which dashboards the pictures are of
WIDTH, ROW, HEAD = 1600, 34, 60  # pixels
SCENARIO = "many-guests"
FLAGS = {"arch": "s390", "paths": "direct,nested,hosted", "run.reboots": "2"}
RUNTIME = "runtime"  # of a program that lives: drawn from scrapes
SCRAPES = 40
POINTS = 400
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class NotDrawn(Exception):
    """A page failed while it was drawn."""


def main() -> int:
    """Draw all of them. Exit code 3 where something that it needs is not there."""
    for missing in _missing():
        print(f"dashboards: {missing}", file=sys.stderr)
        return 3
    boards = {path.stem: json.loads(path.read_text()) for path in sorted(HERE.parent.glob("*.json"))}
    PICTURES.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        script, sheet = _bundled(folder)
        (folder / "over").mkdir()
        (folder / "live").mkdir()
        with recorded(folder / "over", SCENARIO, FLAGS) as server:
            for name, board in boards.items():
                if name != RUNTIME:
                    _draw(server, board, folder / f"{name}.html", script, sheet)
        with deployed(folder / "live"), scraping(folder / "live", SCRAPES) as server:
            _draw(server, boards[RUNTIME], folder / f"{RUNTIME}.html", script, sheet)
    DRAWN.write_text(json.dumps(digests(), indent=1, sort_keys=True) + "\n")
    return 0


def _draw(server: Server, board: Json, page: Path, script: str, sheet: str) -> None:
    page.write_text(_page(_asked(server, board), script, sheet), encoding="utf-8")
    _shoot(page, board, PICTURES / f"{page.stem}.png")
    print(f"dashboards: docs/img/{page.stem}.png")


def digests() -> dict[str, str]:
    """SHA-256 of each dashboard: a test says when the pictures are of others."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(HERE.parent.glob("*.json"))
    }


def _missing() -> list[str]:
    found = []
    if shutil.which("npm") is None:
        found.append("there is no npm (Debian: apt install npm)")
    if CHROMIUM is None:
        found.append("there is no Chromium (Debian: apt install chromium)")
    if PROMTOOL is None or PROMETHEUS is None:
        found.append(MISSING)
    return found


def _bundled(folder: Path) -> tuple[str, str]:
    """Script and style sheet of the page; packages are fetched the first time."""
    if not (HERE / "node_modules").is_dir():
        fetch = ["npm", "install", "--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund"]
        subprocess.run([*fetch, "--no-package-lock"], cwd=HERE, check=True, timeout=900)
    bundle = [
        "node_modules/.bin/esbuild", "page.jsx", "--bundle", "--format=iife", "--minify", "--log-level=error",
        '--define:process.env.NODE_ENV="production"', "--define:global=window",
        f"--outfile={folder / 'page.js'}",
        *(f"--loader:.{kind}=dataurl" for kind in ("woff", "woff2", "svg", "png", "ttf")),
    ]  # fmt: skip
    subprocess.run(bundle, cwd=HERE, check=True, timeout=300)
    sheet = folder / "page.css"
    return (folder / "page.js").read_text(), sheet.read_text() if sheet.exists() else ""


def _asked(server: Server, board: Json) -> Json:
    """What the page is given: the dashboard, and by panel and query the series that it gets."""
    step = max((server.ended - server.began) / POINTS, 0.05)
    one = {each["name"] for each in board["templating"]["list"] if not each.get("multi")}
    chosen = "s390" if "arch" in one else ".*"
    answers = {
        panel["id"]: [_answer(server, target, step, chosen) for target in panel["targets"]]
        for panel in board["panels"]
    }
    span = {"from": server.began, "to": server.ended + 10 * step}
    marks = [_marked(server, each, step, chosen) for each in board["annotations"]["list"]]
    return {"board": board, "answers": answers, "marks": marks, "mode": "dark", **span}


def _marked(server: Server, annotation: Json, step: float, chosen: str) -> Json:
    """The times of an annotation: where its query begins to answer, or the time that is its value."""
    times = []
    for each in server.series(annotation["expr"], once=False, step=step, chosen=chosen):
        before = 0.0
        for at, value in each["values"]:
            if annotation.get("useValueForTime"):
                times.append(float(value) / 1000)
            elif float(at) - before > 1.5 * step:
                times.append(float(at))
            before = float(at)
    return {"name": annotation["name"], "color": annotation["iconColor"], "times": sorted(set(times))}


def _answer(server: Server, target: Json, step: float, chosen: str) -> list[Json]:
    once = bool(target.get("instant"))
    series = server.series(target["expr"], once=once, step=step, chosen=chosen)
    return [
        {
            "name": _legend(target["legendFormat"], each["metric"]),
            "values": [[float(at), float(value)] for at, value in each["values"]],
        }
        for each in series
    ]


def _legend(form: str, labels: Json) -> str:
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), form)


def _page(content: Json, script: str, sheet: str) -> str:
    data, script = json.dumps(content).replace("</", "<\\/"), script.replace("</script", "<\\/script")
    return (
        f'<!doctype html><meta charset="utf-8"><title>drawing</title><style>{sheet}</style>'
        f'<div id="board"></div><script>window.BOARD={data}</script>'
        f"<script>{script}</script>"
    )


def _shoot(page: Path, board: Json, picture: Path) -> None:
    """A picture of the page as Chromium shows it."""
    assert CHROMIUM is not None
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    shoot = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    shoot += ["--enable-logging=stderr", "--force-device-scale-factor=1", "--virtual-time-budget=5000"]
    shoot += [f"--window-size={WIDTH},{rows * ROW + HEAD}", f"--screenshot={picture}", page.as_uri()]
    said = subprocess.run(shoot, check=True, capture_output=True, text=True, timeout=120).stderr
    wrong = [line for line in said.splitlines() if ":CONSOLE" in line and "Uncaught" in line]
    if wrong:
        raise NotDrawn(f"{page.stem}: {wrong[0]}")


if __name__ == "__main__":
    sys.exit(main())
