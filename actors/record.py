"""Transcripts: what was asked at a keyboard and what was answered, to be asked again.

A transcript is JSON lines. The first is a header: which architecture, which depth, which options. Each
other one is `{"host", "request", "answer"}`; where a line was no request, `{"host": null, "line",
"answer"}`, with `line` null if it was too long to keep; bytes that are not UTF-8 stand in it as lone
surrogates. Answers are compared to the letter: the same requests on the same machine give the same handles.
Another program may choose other handles; then the first difference is where it does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from actors.keyboard import NESTING, Json, Keyboard, Options, answer_line, nesting
from nestbed import __version__

FORMAT = "nestbed transcript 1"
DEEPER = 4  # than a request or an answer: what stands around it on a line
LINE_BYTES = 64 << 20  # of a transcript; a request and its answer may each have eight million and escapes

# What says at which depth one is: nothing of it is compared between different depths.
OF_THE_DEPTH: Mapping[str, tuple[str, ...]] = {"info": ("depth",), "counts": ("machine",)}


class BadTranscript(Exception):
    """A file that is no transcript. The message names file, line and what is wrong."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was said. `number` is its line in the file."""

    number: int
    request: Json | None
    line: str | None  # what was sent if it was no request
    answer: Json


@dataclass(frozen=True, slots=True)
class Difference:
    """The first answer that differs, or a request that only one side has."""

    number: int
    asked: object
    expected: object
    found: object
    at: str  # where in the answer, "" if as a whole

    def text(self) -> str:
        lines = [f"line {self.number}: the answers differ" + (f" at {self.at}" if self.at else "")]
        lines.append(f"  request  {shortened(self.asked)}")
        lines.append(f"  recorded {shortened(self.expected)}")
        lines.append(f"  now      {shortened(self.found)}")
        return "\n".join(lines)


def shortened(value: object, limit: int = 400) -> str:
    """A value as JSON, cut where it gets long."""
    text = json.dumps(value)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def header_of(options: Options) -> Json:
    """The first line of a transcript of a console."""
    given = asdict(options)
    arch, depth = given.pop("arch"), given.pop("depth")
    given["strategy"] = dict(options.strategy)
    return {"format": FORMAT, "nestbed": __version__, "arch": arch, "depth": depth, "options": given}


class Transcript:
    """A transcript being written. Every entry is flushed, so that a crash keeps what was said before it."""

    def __init__(self, file: BinaryIO, header: Json) -> None:
        self._file = file
        self._write(header)

    @classmethod
    def create(cls, path: Path, header: Json) -> Transcript:
        """Write to `path`, replacing what is there. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(path.open("wb"), header)

    def say(self, host: object, request: Json, answer: Json) -> None:
        """Keep one request and its answer."""
        self._write({"host": host, "request": request, "answer": answer})

    def heard(self, request: Json | None, line: bytes | None, answer: Json) -> None:
        """Keep what a console heard: a request, or a line that was none."""
        if request is not None:
            self.say(request.get("host", 0), request, answer)
        else:
            text = None if line is None else line.decode("utf-8", "surrogateescape")
            self._write({"host": None, "line": text, "answer": answer})

    def _write(self, entry: Json) -> None:
        self._file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Transcript:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Transcripts:
    """One transcript per path of a run, in one directory: ARCH-PATH.jsonl, all hosts of it in order."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._open: dict[str, Transcript] = {}

    def of(self, path: str, options: Options) -> Transcript:
        """The transcript of one path, made when it is first asked for. Raises OSError."""
        name = f"{options.arch}-{path}"
        if name not in self._open:
            header = header_of(options) | {"path": path}
            self._open[name] = Transcript.create(self.directory / f"{name}.jsonl", header)
        return self._open[name]

    def close(self) -> None:
        for transcript in self._open.values():
            transcript.close()
        self._open.clear()


@dataclass(frozen=True, slots=True)
class Reading:
    """A transcript being read: who was asked, and a pass over what was said."""

    path: Path
    options: Options

    def entries(self) -> Iterator[Entry]:
        """Yield what was said, in order. Raises BadTranscript at a line that is none."""
        for number, line in _lines(self.path):
            if number > 1:
                yield _entry(self.path, number, line)


def read(path: Path) -> Reading:
    """Open a transcript and look at its header. Raises BadTranscript, also where the file cannot be read."""
    for number, line in _lines(path):
        header = _object(path, number, line)
        if header.get("format") != FORMAT:
            raise BadTranscript(f"{path}:1: no header of a transcript ({FORMAT})")
        return Reading(path, _options(path, header))
    raise BadTranscript(f"{path}: empty")


WANTED: Mapping[str, tuple[type, ...]] = {
    "hosts": (int,),
    "memory_mib": (int, type(None)),
    "cpus": (int, type(None)),
    "profile": (str,),
    "seed": (int,),
    "shares": (int,),
    "strategy": (dict,),
}
LATER: dict[str, Any] = {"shares": 1, "strategy": {}}  # what transcripts of earlier versions do not say


