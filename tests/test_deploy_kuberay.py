"""`deploy/kuberay`: the overlays as kustomize builds them, checked with Kubernetes' own schemas and KubeRay's CRDs.

The CRDs are not in this repository: they are other projects' files. `REWARDSWEEP_CRDS` names a folder of YAML files
that hold them, as `kubectl get crd`, `helm show crds` or the projects themselves give them (docs/deploy/kuberay.md);
`shared/crds` is the default. Without them what they describe is checked only as far as Kubernetes' schemas go.
"""

from __future__ import annotations

import copy
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import ROOT, SHARED, Cli

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed; it builds the overlays"),
]
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="not installed (make test-deploy)")

KUBERAY = ROOT / "deploy" / "kuberay"
OVERLAYS = ("local", "aws", "gcp")
KUBERNETES = "1.35.0"
CRDS = Path(os.environ.get("REWARDSWEEP_CRDS", SHARED / "crds"))
CUSTOM = ("RayCluster", "RayJob", "RayCronJob", "PodMonitor", "PrometheusRule")
PART_OF = {"app.kubernetes.io/part-of": "rewardsweep"}

Object = dict[str, Any]


@cache
def _built(overlay: str) -> str:
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERAY / "overlays" / overlay)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def built(overlay: str) -> list[Object]:
    """What `kubectl apply -k` would send, and the sweep that is created by hand."""
    sweep = yaml.safe_load((KUBERAY / "sweep.yaml").read_text(encoding="utf-8"))
    return [*yaml.safe_load_all(_built(overlay)), sweep]


def of_kind(overlay: str, kind: str) -> Object:
    (found,) = [thing for thing in built(overlay) if thing["kind"] == kind]
    return found


