"""Measure the emulator itself: `./x bench [--json] [--only NAME]`.

Every module beside this one that has `cases()` contributes. A case is a name, a unit, what to measure, and
the baseline that it is measured against in the same run, on the same machine, in the same state of business.
The figures say how fast this program is; they say nothing about any hardware.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Case:
    """One figure: `measure` and `baseline` return a value in `unit`. More is better, but for bytes."""

    name: str
    unit: str
    measure: Callable[[], float]
    baseline: Callable[[], float] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the output. `ratio` is value over baseline, None without one."""

    name: str
    value: float
    unit: str
    baseline: float | None
    ratio: float | None


def collect(folder: Path = HERE) -> Iterator[Case]:
    """Yield the cases of every module in `folder`, by name of module."""
    for path in sorted(folder.glob("*.py")):
        if path == Path(__file__).resolve():
            continue
        spec = importlib.util.spec_from_file_location(f"benchmarks.{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # a dataclass looks for its module there
        spec.loader.exec_module(module)
        yield from getattr(module, "cases", tuple)()


def measured(case: Case) -> Result:
    """Measure `case` and its baseline, one right after the other."""
    value = case.measure()
    baseline = case.baseline() if case.baseline else None
    return Result(case.name, value, case.unit, baseline, value / baseline if baseline else None)


def line(result: Result) -> str:
    beside = "" if result.baseline is None else f"{result.baseline:>14,.0f} {result.ratio:>8.2f}"
    return f"{result.name:<52} {result.value:>14,.0f} {result.unit:<8}{beside}"


def main(arguments: Iterable[str] | None = None) -> int:
    """Measure and print; exit code 2 when `--only` names nothing."""
    parser = argparse.ArgumentParser(prog="./x bench", description="Measure the emulator itself.")
    parser.add_argument("--json", action="store_true", help="print one array of results")
    parser.add_argument("--only", metavar="NAME", help="only cases with NAME in their name")
    parser.add_argument("--peers", action="store_true", help="beside other runtimes, as far as installed")
    parser.add_argument("--rounds", type=int, default=3, help="of --peers")
    parser.add_argument(
        "--growth",
        metavar="DIR",
        nargs="?",
        const="nestbed-growth",
        help="how cost grows with guests, pages, L1s and depth: a bundle in DIR",
    )
    parser.add_argument("--quick", action="store_true", help="of --growth: small sizes, in seconds")
    parser.add_argument("--arch", metavar="A,B", help="of --growth: these architectures only")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.peers:
        from benchmarks.peers import compare

        return compare.main(options.rounds, options.json, options.only)
    if options.growth is not None:
        from benchmarks.growth import run as growth

        arches = options.arch.split(",") if options.arch else None
        return growth.main(Path(options.growth), options.quick, arches, options.json)
    cases = list(collect())
    chosen = [case for case in cases if options.only is None or options.only in case.name]
    if not chosen:
        print(f"no case has {options.only!r} in its name; there are:", file=sys.stderr)
        print(*(f"  {case.name}" for case in cases), sep="\n", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([asdict(measured(case)) for case in chosen], indent=1))
        return 0
    print(f"{'what':<52} {'value':>14} {'unit':<8}{'baseline':>14} {'ratio':>8}")
    for case in chosen:
        print(line(measured(case)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
