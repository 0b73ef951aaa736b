"""`./x bench --growth [DIR]`: how cost grows with guests, pages, guest hosts and depth.

Leaves a bundle: run.json with every point, report.html with the pictures. Exit code 1 where a count breaks
its law; a time never decides anything.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from actors import exit_codes
from actors.compare.bundle import environment, versions, write, write_text
from benchmarks.growth.curve import Curve, Kind, holds
from benchmarks.growth.measures import DIMENSIONS, FULL, QUICK, Sizes
from benchmarks.growth.page import report, row, verdict
from nestbed import __version__
from protocol.arch import kinds, load

DIRECTORY = Path("nestbed-growth")
ARCHES = ("s390", "snp", "tdx", "pef")


def measured(arches: Sequence[str], sizes: Sizes) -> list[Curve]:
    """All curves, dimension by dimension; what is done is said."""
    curves = []
    for dimension, measure in DIMENSIONS.items():
        for arch in arches:
            began = time.perf_counter()
            for curve in measure(arch, sizes):
                print(f"{dimension}: {', '.join(row(curve))}", file=sys.stderr, flush=True)
                curves.append(curve)
            took = time.perf_counter() - began
            print(f"{dimension}: {arch} took {took:.0f} s", file=sys.stderr, flush=True)
    return curves


def main(directory: Path, quick: bool, arches: Sequence[str] | None, as_json: bool) -> int:
    """Measure, write the bundle, say what came out."""
    unknown = [name for name in arches or () if name not in kinds() or load(name).comparison is None]
    if unknown:
        print(f"no architecture {', '.join(unknown)}; there are {', '.join(kinds())}", file=sys.stderr)
        return exit_codes.USAGE
    began = time.perf_counter()
    curves = measured(arches or ARCHES, QUICK if quick else FULL)
    here = environment()
    content = {
        "nestbed": __version__,
        "growth": [curve.as_json() for curve in curves],
        "versions": versions(),
        "environment": here,
        "wall": {"seconds": round(time.perf_counter() - began, 1)},
    }
    try:
        write(directory, content)
        page = write_text(directory / "report.html", report(curves, here))
    except OSError as error:
        print(f"{directory}: cannot be written: {error.strerror}", file=sys.stderr)
        return exit_codes.ENVIRONMENT
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        print(*verdict(curves), sep="\n")
    print(f"report: {page}", file=sys.stderr)
    broken = any(curve.kind is Kind.COUNT and holds(curve) is False for curve in curves)
    return exit_codes.FAILED if broken else exit_codes.OK
