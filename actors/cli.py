"""The command line: which commands there are, and how each of them is called. What they do is elsewhere.

Typer costs a twentieth of a second, everything else of weight is imported inside the commands.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated

import typer

from actors import exit_codes
from actors.commands import (
    agent,
    answers,
    architectures,
    calibrate,
    calls,
    compare,
    console,
    doctor,
    explain,
    feasibility,
    fleet,
    fleet_tenant,
    hosted,
    hosted_serve,
    hosted_start,
    image,
    load,
    measure,
    node,
    pki,
    policy,
    replay,
    report,
    scenario,
    soak,
    trace,
    up,
    why,
)
from nestbed import __version__

EXAMPLES = {
    "nestbed": (
        "nestbed compare",
        "nestbed calls s390 create_config",
        "nestbed scenario list",
    ),
    "compare": (
        "nestbed compare",
        "nestbed compare boot-4g --path nested --path hosted --set guest.vcpus=4",
        "nestbed compare --json > base.json; nestbed compare --diff base.json",
    ),
    "calibrate": (
        "nestbed calibrate destroyed.csv --slope s390.te_page_reclaim_dead --source 'our z16' --out own.toml",
        "nestbed calibrate --here --out here.toml",
    ),
    "predict": (
        "nestbed predict exits.txt --arch s390 --memory 4096 --vcpus 2",
        "nestbed predict report.txt --seconds 60 --arch snp --memory 8192 --costs own.toml",
    ),
    "answers": ("nestbed answers b", "nestbed answers --out docs/answers --check"),
    "load": (
        "nestbed load",
        "nestbed load --virtual --arch s390 --arch snp --set load.rate_per_min=6000",
        "nestbed load --deployment lab.toml --set load.rate_per_min=60",
        "nestbed load --deployment fleet.toml --nats nats://10.0.0.1:4222 --certificate keys/driver-me.pem",
        "nestbed load --set load.model=closed --set load.clients=16 --processes 2",
    ),
    "report": ("nestbed report nestbed-default", "nestbed report --diff before after"),
    "up": ("nestbed up lab.toml", "nestbed up lab.toml --dry-run"),
    "node": (
        "nestbed node lab.toml --rank 0 --count 3",
        "nestbed node lab.toml --part l0-0.l1-1 --directory /run/nestbed/lab",
        "nestbed node lab.toml --listen 10.0.0.2:7701 --certificate keys/machine-one.pem --nats nats://10.0.0.1:4222",
    ),
    "why": ("nestbed why lab",),
    "fleet init": (
        "nestbed fleet init fleet.toml --certificate keys/machine-one.pem --nats nats://10.0.0.1:4222",
    ),
    "fleet machines": (
        "nestbed fleet machines --certificate keys/driver-operator.pem --nats nats://10.0.0.1:4222",
    ),
    "agent": (
        "nestbed agent --listen 10.0.0.2:7700 --keys keys",
        "nestbed agent --listen 10.0.0.2:7700 --keys keys --nats nats://10.0.0.1:4222",
    ),
    "fleet move": (
        "nestbed fleet move fleet.toml l0-0/0 l0-1/1 --certificate keys/driver-me.pem --nats nats://10.0.0.1:4222",
    ),
    "fleet start": (
        "nestbed fleet start guest.img --key 7 --certificate keys/tenant-blue.pem --nats nats://10.0.0.1:4222",
    ),
    "fleet list": ("nestbed fleet list --certificate keys/tenant-blue.pem --nats nats://10.0.0.1:4222",),
    "fleet destroy": (
        "nestbed fleet destroy 4be1 --certificate keys/tenant-blue.pem --nats nats://10.0.0.1:4222",
    ),
    "fleet keep": ("nestbed fleet keep --certificate keys/tenant-blue.pem --nats nats://10.0.0.1:4222",),
    "pki init": ("nestbed pki init keys",),
    "pki issue": ("nestbed pki issue keys machine l0-0 --host l0-0.example",),
    "doctor": ("nestbed doctor", "nestbed doctor --ready --url http://127.0.0.1:9464"),
    "calls": (
        "nestbed calls s390 --brief",
        "nestbed calls s390 create_config unpack",
        "nestbed calls s390 --json",
    ),
    "console": ('echo \'{"id": 1, "op": "info"}\' | nestbed console --arch s390 --depth 1',),
    "explain": (
        "nestbed explain s390 unpack:0x010A",
        "nestbed explain s390 0x0300:0x0108:0x0005",
        "nestbed explain s390 0x0104",
    ),
    "feasibility": (
        "nestbed feasibility --brief",
        "nestbed feasibility pef",
    ),
    "worklist": (
        "nestbed worklist s390",
        "nestbed worklist tdx --all --json",
    ),
    "image build": (
        "nestbed image build vmlinuz --initrd initrd.img --cmdline 'root=/dev/vda' -o guest.img",
        "nestbed image build vmlinuz --pcf 0x20000000 --cck owner.key -o guest.img",
    ),
    "image show": ("nestbed image show guest.img",),
    "measure": (
        "nestbed measure --arch s390 guest.img",
        "nestbed measure --arch snp --path nested --firmware OVMF.fd --vcpus 4 --vcpu-type EPYC-v4",
        "nestbed measure --arch tdx --path nested --depth 2 --firmware OVMF.fd",
    ),
    "replay": (
        "nestbed replay said.jsonl",
        "nestbed replay said.jsonl --depth 2",
        "nestbed replay said.jsonl --diff theirs.jsonl",
    ),
    "trace": (
        "nestbed trace --arch s390 --op create --depth 2",
        "nestbed trace --arch snp --op load --path nested --path hosted --mermaid load.mmd",
        "nestbed trace --op start --chrome start.json",
    ),
    "soak": (
        "nestbed soak --seed 7 --steps 100000",
        "nestbed soak --arch s390 --mode liveness --json",
    ),
    "scenario check": (
        "nestbed scenario check",
        "nestbed scenario check mine.toml --set guest.vcpus=4",
    ),
    "scenario list": ("nestbed scenario list",),
    "scenario settings": ("nestbed scenario settings",),
    "scenario show": ("nestbed scenario show default > mine.toml",),
    "arch list": ("nestbed arch list",),
    "architectures": ("nestbed architectures --json",),
    "version": ("nestbed version",),
    "hosted serve": ("nestbed hosted serve /run/nestbed --requester 3 --requester 4",),
    "hosted start": (
        "nestbed hosted start guest.img --vcpus 2 --memory 512 --to vsock:2:5200",
        "nestbed hosted start guest.img --key 7 --linger 60 --to unix:/run/nestbed/3.vsock_5200",
        "nestbed hosted start guest.img --dry-run sev-snp-guest",
    ),
    "hosted pack": ("nestbed hosted pack vmlinuz --initrd initrd.img -o guest.img",),
    "hosted wait": ("nestbed hosted wait 4be1 --until STOPPED --to vsock:2:5200",),
    "hosted list": ("nestbed hosted list --exited --to vsock:2:5200",),
    "hosted describe": ("nestbed hosted describe 4be1 --to vsock:2:5200",),
    "hosted console": ("nestbed hosted console 4be1 --to vsock:2:5200",),
    "hosted channel": ("nestbed hosted channel 4be1 7 --to vsock:2:5200",),
    "hosted attest": (
        "nestbed hosted attest 4be1 --trust host.pub --to vsock:2:5200",
        "nestbed hosted attest 4be1 --nonce 00ff --to vsock:2:5200",
    ),
    "hosted dump": ("nestbed hosted dump 4be1 -o guest.dump --to vsock:2:5200",),
    "hosted adopt": ("nestbed hosted adopt --credential 9f.. --epoch 1 --to vsock:2:5200",),
    "hosted hello": ("nestbed hosted hello --to vsock:2:5200",),
    "hosted quota": ("nestbed hosted quota --to vsock:2:5200",),
    "policy check": (
        "nestbed policy check rules.toml",
        "nestbed policy check rules.toml --call start --source 4 --vcpus 8",
    ),
    "hosted stop": ("nestbed hosted stop 4be1 --grace 5 --to vsock:2:5200",),
    "hosted reset": ("nestbed hosted reset 4be1 --to vsock:2:5200",),
    "hosted destroy": ("nestbed hosted destroy 4be1 --ack --to vsock:2:5200",),
    "hosted keep": ("nestbed hosted keep --to vsock:2:5200",),
    "hosted watch": ("nestbed hosted watch --since 0 --to vsock:2:5200",),
    "hosted deposit": ("nestbed hosted deposit 50 --to vsock:2:5200",),
    "hosted migrate": ("nestbed hosted migrate --to vsock:2:5200",),
    "hosted explain": ("nestbed hosted explain 402",),
}


def examples(command: str) -> str:
    """The end of a command's help. A paragraph each, or Typer would run them together."""
    return "Examples:\n\n" + "\n\n".join(EXAMPLES[command])


