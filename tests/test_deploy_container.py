"""`deploy/container`: the Dockerfile linted and read, the health check run. No image is built here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

pytestmark = pytest.mark.deploy

CONTAINER = ROOT / "deploy" / "container"
BIN = Path(sys.executable).parent
SCRIPTS = sorted([*(ROOT / "deploy").rglob("*.sh"), *(ROOT / "deploy").rglob("*.sbatch")])


def dockerfile() -> str:
    return (CONTAINER / "Dockerfile").read_text(encoding="utf-8")


def stages() -> dict[str, list[str]]:
    """The instructions of every stage, in order, continued lines joined."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in re.sub(r"\\\n\s*", " ", dockerfile()).splitlines():
        if match := re.match(r"FROM (\S+) AS (\S+)", line):
            name = match[2]
            found[name] = []
        if name and line and not line.startswith("#"):
            found[name].append(line)
    return found


@pytest.mark.skipif(not (BIN / "hadolint").exists(), reason="hadolint is not installed (make test-deploy)")
def test_the_dockerfile_passes_hadolint_which_finds_a_mistake(tmp_path: Path) -> None:
    command = [str(BIN / "hadolint"), "--failure-threshold", "info"]
    done = subprocess.run([*command, str(CONTAINER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (tmp_path / "Dockerfile").write_text(dockerfile().replace("--no-install-recommends ", ""))
    assert subprocess.run([*command, str(tmp_path / "Dockerfile")], capture_output=True, check=False).returncode != 0


@pytest.mark.skipif(not (BIN / "shellcheck").exists(), reason="shellcheck is not installed (make test-deploy)")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script: Path) -> None:
    done = subprocess.run([str(BIN / "shellcheck"), str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("image", ["cpu", "gpu"])
def test_an_image_runs_as_nobody_in_particular_and_holds_no_compiler_of_the_build(image: str) -> None:
    assert stages()[image][-1] == "USER 1000:1000"
    assert f"COPY --from=build-{image} /opt/rewardsweep /opt/rewardsweep" in stages()[image]
    assert stages()[image][0] == f"FROM runtime AS {image}"
    assert any(line.startswith("HEALTHCHECK") and "healthcheck" in line for line in stages()["runtime"])


@pytest.mark.parametrize("stage", ["build-cpu", "build-gpu"])
def test_every_installation_is_constrained(stage: str) -> None:
    installs = [line for line in stages()[stage] if "pip install" in line]
    assert len(installs) == 2
    assert all("--constraint constraints" in line for line in installs)


def test_what_the_build_copies_is_what_it_may_see() -> None:
    ignored = (CONTAINER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copies = [line.split()[1:-1] for lines in stages().values() for line in lines if line.startswith("COPY ")]
    copied = {word for words in copies for word in words if not any(other.startswith("--from") for other in words)}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in allowed)


def needed(extras: set[str]) -> Iterator[str]:
    """The names of all distributions that this rewardsweep with these extras needs here, however indirectly."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [line for extra in extras for line in project["optional-dependencies"][extra]]
    todo = [Requirement(line) for line in (*project["dependencies"], *optional)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement = todo.pop()
        name, wanted = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        yield name
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for further in map(Requirement, lines):
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in (*wanted, "")):
                todo.append(further)


def test_the_slim_image_has_every_package_at_one_version() -> None:
    (install,) = [line for line in stages()["build-cpu"] if "'.[" in line]
    extras = set(re.findall(r"'\.\[(.*)\]'", install)[0].split(","))
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {canonicalize_name(line.split("==")[0]) for line in text.splitlines() if "==" in line}
    # torch's own CUDA libraries are fixed by torch; the build for the CPU has none
    names = {name for name in needed(extras) if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert len(names) > 50
    assert names - pinned - {"setuptools"} == set()


def health(**settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **settings}
    return subprocess.run(
        ["sh", str(CONTAINER / "healthcheck.sh")], env=environment, capture_output=True, text=True, check=False
    )


def test_a_container_without_ray_is_healthy_when_the_command_starts(tmp_path: Path) -> None:
    done = health(RAY_TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("rewardsweep ")


@pytest.mark.ray
def test_a_container_is_healthy_as_long_as_its_ray_answers(tmp_path: Path) -> None:
    folder = Path("/tmp", f"rs{os.getpid()}")  # Ray's sockets need a short path
    given = {"RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "h" * 64}
    environment = {**os.environ, **given}
    start = [str(BIN / "ray"), "start", "--head", "--port", "0", "--num-cpus", "1", "--include-dashboard", "false"]
    folder.mkdir()
    process = subprocess.Popen(
        [*start, "--block", "--disable-usage-stats"], env=environment, start_new_session=True, stdout=subprocess.DEVNULL
    )
    try:
        for _ in range(60):
            healthy = (folder / "ray" / "ray_current_cluster").exists() and health(**given).returncode == 0
            if healthy:
                break
            time.sleep(0.5)
        assert healthy
        os.killpg(process.pid, 9)
        process.wait(timeout=30)
        assert health(**given).returncode != 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        shutil.rmtree(folder, ignore_errors=True)
