"""Every file under cluster/, checked without a cloud: schemas, typos in node_config, shell, secrets, versions."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
SHARED = Path(os.environ.get("RAYBENCH_SHARED", ROOT.parent / "shared"))
CLOUDS = ["aws.yaml", "gcp.yaml"]
MANIFESTS = ["kuberay-cluster.yaml", "kuberay-job.yaml"]
# Fields of a Compute Engine instance (REST reference, instances.insert), as far as a node may want them.
GCP_FIELDS = {
    "": "machineType disks metadata scheduling serviceAccounts networkInterfaces guestAccelerators labels tags "
    "canIpForward minCpuPlatform shieldedInstanceConfig deletionProtection description hostname name",
    "disks": "boot autoDelete type mode source deviceName index interface initializeParams diskSizeGb",
    "disks.initializeParams": "diskName sourceImage diskSizeGb diskType labels",
    "metadata": "items",
    "metadata.items": "key value",
    "scheduling": "provisioningModel instanceTerminationAction onHostMaintenance automaticRestart preemptible",
    "serviceAccounts": "email scopes",
}


def _constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def _read(name):
    return yaml.safe_load((FOLDER / name).read_text())


def _ray_schema():
    import ray

    return json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())


def check_ray_up(config):
    """Raise unless Ray and the cloud would take this configuration."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    jsonschema.validate(config, _ray_schema())
    validate_config(prepare_config(copy.deepcopy(config)))
    check = {"aws": check_ec2, "gcp": check_compute_engine}[config["provider"]["type"]]
    for node_type in config["available_node_types"].values():
        check(node_type["node_config"])


def check_ec2(node_config):
    """Every field against botocore's own description of RunInstances."""
    botocore = pytest.importorskip("botocore.session")
    from botocore.validate import ParamValidator

    service = botocore.get_session().get_service_model("ec2")
    request = {"MinCount": 1, "MaxCount": 1, **node_config}
    report = ParamValidator().validate(request, service.operation_model("RunInstances").input_shape)
    if report.has_errors():
        raise ValueError(report.generate_report())


def check_compute_engine(value, path=""):
    """Every field against the list above."""
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, dict):
            continue
        unknown = set(one) - set(GCP_FIELDS.get(path, "").split())
        if path in GCP_FIELDS and unknown:
            raise ValueError(f"node_config {path}: unknown {sorted(unknown)}")
        for key, inner in one.items():
            check_compute_engine(inner, f"{path}.{key}".lstrip("."))


@pytest.mark.parametrize("name", CLOUDS)
def test_ray_up_would_take_it(name):
    check_ray_up(_read(name))