def help_of(does: Callable[..., None]) -> str:
    """Its docstring with one line for each paragraph: a terminal breaks lines where it needs to."""
    paragraphs = inspect.cleandoc(does.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"nestbed {__version__}")
        raise typer.Exit


def version() -> None:
    """Print the version."""
    _version(True)


def _start(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Emulate secure hosts that are themselves virtual machines, and compare nesting with hosting.

    Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 a run failed, 2
    arguments or a scenario that make no sense, 3 the environment (a port taken, a directory not writable),
    75 what a node stands on is gone, 99 a threshold failed or a count changed, 130 interrupted.
    """


COMMANDS: dict[str, Callable[..., None]] = {
    "compare": compare.compare,
    "load": load.load,
    "answers": answers.answers,
    "calibrate": calibrate.calibrate,
    "predict": calibrate.predict,
    "report": report.show,
    "up": up.up,
    "node": node.node,
    "why": why.why,
    "agent": agent.agent,
    "doctor": doctor.doctor,
    "fleet init": fleet.init,
    "fleet machines": fleet.machines,
    "fleet move": fleet.move,
    "fleet start": fleet_tenant.start,
    "fleet list": fleet_tenant.listed,
    "fleet destroy": fleet_tenant.destroy,
    "fleet keep": fleet_tenant.keep,
    "pki init": pki.init,
    "pki issue": pki.issue,
    "calls": calls.show,
    "explain": explain.explain,
    "feasibility": feasibility.show,
    "worklist": feasibility.worklist,
    "console": console.serve,
    "image build": image.build,
    "image show": image.show,
    "measure": measure.measure,
    "replay": replay.replay,
    "trace": trace.trace,
    "soak": soak.soak,
    "scenario check": scenario.check,
    "scenario list": scenario.listed,
    "scenario show": scenario.show,
    "scenario settings": scenario.settings,
    "arch list": architectures.show,
    "architectures": architectures.show,
    "hosted serve": hosted_serve.serve,
    "hosted start": hosted_start.start,
    "hosted pack": hosted_start.pack,
    "hosted wait": hosted.wait,
    "hosted list": hosted.listed,
    "hosted describe": hosted.describe,
    "hosted console": hosted.console,
    "hosted channel": hosted.channel,
    "hosted stop": hosted.stop,
    "hosted reset": hosted.reset,
    "hosted destroy": hosted.destroy,
    "hosted keep": hosted.keep,
    "hosted watch": hosted.watch,
    "hosted attest": hosted.attest,
    "hosted dump": hosted.dump,
    "hosted adopt": hosted.adopt,
    "hosted hello": hosted.hello,
    "hosted quota": hosted.quota,
    "hosted deposit": hosted.deposit,
    "hosted migrate": hosted.migrate,
    "hosted explain": hosted.explain,
    "policy check": policy.check,
    "version": version,
}  # in the order of the help


def build() -> typer.Typer:
    """All commands as Typer has them."""
    app = typer.Typer(
        name="nestbed",
        no_args_is_help=True,
        callback=_start,
        help=help_of(_start),
        epilog=examples("nestbed"),
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    groups = {
        "scenario": typer.Typer(no_args_is_help=True, help="Look at scenarios."),
        "arch": typer.Typer(no_args_is_help=True, help="Look at architectures."),
        "hosted": typer.Typer(
            no_args_is_help=True, help="Serve the hosting interface, or ask it for secure guests."
        ),
        "policy": typer.Typer(no_args_is_help=True, help="Look at policies of the hosting interface."),
        "fleet": typer.Typer(
            no_args_is_help=True, help="Look after machines that stand in one directory, on NATS servers."
        ),
        "pki": typer.Typer(no_args_is_help=True, help="Make certificates for links between machines."),
        "image": typer.Typer(no_args_is_help=True, help="Build images of secure guests, look at them."),
    }
    for name, does in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        to = groups[group] if group else app
        to.command(last, help=help_of(does), epilog=examples(name))(does)
    for name, group_app in groups.items():
        app.add_typer(group_app, name=name)
    return app


app = build()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the process ends with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that the terminal cannot show must not be an error
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=arguments, prog_name="nestbed")
    except KeyboardInterrupt:  # before or after the command itself
        sys.exit(exit_codes.INTERRUPTED)