def pod_templates(overlay: str) -> dict[str, Object]:
    """Every pod template by its name: the head, the groups of workers, the nightly's submitter."""
    spec = of_kind(overlay, "RayCluster")["spec"]
    groups = {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    templates = {"head": spec["headGroupSpec"]["template"], **groups}
    for cron in (thing for thing in built(overlay) if thing["kind"] == "CronJob"):
        templates["nightly"] = cron["spec"]["jobTemplate"]["spec"]["template"]
    return templates


@cache
def definitions() -> dict[str, Object]:
    """All CRDs of the folder by their kind, in whatever files and lists they stand."""
    found: dict[str, Object] = {}
    for path in sorted(CRDS.glob("*.y*ml")):
        for document in yaml.load_all(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader):
            for item in (document or {}).get("items", [document]):
                if item and item.get("kind") == "CustomResourceDefinition":
                    found[item["spec"]["names"]["kind"]] = item
    return found


@cache
def crd(kind: str) -> Object:
    """A CRD's schema of version v1, made strict: a field it does not know is an error, as with `kubectl --validate`."""
    if kind not in definitions():
        pytest.skip(f"no CRD of {kind} at {CRDS}; set REWARDSWEEP_CRDS (docs/deploy/kuberay.md says how to get them)")
    (version,) = [item for item in definitions()[kind]["spec"]["versions"] if item["name"] == "v1"]
    schema: Object = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return strict(schema)


def strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(made.get("pattern"), str):
        made["pattern"] = made["pattern"].replace("^(?i)", "(?i)^")  # Go allows the flag there, Python does not
    if isinstance(made.get("properties"), dict) and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_objects_of_kubernetes_meet_its_schemas(overlay: str) -> None:
    core = [thing for thing in built(overlay) if thing["kind"] not in CUSTOM]
    assert {"Namespace", "ServiceAccount", "ConfigMap", "NetworkPolicy"} <= {thing["kind"] for thing in core}
    for thing in core:
        kubernetes_validate.validate(thing, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_inside_ray_clusters_meet_the_schema_of_pods(overlay: str) -> None:
    for name, template in pod_templates(overlay).items():
        metadata = {"name": name, **template["metadata"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("kind", CUSTOM)
def test_custom_resources_meet_the_schemas_of_their_releases(overlay: str, kind: str) -> None:
    things = [thing for thing in built(overlay) if thing["kind"] == kind]
    schema = crd(kind)
    for thing in things:
        jsonschema.validate(thing, schema)
    wanted = {"RayCluster", "RayJob", "PodMonitor"} | ({"RayCronJob"} if overlay != "local" else set())
    assert things or kind not in wanted


@pytest.mark.parametrize("path", ["entrypont", "rayClusterSpec.headGroupSpec.template.spec.containers"])
def test_the_check_itself_finds_a_mistake(path: str) -> None:
    wrong = copy.deepcopy(of_kind("aws", "RayJob"))
    *parents, last = path.split(".")
    place = wrong["spec"]
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = "text"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, crd("RayJob"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_group_starts_at_zero_and_gpu_groups_say_which_gpu(overlay: str) -> None:
    spec = of_kind(overlay, "RayCluster")["spec"]
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert spec["enableInTreeAutoscaling"] is True
    assert (
        {group["minReplicas"] for group in groups.values()} == {group["replicas"] for group in groups.values()} == {0}
    )
    assert all(group["maxReplicas"] > 0 for group in groups.values())
    kinds = {"a100-40g": "A100-40G", "a100-80g": "A100-80G", "h100": "H100"}
    assert set(groups) == {"cpu", *kinds}
    selectors = [tuple(groups[name]["template"]["spec"]["nodeSelector"].items()) for name in kinds]
    assert len(set(selectors)) == len(kinds)
    for name, gpu in kinds.items():
        assert f"accelerator_type:{gpu}" in groups[name]["rayStartParams"]["resources"]
        (container,) = groups[name]["template"]["spec"]["containers"]
        assert int(container["resources"]["limits"]["nvidia.com/gpu"]) > 0
        assert container["image"].endswith(":gpu")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_cluster_runs_the_ray_that_is_pinned(overlay: str) -> None:
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray==")]
    assert pinned == [f"ray=={of_kind(overlay, 'RayCluster')['spec']['rayVersion']}"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_are_named_and_never_written(overlay: str) -> None:
    assert "Secret" not in {thing["kind"] for thing in built(overlay)}
    assert of_kind(overlay, "RayCluster")["spec"]["authOptions"] == {
        "mode": "token",
        "secretName": "rewardsweep-ray-token",
    }
    for template in pod_templates(overlay).values():
        for container in template["spec"]["containers"]:
            for variable in container.get("env", []):
                secret = any(word in variable["name"] for word in ("TOKEN", "KEY", "SECRET", "PASSWORD"))
                assert not secret or "secretKeyRef" in variable["valueFrom"], variable


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_run_without_privileges_behind_the_network_policy(overlay: str) -> None:
    policy = of_kind(overlay, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == PART_OF
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert all(rule.get("from") for rule in policy["ingress"]), "a rule without `from` lets everybody in"
    for template in pod_templates(overlay).values():
        assert PART_OF.items() <= template["metadata"]["labels"].items()
        assert template["spec"]["serviceAccountName"] == "rewardsweep"
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in template["spec"]["containers"]:
            given = container["securityContext"]
            assert (given["allowPrivilegeEscalation"], given["capabilities"]) == (False, {"drop": ["ALL"]})
    tokens = {name for name, pod in pod_templates(overlay).items() if pod["spec"].get("automountServiceAccountToken")}
    assert tokens == {"head"}, "only the autoscaler may speak to the Kubernetes API"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_prometheus_finds_the_pods_and_their_port(overlay: str) -> None:
    monitor = of_kind(overlay, "PodMonitor")["spec"]
    assert monitor["selector"]["matchLabels"] == PART_OF
    (endpoint,) = monitor["podMetricsEndpoints"]
    for name, template in pod_templates(overlay).items():
        ports = [port["name"] for container in template["spec"]["containers"] for port in container.get("ports", [])]
        assert (endpoint["port"] in ports) == (name != "nightly")


@pytest.mark.parametrize(("overlay", "scheme"), [("local", "/"), ("aws", "s3://"), ("gcp", "gs://")])
def test_the_store_is_where_every_pod_sees_it(overlay: str, scheme: str) -> None:
    store = of_kind(overlay, "ConfigMap")["data"]["store"]
    assert store.startswith(scheme)
    for name, template in pod_templates(overlay).items():
        mounts = {
            mount["mountPath"]
            for container in template["spec"]["containers"]
            for mount in container.get("volumeMounts", [])
        }
        assert ("/store" in mounts) == (scheme == "/" and name != "nightly")
    annotations = of_kind(overlay, "ServiceAccount")["metadata"].get("annotations", {})
    assert bool(annotations) == (scheme != "/"), "access to the bucket comes from a role, not from a key"


def test_what_the_jobs_run_is_understood(cli: Cli) -> None:
    """The very words of the sweep and of both nightlies, composed."""
    sweep = of_kind("aws", "RayJob")["spec"]["entrypoint"]
    nightly = of_kind("aws", "RayCronJob")["spec"]["jobTemplate"]["entrypoint"]
    (container,) = pod_templates("local")["nightly"]["spec"]["containers"]
    fallback = [word.replace("$(REWARDSWEEP_STORE)", "$REWARDSWEEP_STORE") for word in container["args"]]
    assert shlex.split(nightly) == fallback
    assert "device=cuda" in fallback, "a cluster at zero must not mean CPUs"
    for command, verb in ((sweep, "run"), (nightly, "nightly")):
        program, gpus, _, *words = shlex.split(command.replace("$REWARDSWEEP_STORE", "/store/scores"))
        assert (program, gpus) == ("with-gpus", "8"), "a cluster at zero shows no GPU"
        assert words[:2] == ["rewardsweep", verb]
        assert "ray.address=auto" in words
        done = cli(*words[1:], "--cfg", "job")
        assert done.returncode == 0, done.stderr


def test_a_night_that_found_something_is_not_tried_again() -> None:
    """Exit codes 10, 20 and 30 fail the job."""
    assert of_kind("aws", "RayCronJob")["spec"]["jobTemplate"]["backoffLimit"] == 0
    job = of_kind("local", "CronJob")["spec"]
    assert (job["jobTemplate"]["spec"]["backoffLimit"], job["concurrencyPolicy"]) == (0, "Forbid")
    assert job["jobTemplate"]["spec"]["template"]["spec"]["restartPolicy"] == "Never"
