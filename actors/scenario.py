"""From a file, the environment and flags to a frozen scenario; every mistake at once.

Precedence: flag, then NESTBED_* variable, then file, then default; where each value came from is kept. A
variable is the setting's path in capitals with _ for the dots: guest.memory_mib is NESTBED_GUEST_MEMORY_MIB.
Pydantic looks at each value by itself, `protocol.plan.fit` at how they go together; neither is seen behind
this module.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model

from actors.given import BadDocument, from_toml
from protocol.plan import fit
from protocol.plan.fit import Mistake, Profile
from protocol.plan.scenario import ExitKind, Kind, Scenario, leaves, parse_threshold

if TYPE_CHECKING:
    from protocol.arch.contract import Owner

SCENARIO_BYTES = 1 << 20  # of a scenario file; a real one has a few thousand
IMAGE_BYTES = 64 << 30
IMAGE_HEAD_BYTES = 1 << 16  # of an image file: what an architecture looks at to know one
SHIPPED = Path(__file__).parent / "scenarios"
PREFIX = "NESTBED_"
SEE = "`nestbed scenario settings` lists them"

FLAGS = {
    "arch": "--arch",
    "paths": "--path",
    "depth": "--depth",
    "seed": "--seed",
    "fidelity": "--fidelity",
    "transport": "--transport",
    "guest.image": "--image",
}  # the settings that have a flag of their own

Known = Mapping[str, Mapping[str, Profile]]  # architecture -> profile -> its limits
Tree = dict[str, Any]


class BrokenScenario(Exception):
    """A scenario that cannot be run. `text()` is for the person who wrote it."""

    def __init__(
        self, source: str, mistakes: list[Mistake], origins: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(source, mistakes)
        self.source = source
        self.mistakes = mistakes
        self.origins = origins or {}

    def text(self) -> str:
        n = len(self.mistakes)
        lines = [f"{self.source}: {n} mistake{'s' if n > 1 else ''}"]
        for mistake in self.mistakes:
            head = mistake.path
            if mistake.value is not None:
                head += f" = {shown(mistake.value)}"
            origin = self.origins.get(mistake.path, "file")
            if origin not in ("file", "default"):
                head += f"  ({origin})"
            lines.append(f"  {head}")
            lines.append(f"      allowed: {mistake.allowed}")
            if mistake.hint:
                lines.append(f"      {mistake.hint}")
        return "\n".join(lines)


class UnreadableScenario(Exception):
    """The file is not there, cannot be read or is not TOML. The message says which."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A scenario that can be run, and where each of its values came from."""

    scenario: Scenario
    origins: Mapping[str, str]  # dotted path -> default | file | environment NAME | flag --name
    source: str
    notes: tuple[str, ...] = ()  # what is odd but no mistake


