"""deploy/: everything that can be checked without a cluster, a container engine or a booted systemd."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from actors.deployment.parts import parts_of
from actors.deployment.settings import read_deployment

OVERLAYS = ("base", "overlays/single", "overlays/fleet", "overlays/campaign")
KUBERNETES = "1.32"
EXPOSURE = 2.0  # of 10, as systemd-analyze judges; it calls up to 2 OK

yaml = pytest.importorskip("yaml", reason="PyYAML is not here: it comes with the dev extra")


@pytest.fixture(scope="module")
def deploy(root: Path) -> Path:
    return root / "deploy"


@pytest.fixture(scope="module")
def lab(deploy: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((deploy / "lab" / "compose.yaml").read_text())
    return loaded


def services(lab: dict[str, Any]) -> dict[str, Any]:
    """Those that run nestbed."""
    return {name: each for name, each in lab["services"].items() if each["image"] == "nestbed"}


# -- compose -----------------------------------------------


def test_every_part_of_the_lab_has_a_service(deploy: Path, lab: dict[str, Any]) -> None:
    deployment, resolved = read_deployment(deploy / "lab" / "lab.toml")
    parts = [part.name for part in parts_of(deployment, resolved.scenario.l1.count)]
    said = [each["command"][each["command"].index("--part") + 1] for each in services(lab).values()]
    assert said == parts


def test_services_run_with_nothing_that_they_do_not_need(lab: dict[str, Any]) -> None:
    for name, service in services(lab).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "ports" not in service, f"{name}: metrics are for this network alone"
    for name, service in lab["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name


def test_files_and_volumes_that_are_mounted_are_there(deploy: Path, lab: dict[str, Any]) -> None:
    for name, service in lab["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            there = (deploy / "lab" / source).exists() if source.startswith(".") else source in lab["volumes"]
            assert there, f"{name}: {volume}"


def test_whoever_is_waited_for_says_when_it_is_healthy(deploy: Path, lab: dict[str, Any]) -> None:
    for service in lab["services"].values():
        for waited in service.get("depends_on", {}):
            on = lab["services"][waited]
            assert on["image"] == "nestbed" or "healthcheck" in on, waited
    assert "HEALTHCHECK" in (deploy / "docker" / "Dockerfile").read_text()


def test_every_part_is_scraped_where_its_service_listens(deploy: Path, lab: dict[str, Any]) -> None:
    scraped = yaml.safe_load((deploy / "lab" / "prometheus.yml").read_text())["scrape_configs"][0]
    targets = {each["targets"][0]: each["labels"]["part"] for each in scraped["static_configs"]}
    expected = {
        f"{name}:9464": each["command"][each["command"].index("--part") + 1]
        for name, each in services(lab).items()
    }
    assert targets == expected


def test_the_image_has_two_stages_and_a_user_of_its_own(deploy: Path) -> None:
    text = (deploy / "docker" / "Dockerfile").read_text()
    assert len(re.findall(r"^FROM ", text, re.MULTILINE)) == 2
    assert "pip" not in text[text.rindex("FROM ") :]
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert 'CMD ["nestbed", "doctor", "--ready"' in text


# -- Kubernetes --------------------------------------------


def manifests(deploy: Path, overlay: str) -> list[dict[str, Any]]:
    """What kustomize makes of an overlay."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl, which holds kustomize, is not here")
    command = [kubectl, "kustomize", str(deploy / "kubernetes" / overlay)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return [each for each in yaml.safe_load_all(made.stdout) if each]


def workload(documents: list[dict[str, Any]]) -> dict[str, Any]:
    return next(each for each in documents if each["kind"] in ("StatefulSet", "Job"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_are_as_the_schemas_want_them(deploy: Path, overlay: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not here")
    for document in manifests(deploy, overlay):
        validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_count_that_instances_are_told_is_how_many_there_are(deploy: Path, overlay: str) -> None:
    documents = manifests(deploy, overlay)
    spec = workload(documents)["spec"]
    container = spec["template"]["spec"]["containers"][0]
    told = {each["name"]: each.get("value") for each in container["env"]}
    assert int(told["NESTBED_COUNT"]) == spec.get("replicas", spec.get("completions"))
    config = next(each for each in documents if each["kind"] == "ConfigMap")
    mounted = spec["template"]["spec"]["volumes"][1]["configMap"]["name"]
    assert config["metadata"]["name"] == mounted


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_deployments_in_manifests_make_sense(deploy: Path, overlay: str) -> None:
    deployment, _ = read_deployment(deploy / "kubernetes" / overlay / "deployment.toml")
    spec = workload(manifests(deploy, overlay))["spec"]
    assert deployment.machines >= spec.get("replicas", spec.get("completions"))
    if "completions" in spec:
        assert deployment.load is not None
        assert deployment.load.rounds > 0, "a Job ends"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_keep_to_the_restricted_standard(deploy: Path, overlay: str) -> None:
    documents = manifests(deploy, overlay)
    pod = workload(documents)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    own = pod["containers"][0]["securityContext"]
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    policy = next(each for each in documents if each["kind"] == "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not policy["spec"].get("egress")


# -- systemd and SLURM -------------------------------------


@pytest.fixture
def unit(deploy: Path, tmp_path: Path) -> Path:
    """The unit with a program that is there: what it starts is looked for."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    text = (deploy / "systemd" / "nestbed@.service").read_text()
    made = tmp_path / "nestbed@lab.service"
    made.write_text(text.replace("/usr/bin/nestbed", "/bin/true"))
    return made


def test_systemd_understands_the_unit(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_is_exposed_to_little(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", str(unit)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"exposure level for \S+: ([\d.]+)", told.stdout)
    if found is None:
        pytest.skip(f"systemd-analyze cannot judge a unit by itself here: {told.stderr[:80]}")
    assert float(found[1]) <= EXPOSURE


SRUN = """#!/bin/bash
# Stands in for SLURM's: runs the command once for each task, at the same time.
while [[ $1 == --* ]]; do shift; done
for rank in $(seq 0 $((SLURM_NTASKS - 1))); do SLURM_PROCID=$rank "$@" & tasks="$tasks $!"; done
code=0
for task in $tasks; do wait "$task" || code=$?; done
exit $code
"""


@pytest.mark.slow
def test_the_slurm_script_runs_every_share_of_a_campaign(root: Path, deploy: Path, tmp_path: Path) -> None:
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(SRUN)
    srun.chmod(srun.stat().st_mode | stat.S_IXUSR)
    small = '[set]\n"l1.count" = 1\n"guest.per_l1" = 1\n"guest.touch_pages" = 16\n"run.swap_pages" = 2\n'
    campaign = tmp_path / "campaign.toml"
    campaign.write_text(f'name = "campaign"\nmachines = 3\n[load]\nrounds = 1\n{small}')
    scratch = Path(tempfile.mkdtemp())  # short: sockets are made there
    path = f"{srun.parent}:{root / '.venv' / 'bin'}:{os.environ['PATH']}"
    environment = {
        **os.environ, "PATH": path, "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "DEPLOYMENT": str(campaign),
        "SLURM_TMPDIR": str(scratch),
    }  # fmt: skip
    script = deploy / "slurm" / "campaign.sbatch"
    process = subprocess.Popen(
        ["bash", str(script)], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        _, said = process.communicate(timeout=120)
    finally:
        with suppress(ProcessLookupError):  # whatever it started is of its session
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said
    assert "rank 0 of 2 (SLURM_PROCID): machines 0, 2" in said
    assert "rank 1 of 2 (SLURM_PROCID): machines 1" in said
    rounds = {}
    for rank in range(2):
        rounds[rank] = (tmp_path / f"load-{rank}.journal").read_text().count("\nR ")
    assert rounds == {0: 4, 1: 2}, "one nested and one hosted round of each machine"
    assert list(scratch.iterdir()) == []
    scratch.rmdir()
