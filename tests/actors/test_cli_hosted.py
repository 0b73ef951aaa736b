"""`nestbed hosted` and `nestbed policy` as a program in a guest host uses them."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors import exit_codes
from actors.cli import app
from actors.commands.hosted_serve import limits_for
from actors.runtime.transport.pki import Authority
from nestbed import __main__ as entry

found = importlib.util.spec_from_file_location(
    "hosting_conftest", Path(__file__).with_name("hosting") / "conftest.py"
)
hosting = importlib.util.module_from_spec(found)
found.loader.exec_module(hosting)
short_directory, service_process = hosting.short_directory, hosting.service_process


def run(*arguments, to=None, stdin=None):
    env = {"COLUMNS": "100", "NO_COLOR": "1"} | ({"NESTBED_HOSTING": to} if to else {})
    return CliRunner().invoke(app, list(arguments), env=env, input=stdin)


@pytest.fixture
def rules(tmp_path):
    def write(text):
        path = tmp_path / "rules.toml"
        path.write_text(text)
        return str(path)

    return write


ALLOW = '[[rule]]\nallow = true\ncall = "*"\nsource = [3]\nvcpus = 2\n'


# -- without a service


def test_an_error_is_explained_by_number_and_by_name():
    by_number = run("hosted", "explain", "402")
    assert json.loads(by_number.stdout)["name"] == "BUSY_RELEASING"
    assert run("hosted", "explain", "busy_releasing").stdout == by_number.stdout
    wrong = run("hosted", "explain", "999")
    assert wrong.exit_code == exit_codes.USAGE
    assert "402 BUSY_RELEASING" in wrong.output


@pytest.mark.parametrize("te", ["sev-snp-guest", "tdx-guest", "s390-pv-guest", "pef-guest"])
def test_a_dry_run_shows_the_line_and_asks_nobody(te, tmp_path):
    shown = run("hosted", "start", str(tmp_path / "guest.img"), "--dry-run", te, "--memory", "512")
    assert shown.exit_code == exit_codes.OK
    assert f"-object {te},id=te0" in shown.stdout
    assert "-m 512M" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["list", "--to", "somewhere"], "allowed: vsock:CID:PORT", exit_codes.USAGE),
        (["start", "no.img", "--to", "unix:/nowhere"], "No such file", exit_codes.USAGE),
        (["start", "/dev/zero", "--to", "unix:/nowhere"], "not a file", exit_codes.USAGE),
        (["start", "EMPTY", "--to", "unix:/nowhere"], "the image is empty", exit_codes.USAGE),
        (["start", "EMPTY", "--vcpus", "0", "--to", "unix:/nowhere"], "--vcpus", exit_codes.USAGE),
        (["pack", "/dev", "-o", "/nowhere/it"], "not a file", exit_codes.USAGE),
        (["destroy", "", "--to", "unix:/nowhere"], "32 hexadecimal digits", exit_codes.USAGE),
        (["destroy", "xy", "--to", "unix:/nowhere"], "32 hexadecimal digits", exit_codes.USAGE),
        (["attest", "ab", "--trust", "/nowhere", "--to", "unix:/x"], "cannot be read", exit_codes.USAGE),
        (["serve", "/nowhere", "--certificate", "x"], "--certificate is for --tcp", exit_codes.USAGE),
        (["start", "no.img"], "--to ADDRESS is missing", exit_codes.USAGE),
        (["start", "no.img", "--dry-run", "sgx"], "sev-snp-guest", exit_codes.USAGE),
        (["wait", "ab", "--until", "GONE", "--to", "unix:/x"], "READY, STOPPED, RELEASED", exit_codes.USAGE),
        (["serve", "/nowhere", "--requester", "2"], "from 3 to", exit_codes.USAGE),
        (["serve", "/nowhere", "--profile", "sgx"], "peer, nitro, l1vh", exit_codes.USAGE),
        (["serve", "/nowhere", "--tcp", "here"], "HOST:PORT", exit_codes.USAGE),
        (["serve", "/" + "long" * 30], "too long for the names", exit_codes.ENVIRONMENT),
        (["attest", "ab", "--nonce", "xy", "--to", "unix:/x"], "hexadecimal", exit_codes.USAGE),
        (["list", "--to", "tcp:h:1"], "NESTBED_CERTIFICATE", exit_codes.USAGE),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_what_makes_no_sense_says_what_does(arguments, said, code, monkeypatch, tmp_path):
    if arguments[0] == "serve" and len(arguments[1]) > 100:
        arguments = ["serve", str(tmp_path / arguments[1].strip("/"))]
    (tmp_path / "empty").touch()
    arguments = [str(tmp_path / "empty") if each == "EMPTY" else each for each in arguments]
    wrong = run("hosted", *arguments)
    assert wrong.exit_code == code
    assert said in " ".join(wrong.output.split())
    assert wrong.stdout == ""


def test_a_policy_is_checked_and_asked(rules):
    path = rules(ALLOW)
    told = json.loads(run("policy", "check", path).stdout)
    assert (told["rules"], len(told["policy"])) == (1, 64)
    allowed = run("policy", "check", path, "--call", "start", "--vcpus", "2")
    assert (allowed.exit_code, json.loads(allowed.stdout)["rule"]) == (exit_codes.OK, 0)
    for more in (["--vcpus", "3"], ["--source", "4"]):
        denied = run("policy", "check", path, "--call", "start", *more)
        assert denied.exit_code == exit_codes.FAILED
        assert json.loads(denied.stdout)["allowed"] is False


def test_all_that_is_wrong_with_a_policy_is_told_at_once(rules):
    wrong = run("policy", "check", rules("[[rule]]\nallow = 1\ncall = ['strat']\nsource = '*'\n"))
    assert wrong.exit_code == exit_codes.USAGE
    assert "rule 0.allow" in wrong.output
    assert "rule 0.call" in wrong.output
    assert run("policy", "check", rules("[[rule")).exit_code == exit_codes.USAGE
    assert run("policy", "check", "/no/such.toml").exit_code == exit_codes.USAGE


# -- with one


@pytest.mark.slow
def test_a_life_from_the_command_line(service_process, tmp_path, rules):
    service = service_process("--policy", rules(ALLOW))
    to = f"unix:{service.directory}/3.vsock_5200"
    image = tmp_path / "guest.img"
    image.write_text("#!nestbed\nprint hello\nready\n")
    start = ["hosted", "start", str(image), "--key", "7", "--ready", "notified", "--debug"]
    started = json.loads(run(*start, to=to).stdout)
    assert (started["state"], started["replayed"]) == ("READY", False)
    again = json.loads(run(*start, to=to).stdout)
    assert (again["child"], again["replayed"]) == (started["child"], True)
    name = started["child"][:6]

    assert started["child"] in run("hosted", "list", to=to).stdout
    assert json.loads(run("hosted", "describe", name, to=to).stdout)["cid"] == started["cid"]
    assert json.loads(run("hosted", "wait", name, to=to).stdout)["state"] == "READY"
    assert run("hosted", "console", name, to=to).stdout == "hello\n"
    said = run("hosted", "attest", name, "--trust", str(service.directory / "host.pub"), to=to)
    assert json.loads(said.stdout)["verified"] is True
    assert json.loads(run("hosted", "quota", to=to).stdout)["children"]["charged"] == 1
    events = run("hosted", "watch", "--since", "0", "--count", "2", to=to).stdout.splitlines()
    assert [json.loads(line)["kind"] for line in events] == ["established", "state", "state"]
    dump = run("hosted", "dump", name, "-o", str(tmp_path / "d"), to=to)
    assert json.loads(dump.stdout)["bytes"] == (tmp_path / "d").stat().st_size

    command = [sys.executable, "-P", "-m", "nestbed", "hosted", "channel", name, "7", "--to", to]
    echoed = subprocess.run(command, input=b"over a channel", capture_output=True, check=False)
    assert (echoed.returncode, echoed.stdout) == (0, b"over a channel")

    refused = run("hosted", "start", str(image), "--vcpus", "3", to=to)
    assert (refused.exit_code, refused.stdout) == (exit_codes.FAILED, "")
    assert "NOT_PERMITTED" in refused.output
    assert json.loads(run("hosted", "stop", name, to=to).stdout) == {"state": "STOPPED"}
    assert json.loads(run("hosted", "destroy", name, "--ack", to=to).stdout) == {"state": "RELEASED"}
    assert run("hosted", "list", "--exited", "--json", to=to).stdout.strip() == "[]"
    unknown = run("hosted", "describe", "ffff", to=to)
    assert unknown.exit_code == exit_codes.USAGE
    assert "names 0 children" in unknown.output


@pytest.mark.slow
def test_pages_are_deposited_from_the_command_line_and_the_service_is_scraped(service_process, tmp_path):
    service = service_process("--profile", "l1vh", "--metrics-port", "0")
    to = f"unix:{service.directory}/3.vsock_5200"
    image = tmp_path / "guest.img"
    image.write_text("#!nestbed\nready\n")
    lacking = run("hosted", "start", str(image), to=to)
    assert (lacking.exit_code, "deposit 50 pages" in lacking.output) == (exit_codes.ENVIRONMENT, True)
    child = json.loads(run("hosted", "start", str(image), "--deposit", to=to).stdout)["child"]
    assert json.loads(run("hosted", "quota", to=to).stdout)["donated_pages"]["charged"] == 50
    assert "QUOTA" in run("hosted", "deposit", "1", "--withdraw", to=to).output, "they are in use"
    scrape = f"http://127.0.0.1:{json.loads(service.said)['metrics']}/metrics"
    with urllib.request.urlopen(scrape, timeout=30) as answer:
        shown = answer.read().decode()
    assert 'nestbed_guests{arch="none",path="hosted",state="ready"} 1.0' in shown
    assert 'nestbed_host_refusals_total{arch="none",error="NEED_MEMORY",path="hosted"} 2.0' in shown
    assert json.loads(run("hosted", "destroy", child, to=to).stdout)["state"] == "RELEASED"
    assert json.loads(run("hosted", "deposit", "50", "--withdraw", to=to).stdout)["limit"] == 0


@pytest.mark.slow
def test_nobody_there_is_the_environment(short_directory):
    silent = subprocess.run(
        [sys.executable, "-P", "-m", "nestbed", "hosted", "list", "--to", f"unix:{short_directory}/none"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_COLOR": "1"},
    )
    assert silent.returncode == exit_codes.ENVIRONMENT
    assert "nestbed hosted serve" in silent.stderr


@pytest.mark.parametrize(("named", "accounts"), [(1, 64), (100, 100)])
def test_whoever_is_named_has_an_account(named, accounts):
    """Found by the soak of a hundred requesters: the last ones were told that the host has no more."""
    assert limits_for(range(3, 3 + named), "nitro").requesters == accounts


def test_a_service_over_tcp_needs_a_machines_certificate(short_directory):
    keys = Authority.create(short_directory / "keys")
    wrong, right = keys.issue("requester", "3"), keys.issue("machine", "l0")
    over_tcp = ["hosted", "serve", str(short_directory / "h"), "--tcp", "127.0.0.1:0", "--certificate"]
    for path, said in (
        (wrong.certificate, "that of requester 3; allowed: a machine's"),
        (keys.folder / "ca.pem", "it names no role"),
    ):
        refused = run(*over_tcp, str(path))
        assert (refused.exit_code, said in " ".join(refused.output.split())) == (exit_codes.USAGE, True)
    right.key.unlink()
    refused = run(*over_tcp, str(right.certificate))
    assert (refused.exit_code, "is not there" in " ".join(refused.output.split())) == (exit_codes.USAGE, True)


def test_a_port_that_is_taken_is_named(short_directory):
    given = Authority.create(short_directory / "keys").issue("machine", "l0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        serve = ["hosted", "serve", str(short_directory / "h"), "--tcp", where]
        refused = run(*serve, "--certificate", str(given.certificate))
    assert refused.exit_code == exit_codes.ENVIRONMENT
    assert where in refused.output


def test_a_requesters_certificate_names_its_context_id(tmp_path):
    assert run("pki", "init", str(tmp_path)).exit_code == exit_codes.OK
    for name in ("me", "2", "99999999999"):
        refused = run("pki", "issue", str(tmp_path), "requester", name)
        assert (refused.exit_code, "context id" in refused.output) == (exit_codes.USAGE, True)
    assert run("pki", "issue", str(tmp_path), "requester", "3").exit_code == exit_codes.OK


def test_an_interrupt_while_the_program_is_read_in_ends_it_without_a_word(monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "_run", interrupted)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == exit_codes.INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_kvm_is_for_qemu(short_directory):
    refused = run("hosted", "serve", str(short_directory), "--kvm")
    assert (refused.exit_code, "--qemu" in refused.output) == (exit_codes.USAGE, True)