def shown(value: object) -> str:
    """A value as a person wrote it, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def variable_of(path: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + path.upper().replace(".", "_")


def shipped() -> dict[str, str]:
    """The scenarios that come with the program: name -> what it is for, from the first line of its file."""
    found = {}
    for path in sorted(SHIPPED.glob("*.toml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        found[path.stem] = first.removeprefix("#").strip()
    return found


def known_architectures() -> Known:
    """Every architecture that can be compared, with its profiles."""
    from protocol.arch import kinds, load

    loaded = (load(name) for name in kinds())
    return {each.name: each.profiles for each in loaded if getattr(each, "comparison", None) is not None}


def _console_only(value: object) -> bool:
    """Whether that is an architecture which cannot be compared yet."""
    from protocol.arch import architectures

    return isinstance(value, str) and value in architectures()


def find(name: str | None) -> Path:
    """The file of a scenario: a path, or the name of one that is shipped. None is `default`."""
    name = name or "default"
    if "/" not in name and not name.endswith(".toml"):
        path = SHIPPED / f"{name}.toml"
        if path.is_file():
            return path
        if not Path(name).exists():
            near = difflib.get_close_matches(name, shipped(), 1)
            hint = f"; did you mean {near[0]}?" if near else "."
            listed = ", ".join(shipped())
            raise UnreadableScenario(
                f"{name}: no such scenario{hint} There are: {listed}. Or give the path of a TOML file."
            )
    return Path(name)


def load(
    name: str | None = None,
    *,
    flags: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    known: Known | None = None,
) -> Resolved:
    """Read, overlay and judge a scenario. `flags` and `environment` are texts, by setting and by variable.

    Raises UnreadableScenario for a file that is none, BrokenScenario with every mistake otherwise.
    """
    known = known_architectures() if known is None else known
    path = find(name)
    tree = _read(path, text_of(name))
    _spell_out_exits(tree)
    origins = {where: "file" for where, _ in _leaves_of_tree(tree)}
    overlays, notes, wrong = _overlays(flags or {}, environment or {})
    for where, text, origin in overlays:
        _put(tree, where, text, origins, origin)
    arches, profiles = tuple(known), _profiles(tree, known)
    model = _model(Scenario, arches, profiles)
    broken = []
    try:
        accepted = model.model_validate(tree)
    except ValidationError as error:
        findings = [dict(each) for each in error.errors(include_url=False)]
        broken = [_mistake(finding, arches, profiles) for finding in findings]
        for finding in findings:
            _drop(tree, cast(tuple[str | int, ...], finding["loc"]))
        accepted = model.model_validate(tree)  # the rest, so that what does not go together is found, too
    scenario: Scenario = _freeze(Scenario, accepted)
    scenario = _with_image(scenario, path.parent, origins, broken)
    gone = [mistake.path for mistake in broken]
    for mistake in fit.mistakes(scenario, profiles_of(scenario, known)):
        if not any(_within(one, other) for one in mistake.needs for other in gone):
            broken.append(mistake)
    if wrong + broken:
        raise BrokenScenario(str(path) if name else "default scenario", wrong + broken, origins)
    where_from = {where: origins.get(where, "default") for where, _, _ in leaves(scenario)}
    return Resolved(scenario, where_from, str(path) if path.parent != SHIPPED else path.stem, tuple(notes))


def profiles_of(scenario: Scenario, known: Known) -> dict[str, Profile]:
    """The profile that each architecture of the scenario runs with."""
    return {
        arch: known[arch][scenario.profile]
        for arch in scenario.arch
        if scenario.profile in known.get(arch, {})
    }


def _within(one: str, other: str) -> bool:
    """Whether one of two settings is the other, or a section that holds it."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _drop(tree: Tree, location: tuple[str | int, ...]) -> None:
    """Take out what was refused. Of a list, all of it."""
    place: Any = tree
    *sections, name = [part for part in location if not isinstance(part, int)]
    for section in sections:
        place = place.get(section, {}) if isinstance(place, dict) else {}
    if isinstance(place, dict):
        place.pop(name, None)