def _options(path: Path, header: Json) -> Options:
    given = header.get("options")
    if not isinstance(given, dict) or set(LATER | given) != set(WANTED):
        raise BadTranscript(f"{path}:1: options are {', '.join(WANTED)}")
    given = LATER | given
    arch, depth = header.get("arch"), header.get("depth")
    if not isinstance(arch, str) or type(depth) is not int:
        raise BadTranscript(f"{path}:1: arch is a name, depth a number")
    for name, types in WANTED.items():
        if type(given[name]) not in types:
            raise BadTranscript(f"{path}:1: options.{name} is {given[name]!r}")
    words = given.pop("strategy")
    if not all(isinstance(word, str) for word in words.values()):
        raise BadTranscript(f"{path}:1: options.strategy has words, not {words!r}")
    return Options(arch, depth, **given, strategy=tuple(sorted(words.items())))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LINE_BYTES + 1):
                number += 1
                if len(line) > LINE_BYTES:
                    raise BadTranscript(f"{path}:{number}: a line of more than {LINE_BYTES} bytes")
                yield number, line
    except OSError as error:
        raise BadTranscript(f"{path}: {error.strerror}") from None


def _object(path: Path, number: int, line: bytes) -> Json:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadTranscript(f"{path}:{number}: not JSON: {error}") from None
    if nesting(value) > NESTING + DEEPER:
        raise BadTranscript(f"{path}:{number}: nested more than {NESTING + DEEPER} deep")
    if not isinstance(value, dict):
        raise BadTranscript(f"{path}:{number}: not an object")
    return value


def _entry(path: Path, number: int, line: bytes) -> Entry:
    value = _object(path, number, line)
    request, answer, said = value.get("request"), value.get("answer"), value.get("line")
    if not isinstance(answer, dict) or not (isinstance(request, dict) or "line" in value):
        raise BadTranscript(f"{path}:{number}: neither request and answer nor line and answer")
    if isinstance(said, str):
        try:
            said.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise BadTranscript(
                f"{path}:{number}: the line holds a character that no line can have"
            ) from None
    return Entry(
        number,
        request if isinstance(request, dict) else None,
        said if isinstance(said, str) else None,
        answer,
    )


def replay(reading: Reading, keys: Keyboard, depth: int) -> tuple[int, Difference | None]:
    """Ask everything again; returns how many answers were equal and the first that is not, if any."""
    same = 0
    for entry in reading.entries():
        if entry.request is None and entry.line is None:
            continue  # a line over the limit was not kept
        if entry.request is None:
            asked: object = entry.line
            found = answer_line(keys, (entry.line or "").encode("utf-8", "surrogateescape"))[1]
        else:
            # Through JSON, as the console would: what is kept shares no state with the keyboard.
            asked = entry.request
            found = json.loads(json.dumps(keys.answer(entry.request)))
        difference = _compare(entry, asked, found, reading.options.depth != depth)
        if difference is not None:
            return same, difference
        same += 1
    return same, None


def diff(one: Reading, other: Reading) -> tuple[int, Difference | None]:
    """Compare two transcripts; returns how many entries are equal and the first that is not, if any."""
    same = 0
    left, right = one.entries(), other.entries()
    while True:
        a, b = next(left, None), next(right, None)
        if a is None and b is None:
            return same, None
        if a is None or b is None:
            present = a or b
            assert present is not None
            return same, Difference(
                present.number,
                present.request or present.line,
                a and a.answer,
                b and b.answer,
                "the end: one transcript is longer",
            )
        if (a.request, a.line) != (b.request, b.line):
            requests = (a.request or a.line, b.request or b.line)
            return same, Difference(a.number, None, *requests, "the request")
        difference = _compare(a, a.request or a.line, b.answer, one.options.depth != other.options.depth)
        if difference is not None:
            return same, difference
        same += 1


def _compare(entry: Entry, asked: object, found: Json, depths_differ: bool) -> Difference | None:
    expected: Json = entry.answer
    shown = found
    if depths_differ and entry.request is not None:
        expected, found = (_without_depth(entry.request, answer) for answer in (expected, found))
    if _same(found, expected):
        return None
    return Difference(entry.number, asked, entry.answer, shown, where(expected, found))


def _without_depth(request: Json, answer: Json) -> Json:
    """The answer without what can only be said at one depth: the console's own statements about it."""
    ok = answer.get("ok")
    if not isinstance(ok, dict):
        return answer
    ok = {key: value for key, value in ok.items() if key not in OF_THE_DEPTH.get(str(request.get("op")), ())}
    if request.get("op") == "audit" and isinstance(ok.get("hosts"), list):
        # The books of the levels below are theirs.
        ok["hosts"] = [{k: v for k, v in host.items() if k != "tracked"} for host in ok["hosts"]]
    return answer | {"ok": ok}


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same. For Python false is 0 and 1.0 is 1; for a client they are not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other


def where(one: Any, other: Any, path: str = "") -> str:
    """The first place at which two JSON values differ, dotted; "" if they differ as a whole, or nowhere."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            if key not in one or key not in other:
                return f"{path}.{key}".lstrip(".")
            if not _same(one[key], other[key]):
                return where(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list) and isinstance(other, list):
        for index, (a, b) in enumerate(zip(one, other, strict=False)):
            if not _same(a, b):
                return where(a, b, f"{path}[{index}]")
        return f"{path}[{min(len(one), len(other))}]".lstrip(".")
    return path.lstrip(".")