MISTAKES = {
    "unknown key": lambda c: c.update(idle_timeout_mins=5),
    "type": lambda c: c.update(max_workers="many"),
    "head type": lambda c: c.update(head_node_type="hed"),
    "node type": lambda c: c["available_node_types"]["gpu_spot"].update(min_wrokers=0),
    "more than the maximum": lambda c: c["available_node_types"]["gpu_spot"].update(min_workers=33),
    "field of the node": lambda c: c["available_node_types"]["gpu_spot"]["node_config"].update(InstancType="x"),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("name", CLOUDS)
def test_a_mistake_would_be_caught(name, mistake):
    config = _read(name)
    mistake(config)
    with pytest.raises(Exception, match=r"idle_timeout_mins|many|head_node_type|min_wrokers|max|workers|InstancType"):
        check_ray_up(config)


def test_a_deep_mistake_in_a_node_is_caught():
    aws, gcp = _read("aws.yaml"), _read("gcp.yaml")
    aws["available_node_types"]["gpu_spot"]["node_config"]["InstanceMarketOptions"] = {"MarkteType": "spot"}
    gcp["available_node_types"]["gpu_spot"]["node_config"]["scheduling"] = [{"provisionModel": "SPOT"}]
    with pytest.raises(ValueError, match="MarkteType"):
        check_ray_up(aws)
    with pytest.raises(ValueError, match="provisionModel"):
        check_ray_up(gcp)


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_computes_nothing_and_workers_come_and_go(name):
    config = _read(name)
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    workers = [kind for key, kind in types.items() if key != config["head_node_type"]]
    assert all(kind["min_workers"] == 0 < kind["max_workers"] and kind["resources"]["GPU"] for kind in workers)
    assert config["idle_timeout_minutes"] == 5
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/raybench-secrets/auth_token" in commands[-1]
    assert "/raybench-secrets" in config["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


@pytest.mark.parametrize("name", CLOUDS)
def test_spot_first_and_on_demand_while_there_is_none(name):
    """Asked of Ray's own scheduler: which kind of node would it start?"""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    config = _read(name)
    assert "RAY_enable_autoscaler_v2=1" in config["head_start_ray_commands"][-1]  # v1 knows no fallback
    types = AutoscalingConfig(config, skip_content_hash=True).get_node_type_configs()
    demand = ResourceRequestUtil.group_by_count([ResourceRequestUtil.make({"CPU": 1, "GPU": 1})])

    def started(**availability):
        request = SchedulingRequest(
            disable_launch_config_check=True, node_type_configs=types, max_num_nodes=33, resource_requests=demand,
            recoverable_resource_availabilities=availability, cloud_resource_availabilities=availability,
        )  # fmt: skip
        return [launch.instance_type for launch in ResourceDemandScheduler(None).schedule(request).to_launch]

    workers = [kind for kind in started() if kind != "head"]
    assert workers == ["gpu_spot"]
    assert [kind for kind in started(gpu_spot=0.0) if kind != "head"] == ["gpu_on_demand"]


@pytest.fixture(scope="module")
def schemas():
    folder = SHARED / "reference/kuberay"
    if not folder.is_dir():
        pytest.skip(f"no KubeRay schemas in {folder}")
    names = {"RayCluster": "raycluster", "RayJob": "rayjob"}
    return {kind: json.loads((folder / f"{name}.schema.json").read_text()) for kind, name in names.items()}


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_would_take_it(name, schemas):
    manifest = _read(name)
    errors = list(jsonschema.Draft202012Validator(schemas[manifest["kind"]]).iter_errors(manifest))
    assert errors == []
    for break_it in (
        lambda spec: spec["workerGroupSpecs"][0].update(maxReplica=3),
        lambda spec: spec["workerGroupSpecs"][0].update(minReplicas="0"),
        lambda spec: spec.update(authOptions={"mode": "tokn"}),
    ):
        broken = copy.deepcopy(manifest)
        break_it(_cluster_spec(broken))
        assert list(jsonschema.Draft202012Validator(schemas[manifest["kind"]]).iter_errors(broken))


def _cluster_spec(manifest):
    return manifest["spec"].get("rayClusterSpec", manifest["spec"])


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_have_what_a_long_sweep_needs(name):
    spec = _cluster_spec(_read(name))
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["authOptions"]["mode"] == "token"
    assert spec["enableInTreeAutoscaling"]
    assert spec["autoscalerOptions"]["version"] == "v2"
    redis = next(
        doc for doc in yaml.safe_load_all((FOLDER / "kuberay-redis.yaml").read_text()) if doc["kind"] == "Service"
    )
    assert spec["gcsFaultToleranceOptions"]["redisAddress"] == f"{redis['metadata']['name']}:6379"
    spot, fallback = spec["workerGroupSpecs"]
    assert spot["priority"] > fallback["priority"]
    for group in (spot, fallback):
        assert group["minReplicas"] == 0 < group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_both_manifests_describe_one_cluster():
    cluster, job = (_cluster_spec(_read(name)) for name in MANIFESTS)
    head = job["headGroupSpec"]["template"]["spec"]
    assert head.pop("volumes") == [{"name": "sweep", "configMap": {"name": "raybench-sweep"}}]
    head["containers"][0].pop("volumeMounts")
    assert cluster == job


def test_the_job_runs_a_command_that_exists():
    words = _read("kuberay-job.yaml")["spec"]["entrypoint"].split()
    result = subprocess.run([sys.executable, "-c", _PARSE, *words[1:]], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


_PARSE = """
import argparse, importlib, sys
module = importlib.import_module("raybench.cli." + sys.argv[1])
parser = argparse.ArgumentParser()
module.arguments(parser)
parser.parse_args(sys.argv[2:])
"""


def test_scripts_are_sound():
    for script in FOLDER.glob("*.sh"):
        assert os.access(script, os.X_OK), f"{script.name} can't be executed"
        subprocess.run(["bash", "-n", script], check=True)
        shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=Path(sys.executable).parent)
        if shellcheck:
            ended = subprocess.run([shellcheck, script], capture_output=True, text=True)
            assert ended.returncode == 0, ended.stdout


def test_slurm_hands_the_right_words_to_ray(tmp_path):
    """With srun and scontrol replaced by recorders: what would run on every node?"""
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$RAY_AUTH_MODE ${#RAY_AUTH_TOKEN}"\nprintf "%s\\n" "$@"\n')
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho node7\necho node8\n")
    for fake in tmp_path.iterdir():
        fake.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "4",
    }
    command = [FOLDER / "slurm.sh", "my sweep.yaml", "/shared/out", "--no-retry-failed"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    first, *words = ended.stdout.splitlines()
    assert first == "token 64"
    assert words[words.index("ray") :] == [
        "ray", "symmetric-run", "--address", "node7:6379", "--min-nodes", "2", "--num-cpus", "4",
        "--include-dashboard=false", "--", "raybench", "run", "my sweep.yaml", "--address", "auto",
        "--storage", "/shared/out", "--no-retry-failed",
    ]  # fmt: skip
    assert subprocess.run([FOLDER / "slurm.sh"], env=environment, capture_output=True).returncode == 2


def test_an_array_of_slurm_runs_one_driver_a_task(tmp_path):
    (tmp_path / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    command = [FOLDER / "slurm-array.sh", "my sweep.yaml", "s3://b/p", "--no-retry-failed"]
    ended = subprocess.run(command, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True)
    assert ended.stdout.splitlines() == [
        "raybench", "run", "my sweep.yaml", "--local", "--storage", "s3://b/p", "--no-retry-failed"
    ]  # fmt: skip


def test_skypilot_starts_a_command_that_exists_and_the_job_has_its_queue():
    task = _read("skypilot.yaml")
    assert task["run"].split()[:2] == ["raybench", "run"]
    assert set(task) <= {"name", "resources", "workdir", "envs", "setup", "run"}
    assert task["resources"]["use_spot"] is True
    assert "kueue.x-k8s.io/queue-name" in _read("kuberay-job.yaml")["metadata"]["labels"]


def test_skypilot_itself_would_take_it(monkeypatch, tmp_path):
    """Where its package is installed; it brings versions of its own, so it isn't part of the tests' environment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SKYPILOT_DISABLE_USAGE_COLLECTION", "1")
    sky = pytest.importorskip("sky", reason="skypilot isn't installed")
    config = _read("skypilot.yaml")
    assert sky.Task.from_yaml_config(dict(config)).name == "raybench"
    for mistake in ({"resource": {}}, {"resources": {"use_spott": True}}):
        with pytest.raises(Exception, match="did you mean"):
            sky.Task.from_yaml_config({**config, **mistake})


def test_versions_are_the_constraints():
    constraints = _constraints()
    for name in MANIFESTS:
        assert _cluster_spec(_read(name))["rayVersion"] == constraints["ray"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    images = [_read(name)["docker"]["image"] for name in CLOUDS]
    for name in MANIFESTS:
        spec = _cluster_spec(_read(name))
        groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
        images += [container["image"] for group in groups for container in group["template"]["spec"]["containers"]]
    assert set(images) == {f"raybench:{project['version']}"}


def test_the_image_installs_the_constraints():
    text = (FOLDER / "Containerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "PIP_CONSTRAINT=/opt/raybench/constraints.txt" in text
    extras = set(re.search(r'"\.\[([a-z0-9,]+)\]"', text)[1].split(","))
    assert extras <= set(project["optional-dependencies"])
    python = re.search(r"FROM python:(\d+\.\d+)", text)[1]
    assert project["requires-python"] == f">={python}"
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    named = {name.split("[")[0].split(">")[0] for name in project["dependencies"]}
    assert {name.lower() for name in named} <= {name.lower() for name in _constraints()}


def test_these_tests_run_on_the_version_that_the_files_name():
    if version("ray") != _constraints()["ray"]:
        pytest.skip(f"ray {version('ray')} is installed; the files are for {_constraints()['ray']}")
    assert _ray_schema()["properties"]["available_node_types"]


SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN|xox[abp]-|gh[pousr]_[A-Za-z0-9]{20}|AIza[0-9A-Za-z_-]{30}|[0-9a-f]{32}"
    r"|(?i:(password|token|secret|key)\s*[:=]\s*['\"]?[A-Za-z0-9+/]{16,})"
)


@pytest.mark.parametrize("file", sorted(FOLDER.iterdir()), ids=lambda file: file.name)
def test_no_secret_in_any_file(file):
    assert not SECRETS.search(file.read_text())


def test_secrets_would_be_noticed():
    for text in ("AKIA" + "A" * 16, "password: " + "Abcdefgh12345678", "RAY_AUTH_TOKEN=" + "0f" * 32):
        assert SECRETS.search(text), text


def test_every_file_is_named_in_the_readme_or_another_file():
    texts = {file.name: file.read_text() for file in FOLDER.iterdir()}
    for name in texts:
        if name != "README.md":
            assert any(name in text for other, text in texts.items() if other != name), name