def text_of(name: str | None = None) -> str:
    """The text of a scenario's file, whether it makes sense or not. Raises UnreadableScenario."""
    path = find(name)
    try:
        with path.open("rb") as file:
            data = file.read(SCENARIO_BYTES + 1)
        if len(data) > SCENARIO_BYTES:
            raise UnreadableScenario(
                f"{path}: larger than {SCENARIO_BYTES} bytes; a scenario is a small TOML file"
            )
        return data.decode()
    except FileNotFoundError:
        raise UnreadableScenario(f"{path}: no such file") from None
    except OSError as error:
        raise UnreadableScenario(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UnreadableScenario(f"{path}: not UTF-8 text (byte {error.start})") from None
    except ValueError as error:  # a NUL in its name
        raise UnreadableScenario(f"{name!r}: cannot be read: {error}") from None


def _read(path: Path, text: str) -> Tree:
    try:
        return from_toml(text)
    except BadDocument as error:
        raise UnreadableScenario(f"{path}: {error}") from None


def _spell_out_exits(tree: Tree) -> None:
    """`sclp = 10` is short for `sclp = { count = 10 }`."""
    run = tree.get("run")
    exits = run.get("exits") if isinstance(run, dict) else None
    if isinstance(exits, dict):
        for reason, value in exits.items():
            if type(value) is int:
                exits[reason] = {"count": value}


def _leaves_of_tree(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and name != "thresholds":
            yield from _leaves_of_tree(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _overlays(
    flags: Mapping[str, str], environment: Mapping[str, str]
) -> tuple[list[tuple[str, str, str]], list[str], list[Mistake]]:
    """What overrides the file, weakest first; notes on odd variables; mistakes in the flags."""
    settings = {path: kind for path, _, kind in leaves(Scenario()) if kind.kind != "thresholds"}
    short = {path.removesuffix(".count"): path for path in settings if path.endswith(".count")}
    short.pop("l1", None)
    variables = {variable_of(path): path for path in settings}
    variables |= {variable_of(alias): path for alias, path in short.items()}
    found = [
        (path, environment[name], f"environment {name}")
        for name, path in variables.items()
        if name in environment
    ]
    notes = []
    for name in sorted(environment):
        near = difflib.get_close_matches(name, variables, 1, 0.85)
        if name.startswith(PREFIX) and name not in variables and near:
            notes.append(f"{name} is set but means nothing; did you mean {near[0]}?")
    wrong = []
    for given, text in flags.items():
        path = short.get(given, given)
        if path in settings:
            found.append((path, text, f"flag {FLAGS.get(path, f'--set {given}')}"))
        else:
            near = difflib.get_close_matches(given, settings, 1)
            wrong.append(Mistake(given, text, "a setting", f"did you mean {near[0]}?" if near else SEE))
    return found, notes, wrong


def _put(tree: Tree, where: str, text: str, origins: dict[str, str], origin: str) -> None:
    """Set one value from a text. What cannot be converted is set as it is, and judged like any other."""
    *sections, name = where.split(".")
    place = tree
    for section in sections:
        inner = place.setdefault(section, {})
        if not isinstance(inner, dict):  # the file is wrong there, which is reported by itself
            return
        place = inner
    kind = next(kind for path, _, kind in leaves(Scenario()) if path == where)
    place[name] = _from_text(kind, text)
    origins[where] = origin


def _from_text(kind: Kind, text: str) -> object:
    if kind.kind == "words":
        return [word.strip() for word in text.split(",") if word.strip()]
    if kind.kind == "whole":
        try:
            return int(text, 0)
        except ValueError:
            return text
    return text


def _profiles(tree: Tree, known: Known) -> tuple[str, ...]:
    """The profiles that every chosen architecture has."""
    chosen = tree.get("arch", Scenario().arch)
    chosen = [name for name in known if name in chosen] if isinstance(chosen, list | tuple) else []
    common = [set(known[name]) for name in chosen or known]
    return tuple(sorted(set.intersection(*common))) if common else ()


def _choices(
    name: str, kind: Kind, arches: tuple[str, ...], profiles: tuple[str, ...]
) -> tuple[str, ...] | None:
    return {"arch": arches, "profile": profiles}.get(name, kind.one_of)


@cache
def _model(of: type, arches: tuple[str, ...], profiles: tuple[str, ...]) -> type[BaseModel]:
    """A pydantic model of a scenario class, from the bounds that its fields carry."""
    members: dict[str, Any] = {}
    for each in fields(of):
        kind: Kind = each.metadata["kind"]
        default = each.default_factory() if callable(each.default_factory) else each.default
        names = _choices(each.name, kind, arches, profiles) if kind.kind in ("word", "words") else None
        one: Any = Literal.__getitem__(names) if names else Annotated[str, Field(strict=True)]
        types: dict[str, Any] = {
            "whole": Annotated[int, Field(strict=True, ge=kind.low, le=kind.high)],
            "word": Annotated[str, Field(strict=True, pattern=f"^{kind.pattern}$")] if kind.pattern else one,
            "words": Annotated[list[one], Field(min_length=1, max_length=16)],
            "file": Annotated[str, Field(strict=True, min_length=1)] | None,
            "thresholds": dict[str, Annotated[str, Field(strict=True), AfterValidator(_as_threshold)]],
        }
        if kind.kind == "section":
            members[each.name] = (
                _section_model(type(default), default, arches, profiles),
                Field(default=None),
            )
        elif kind.kind == "thresholds":
            members[each.name] = (types[kind.kind], Field(default_factory=dict))
        else:
            members[each.name] = (types[kind.kind], list(default) if isinstance(default, tuple) else default)
    made: type[BaseModel] = create_model(of.__name__, __config__=ConfigDict(extra="forbid"), **members)
    return made


def _section_model(of: type, default: Any, arches: tuple[str, ...], profiles: tuple[str, ...]) -> Any:
    """The model of a section. Exits of different kinds have different defaults, which `_freeze` fills in."""
    return _model(of, arches, profiles) | None


def _freeze(of: type, model: BaseModel, default: Any = None) -> Any:
    """Turn what pydantic accepted into the frozen classes; a value that was not given is the default's."""
    default = of() if default is None else default
    values: dict[str, Any] = {}
    for name in model.model_fields_set:
        value = getattr(model, name)
        kind: Kind = next(each for each in fields(of) if each.name == name).metadata["kind"]
        inner = getattr(default, name)
        if kind.kind == "section":
            values[name] = inner if value is None else _freeze(type(inner), value, inner)
        elif kind.kind == "thresholds":
            values[name] = tuple(parse_threshold(what, text) for what, text in value.items())
        elif kind.kind == "words":
            values[name] = tuple(dict.fromkeys(value))
        else:
            values[name] = value
    return replace(default, **values)


def _as_threshold(text: str) -> str:
    parse_threshold("", text)
    return text


def _mistake(error: dict[str, Any], arches: tuple[str, ...], profiles: tuple[str, ...]) -> Mistake:
    """One of pydantic's findings in the words of this program."""
    location = [str(part) for part in error["loc"] if not isinstance(part, int)]
    path, value, of = ".".join(location), error["input"], _class_at(location[:-1])
    names = [each.name for each in fields(of)] if of is not None else []
    name = location[-1] if location else ""
    if error["type"] == "extra_forbidden" or name not in names:
        if location[:1] == ["thresholds"]:
            return Mistake(
                f'thresholds."{name}"', value, 'a text of one of < <= > >= == and a number, like "< 100000"'
            )
        near = difflib.get_close_matches(name, names, 1)
        return Mistake(
            path, value, ", ".join(names), f"did you mean {near[0]}?" if near else "no such setting"
        )
    assert of is not None
    kind: Kind = next(each for each in fields(of) if each.name == name).metadata["kind"]
    if kind.kind == "section" and _class_at(location) is ExitKind:
        return Mistake(path, value, "a number of exits, or { count = .., answered_by = .. }")
    choices = _choices(name, kind, arches, profiles) if kind.kind in ("word", "words") else None
    kind = replace(kind, one_of=choices)
    if name == "arch" and _console_only(value):
        return Mistake(
            path, value, kind.allowed(), "it has a console and a call table, and no comparison yet"
        )
    near = difflib.get_close_matches(value, choices or (), 1) if isinstance(value, str) else []
    return Mistake(path, value, kind.allowed(), f"did you mean {near[0]}?" if near else "")


def _class_at(location: list[str]) -> type | None:
    """The scenario class that holds the settings at `location`."""
    at: Any = Scenario()
    for name in location:
        at = getattr(at, name, None)
        if not hasattr(at, "__dataclass_fields__"):
            return None
    return type(at)


def _with_image(scenario: Scenario, folder: Path, origins: dict[str, str], wrong: list[Mistake]) -> Scenario:
    """Look at the user's image: it has to be there, and its size is the number of image pages."""
    if scenario.guest.image is None:
        return scenario
    from_file = origins.get("guest.image") == "file"
    try:
        path = (folder if from_file else Path()) / Path(scenario.guest.image).expanduser()
        if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
            raise OSError(0, "not a regular file")
        with path.open("rb") as file:
            head = file.read(IMAGE_HEAD_BYTES)
            size = file.seek(0, 2)
    except (OSError, RuntimeError, ValueError) as error:  # ~ of nobody; a NUL
        why = error.strerror if isinstance(error, OSError) else str(error)
        wrong.append(Mistake("guest.image", scenario.guest.image, "a file that can be read", why or ""))
        return scenario
    if not 0 < size <= IMAGE_BYTES:
        wrong.append(
            Mistake("guest.image", scenario.guest.image, f"1 to {IMAGE_BYTES} bytes", f"it has {size}")
        )
        return scenario
    try:
        pages = _image_pages(scenario, path, head, size)
    except ValueError as error:
        wrong.append(
            Mistake("guest.image", str(path), "an image that the machine of this seed opens", str(error))
        )
        return scenario
    origins["guest.image_pages"] = "size of guest.image"
    guest = replace(scenario.guest, image=str(path), image_pages=pages)
    return replace(scenario, guest=guest)


def _image_pages(scenario: Scenario, path: Path, head: bytes, size: int) -> int:
    """Pages of the guest that the file fills: of any file its own, of an image those that it holds.

    Raises ValueError for an image that is none of another architecture, or that no guest would boot.
    """
    from protocol.arch import load as slice_of

    owners: dict[str, Owner | None] = {name: getattr(slice_of(name), "owner", None) for name in scenario.arch}
    mine = {name: owner for name, owner in owners.items() if owner is not None and owner.is_image(head)}
    if not mine:
        return -(-size // fit.PAGE)
    if len(mine) < len(owners):
        others = ", ".join(name for name in owners if name not in mine)
        raise ValueError(f"it is one of {', '.join(mine)}, and none of {others}")
    pages = max(owner.pages(head, size, scenario.seed) for owner in mine.values())
    for owner in mine.values():
        complaint = owner.measure(path.read_bytes())[1] or (scenario.run.dumps and owner.no_dumps(head))
        if complaint:
            raise ValueError(complaint)
    return pages
