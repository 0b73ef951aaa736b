"""Scenario files: what they resolve to, where each value came from, and every mistake at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import scenario as s
from protocol.plan.scenario import Scenario, Threshold, as_dict, leaves

KNOWN = s.known_architectures()


def written(folder: Path, text: str, name: str = "mine.toml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def mistakes(folder: Path, text: str, **flags: str) -> dict[str, str]:
    """Where something is wrong and what is allowed there."""
    with pytest.raises(s.BrokenScenario) as broken:
        s.load(written(folder, text), flags={k.replace("__", "."): v for k, v in flags.items()}, known=KNOWN)
    return {each.path: f"{each.allowed} {each.hint}".strip() for each in broken.value.mistakes}


def resolved(folder: Path, text: str = "", **more: Any) -> s.Resolved:
    return s.load(written(folder, text), known=KNOWN, **more)


# -- what is right -----------------------------------------


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    found = resolved(tmp_path)
    assert found.scenario == Scenario()
    assert set(found.origins.values()) == {"default"}


@pytest.mark.parametrize("name", sorted(s.shipped()))
def test_every_shipped_scenario_can_be_run_and_says_what_it_is_for(name: str) -> None:
    found = s.load(name, known=KNOWN)
    assert (found.scenario.name, found.source) == (name, name)
    text = s.text_of(name)
    assert text.startswith("# ")
    assert 20 < len(s.shipped()[name]) < 120


def test_without_a_name_it_is_the_default_scenario() -> None:
    assert s.load(known=KNOWN) == s.load("default", known=KNOWN)


def test_a_file_may_say_everything_that_a_scenario_has(tmp_path: Path) -> None:
    """What `as_dict` writes, written as TOML and read again, is the same scenario."""
    run = replace(Scenario().run, swap_pages=3, reboots=0)
    wanted = replace(
        Scenario(),
        name="mine",
        paths=("nested", "direct"),
        run=run,
        thresholds=(Threshold("counts.nested.exits", "<", 1000.0),),
    )
    assert resolved(tmp_path, toml(as_dict(wanted))).scenario == wanted


def toml(tree: dict[str, Any], prefix: str = "") -> str:
    """A table of settings as TOML."""
    import json

    plain = {name: value for name, value in tree.items() if not isinstance(value, dict) and value is not None}
    lines = [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in plain.items()]
    for name, value in tree.items():
        if isinstance(value, dict):
            lines += [f"[{prefix}{name}]", toml(value, f"{prefix}{name}.")]
    return "\n".join(lines)


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    text = "seed = 2\n[guest]\nvcpus = 2\nmemory_mib = 16\nper_l1 = 3\n"
    environment = {"NESTBED_GUEST_VCPUS": "3", "NESTBED_GUEST_MEMORY_MIB": "32", "HOME": "/x"}
    found = resolved(tmp_path, text, flags={"guest.vcpus": "4", "seed": "9"}, environment=environment)
    guest = found.scenario.guest
    assert (guest.vcpus, guest.memory_mib, guest.per_l1, found.scenario.seed) == (4, 32, 3, 9)
    origins = [found.origins[f"guest.{name}"] for name in ("vcpus", "memory_mib", "per_l1", "touch_pages")]
    assert origins == ["flag --set guest.vcpus", "environment NESTBED_GUEST_MEMORY_MIB", "file", "default"]
    assert found.origins["seed"] == "flag --seed"


def test_every_setting_has_a_variable_and_each_can_be_set_by_it(tmp_path: Path) -> None:
    for path, value, kind in leaves(Scenario()):
        if kind.kind in ("thresholds", "file") or path == "arch":
            continue
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        found = resolved(tmp_path, environment={s.variable_of(path): text})
        assert found.origins[path] == f"environment {s.variable_of(path)}"
        assert found.scenario == Scenario()


def test_lists_and_numbers_in_flags_are_texts(tmp_path: Path) -> None:
    found = resolved(tmp_path, flags={"paths": " nested , direct,", "seed": "0x10", "run.exits.sclp": "7"})
    assert (found.scenario.paths, found.scenario.seed) == (("nested", "direct"), 16)
    assert found.scenario.run.exits.sclp.count == 7
    assert found.scenario.run.exits.sclp.answered_by == "vmm", "the other default stays"


def test_exits_may_be_a_number_or_a_table(tmp_path: Path) -> None:
    text = '[run.exits]\nsclp = 3\nwait = { count = 4, answered_by = "vmm" }\n'
    text += 'diag_500 = { answered_by = "kernel" }\n'
    exits = resolved(tmp_path, text).scenario.run.exits
    assert (exits.sclp.count, exits.sclp.answered_by) == (3, "vmm")
    assert (exits.wait.count, exits.wait.answered_by) == (4, "vmm")
    assert (exits.diag_500.count, exits.diag_500.answered_by) == (20, "kernel")


def test_a_repeated_word_is_one(tmp_path: Path) -> None:
    assert resolved(tmp_path, 'paths = ["nested", "direct", "nested"]').scenario.paths == ("nested", "direct")


def test_a_variable_that_means_nothing_is_noted(tmp_path: Path) -> None:
    found = resolved(tmp_path, environment={"NESTBED_GUEST_VCPU": "4", "NESTBED_UNRELATED_THING": "x"})
    assert found.notes == ("NESTBED_GUEST_VCPU is set but means nothing; did you mean NESTBED_GUEST_VCPUS?",)


# -- what is wrong -----------------------------------------


def test_every_mistake_is_listed_with_what_is_allowed(tmp_path: Path) -> None:
    text = """
        arch = ["s390x"]
        depth = 7
        colour = "red"
        paths = ["direct", "nestd"]
        [guest]
        vcpus = "two"
        vcpu = 2
        [run.exits]
        sclp = { count = -1, answered_by = "firmware" }
        [thresholds]
        "counts.direct.exits" = "~ 5"
    """
    found = mistakes(tmp_path, text)
    assert found == {
        "arch": f"a list of: {', '.join(KNOWN)} did you mean s390?",
        "depth": "a whole number, 1 to 4",
        "colour": f"{', '.join(name for name in as_dict(Scenario()))} no such setting",
        "paths": "a list of: direct, nested, hosted, mixed did you mean nested?",
        "guest.vcpus": "a whole number, 1 to 256",
        "guest.vcpu": f"{', '.join(as_dict(Scenario())['guest'])} did you mean vcpus?",
        "run.exits.sclp.count": "a whole number, 0 to 10000000 exits",
        "run.exits.sclp.answered_by": "one of: kernel, vmm",
        'thresholds."counts.direct.exits"': 'a text of one of < <= > >= == and a number, like "< 100000"',
    }


def test_a_flag_that_resembles_no_setting_says_where_they_are_listed(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "", zzz="1") == {"zzz": f"a setting {s.SEE}"}


def test_the_message_names_file_path_value_allowed_and_what_was_meant(tmp_path: Path) -> None:
    path = written(tmp_path, 'strategy.pages = "merged"\n')
    with pytest.raises(s.BrokenScenario) as broken:
        s.load(path, flags={"depth": "deep"}, environment={"NESTBED_SEED": "-1"}, known=KNOWN)
    assert broken.value.text().splitlines() == [
        f"{path}: 3 mistakes",
        "  seed = -1  (environment NESTBED_SEED)",
        "      allowed: a whole number, 0 to 9223372036854775807",
        '  depth = "deep"  (flag --depth)',
        "      allowed: a whole number, 1 to 4",
        '  strategy.pages = "merged"',
        "      allowed: one of: two_fault, merged_l1, merged_l0, prefault",
        "      did you mean merged_l1?",
    ]


def test_what_does_not_go_together_is_found_beside_what_is_wrong_by_itself(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "seed = -1\n[run]\ndeaths = 5\n[l1]\ncount = 2\n")
    assert set(found) == {"seed", "run.deaths"}


def test_nothing_is_concluded_from_a_value_that_is_wrong(tmp_path: Path) -> None:
    """A guest of a nonsense size would not fit its image: that is one mistake, not two."""
    assert set(mistakes(tmp_path, '[guest]\nmemory_mib = "small"\nimage_pages = 100000\n')) == {
        "guest.memory_mib"
    }


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("machine = 5", "machine"),
        ("guest = []", "guest"),
        ("run = 1", "run"),
        ("[run]\nexits = 5", "run.exits"),
        ("[run.exits]\nsclp = true", "run.exits.sclp"),
        ("[run.exits]\nsclp = [1]", "run.exits.sclp"),
        ("thresholds = 5", "thresholds"),
        ("[thresholds]\nx = 5", 'thresholds."x"'),
        ("[thresholds]\nx.y = 'z'", 'thresholds."x"'),
        ('arch = "s390"', "arch"),
        ("arch = []", "arch"),
        ('arch = [["s390"]]', "arch"),
        ("arch = [{}]", "arch"),
        ("paths = [1.5]", "paths"),
        ("depth = true", "depth"),
        ("depth = 1.0", "depth"),
        ("seed = 9223372036854775808", "seed"),
        ("seed = 1979-05-27", "seed"),
        ('name = "Not A Name"', "name"),
        ('profile = "huge"', "profile"),
        ("profile = 5", "profile"),
        ('"" = 1', ""),
        ('"a.b" = 1', "a.b"),
        ("[guest]\nimage = 5", "guest.image"),
        ("[guest]\nimage = ''", "guest.image"),
        ('[guest]\nimage = "no/such/file"', "guest.image"),
        ('[guest]\nimage = "nul\\u0000byte"', "guest.image"),
        ('[guest]\nimage = "~nobody-of-that-name/x"', "guest.image"),
        ('[guest]\nimage = "."', "guest.image"),
        ('[guest]\nimage = "/dev/null"', "guest.image"),
    ],
)
def test_any_wrong_value_is_a_mistake_at_its_place(text: str, where: str, tmp_path: Path) -> None:
    assert where in mistakes(tmp_path, text)


def test_a_section_that_is_none_takes_flags_below_it_with_it(tmp_path: Path) -> None:
    assert set(mistakes(tmp_path, "guest = 5", guest__vcpus="3")) == {"guest"}


def test_an_architecture_that_cannot_be_compared_yet_is_told_from_one_that_is_none(tmp_path: Path) -> None:
    from protocol.arch import architectures

    for name in architectures():
        if name not in KNOWN:
            assert "no comparison yet" in mistakes(tmp_path, f'arch = ["{name}"]')["arch"]
    assert "no comparison yet" not in mistakes(tmp_path, 'arch = ["vax"]')["arch"]


def test_an_unknown_setting_on_the_command_line_is_named(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "", guest__vcpu="3", thresholds="x")
    assert found["guest.vcpu"] == "a setting did you mean guest.vcpus?"
    assert "thresholds" in found


TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.text("as390", max_size=5)
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2),
    max_leaves=4,
)
NAMES = [path.split(".")[0] for path, _, _ in leaves(Scenario())]


@given(st.dictionaries(st.sampled_from(sorted({*NAMES, "zzz"})), TREES, max_size=3))
def test_nonsense_is_refused_with_words_and_never_with_a_crash(tree: dict[str, Any]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        try:
            text = toml(_without_none(tree))
            found = resolved(Path(folder), text)
        except s.BrokenScenario as broken:
            assert broken.mistakes
            assert all(each.allowed for each in broken.mistakes)
            assert broken.text()
        except s.UnreadableScenario as unreadable:
            assert "not TOML" in str(unreadable), "a list of tables is not what this writer can write"
        else:
            assert isinstance(found.scenario, Scenario)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value if v is not None] if isinstance(value, list) else value


# -- images ------------------------------------------------


def test_an_image_is_found_beside_its_scenario_and_gives_the_number_of_pages(tmp_path: Path) -> None:
    (tmp_path / "kernel.img").write_bytes(b"x" * 8193)
    found = resolved(tmp_path, '[guest]\nimage = "kernel.img"\nimage_pages = 99\n')
    assert found.scenario.guest.image == str(tmp_path / "kernel.img")
    assert found.scenario.guest.image_pages == 3
    assert found.origins["guest.image_pages"] == "size of guest.image"


def test_an_image_of_a_flag_is_where_the_person_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "kernel.img").write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "here")
    found = resolved(tmp_path, flags={"guest.image": "kernel.img"})
    assert found.scenario.guest.image == "kernel.img"
    assert found.origins["guest.image"] == "flag --image"


def test_an_image_that_does_not_fit_its_guest_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "big.img").write_bytes(b"x" * (9 << 20))
    found = mistakes(tmp_path, '[guest]\nimage = "big.img"\n')
    assert found["guest.image"].startswith("at most 2032 pages")


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    assert mistakes(tmp_path, '[guest]\nimage = "pipe"\n')["guest.image"].endswith("not a regular file")


# -- files -------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a = !\n", "not TOML: .*line 1"),
        (b"\xff", "not UTF-8 text \\(byte 0\\)"),
        (b"a = " + b"[" * 100_000, "nested too deeply|not TOML"),
        (b"# " + b"x" * s.SCENARIO_BYTES, "larger than 1048576 bytes"),
    ],
    ids=["toml", "utf8", "deep", "large"],
)
def test_what_is_no_scenario_file_is_refused_with_the_reason(
    content: bytes, why: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(s.UnreadableScenario, match=why) as refusal:
        s.load(str(path), known=KNOWN)
    assert str(refusal.value).startswith(str(path))


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(s.UnreadableScenario, match="no such file"):
        s.load(str(tmp_path / "x.toml"), known=KNOWN)
    with pytest.raises(s.UnreadableScenario, match="cannot be read: Is a directory"):
        s.load(str(tmp_path), known=KNOWN)


def test_a_name_that_is_nearly_one_is_guessed() -> None:
    with pytest.raises(s.UnreadableScenario, match="did you mean reboot-storm") as refusal:
        s.find("reboot-strom")
    assert all(name in str(refusal.value) for name in s.shipped())
    with pytest.raises(s.UnreadableScenario, match=r"no such scenario\. There are"):
        s.find("qqqqqq")


def test_a_file_without_an_ending_is_found_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "seed = 5", "mine")
    assert s.load("mine", known=KNOWN).scenario.seed == 5


def test_values_are_shown_shortened() -> None:
    import datetime as dt

    assert s.shown("x" * 100) == '"' + "x" * 56 + "..."
    assert s.shown(dt.date(2026, 1, 2)) == "2026-01-02"
