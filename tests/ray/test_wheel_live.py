"""Custom wheels of real Ray releases: made from the official ones, installed, used, removed again.

One environment a release, made once and shared, because installing Ray's dependencies is what takes
the time. The last test takes Ray out of it and puts it back another way, so the order matters.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from mantaray.wheel.bounds import bounds_for

import mantaray
from tests.support.cluster import free_ports
from tests.support.rays import RAY_ENVIRONMENT, REPOSITORY

# The command of the Mantaray that the tests run with; Ray is not in that environment.
MANTARAY = (sys.executable, "-m", "mantaray.cli")
RELEASES = ("2.48.0", "2.60.0")
INSTALL_TIMEOUT_S = 600
CLUSTER_TIMEOUT_S = 400

# A local cluster that runs tasks and serves over HTTP; the last line it prints says what it saw.
CLUSTER_PROGRAM = """
import json, sys, urllib.request
import google.protobuf, ray
from ray import serve

ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=80_000_000,
         _node_ip_address="127.0.0.1", _temp_dir=sys.argv[1], log_to_driver=False)

@ray.remote
def square(number):
    import sys
    return number * number, "mantaray.overlay.bootstrap" in sys.modules

@serve.deployment
class Hello:
    def __call__(self, request):
        import sys
        return {"hello": request.query_params["who"], "ray": ray.__version__,
                "attached": "mantaray.overlay.bootstrap" in sys.modules}

results = ray.get([square.remote(number) for number in range(8)])
port = int(sys.argv[2])
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(Hello.bind())
with urllib.request.urlopen(f"http://127.0.0.1:{port}/?who=world", timeout=120) as answer:
    said = json.load(answer)
serve.shutdown()
ray.shutdown()
print(json.dumps({"squares": [square for square, _ in results],
                  "attached": all(attached for _, attached in results),
                  "serve": said, "protobuf": google.protobuf.__version__,
                  "driver": "mantaray.overlay.bootstrap" in sys.modules}))
"""


@dataclass(frozen=True)
class Installed:
    """A custom wheel and the environment it is installed in.

    Attributes:
        release: of Ray.
        official: the official wheel.
        custom: the custom wheel.
        venv: the environment.
        baseline: every file of the environment before anything was installed.
    """

    release: str
    official: Path
    custom: Path
    venv: Path
    baseline: frozenset[str]

    def run(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment."""
        return run([self.venv / "bin" / program, *arguments])

    def pip(self, *arguments: str | Path) -> str:
        """Run pip of the environment and return what it printed."""
        done = self.run("python", "-m", "pip", "--disable-pip-version-check", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def traces_of_ray(self) -> set[str]:
        """Return what is in site-packages or bin that was brought by Ray or Mantaray."""
        names = files_at_the_top(self.venv) - self.baseline
        ours = ("ray", "mantaray", "serve", "tune", "rllib")
        return {name for name in names if Path(name).name.split("-")[0].split(".")[0] in ours}


def run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run a program with the environment of a test."""
    return subprocess.run(
        command,
        env={**os.environ, **RAY_ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_TIMEOUT_S,
    )


def files_at_the_top(venv: Path) -> frozenset[str]:
    """Return what lies directly in bin and in site-packages."""
    places = [venv / "bin", *venv.glob("lib/python*/site-packages")]
    return frozenset(str(path.relative_to(venv)) for place in places for path in place.iterdir())


def make_custom_wheel(release: str, directory: Path) -> Path:
    """Make a custom wheel the way a user does, downloading the official one.

    Without the relay, so that `verify --against` needs no wheel of it.
    """
    done = run([*MANTARAY, "wheel", "--ray", release, "--without-relay", "-o", directory])
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, "stdout holds the path and nothing else"
    return Path(done.stdout.strip())


def download_official(release: str, directory: Path) -> Path:
    """Get the official wheel without the code under test."""
    options = ["--no-deps", "--only-binary", ":all:", "-q", "-d", str(directory)]
    done = run([sys.executable, "-m", "pip", "download", *options, f"ray=={release}"])
    assert done.returncode == 0, done.stderr
    (wheel,) = directory.glob(f"ray-{release}-*.whl")
    return wheel


@pytest.fixture(scope="module", params=RELEASES)
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    """A custom wheel in a fresh environment, with what Ray's dashboard and Serve need."""
    release: str = request.param
    root = tmp_path_factory.mktemp(f"wheel-{release}")
    custom = make_custom_wheel(release, root / "dist")
    official = download_official(release, root)
    venv = root / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    installed = Installed(release, official, custom, venv, files_at_the_top(venv))
    # Compiling all of Ray takes longer than the tests that import a part of it.
    installed.pip("install", "-q", "--no-compile", f"{custom}[default,serve]")
    yield installed
    shutil.rmtree(root)


def test_metadata_is_clean_and_named(installed: Installed) -> None:
    version = f"{installed.release}+mantaray.{mantaray.__version__}"
    assert "No broken requirements found." in installed.pip("check")
    assert f"Version: {version}" in installed.pip("show", "ray").splitlines()
    listed = json.loads(installed.pip("list", "--format", "json"))
    assert [item["version"] for item in listed if item["name"] == "ray"] == [version]
    assert not [item for item in listed if "mantaray" in item["name"]]


def test_ray_reports_its_own_version(installed: Installed) -> None:
    # Nodes compare it when they join, so it has to stay what an unpatched node says.
    assert installed.run("ray", "--version").stdout == f"ray, version {installed.release}\n"


def test_upper_bounds_took_effect(installed: Installed) -> None:
    listed = json.loads(installed.pip("list", "--format", "json"))
    (protobuf,) = [item["version"] for item in listed if item["name"] == "protobuf"]
    if "protobuf<7" in bounds_for(installed.release):
        assert int(protobuf.split(".")[0]) < 7
    else:
        assert int(protobuf.split(".")[0]) >= 7, "what pip takes when nothing bounds it"


def test_doctor_knows_this_ray(installed: Installed) -> None:
    done = installed.run("mantaray", "doctor", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["mantaray"] == mantaray.__version__
    assert said["ray"]["version"] == installed.release
    assert Path(said["ray"]["path"]).is_relative_to(installed.venv)


def test_native_part_loads_beside_ray(installed: Installed) -> None:
    code = "import ray._raylet, mantaray._native as native; print(native.__name__)"
    done = installed.run("python", "-c", code)
    assert done.stdout == "mantaray._native\n", done.stderr


def test_cluster_runs_tasks_and_serves(installed: Installed) -> None:
    # Short, because Unix sockets below it may have 107 characters.
    directory = tempfile.mkdtemp(prefix="mantaray-")
    command = [str(installed.venv / "bin" / "python"), "-c", CLUSTER_PROGRAM, directory]
    command.append(str(free_ports(1)[0]))
    driver = subprocess.Popen(
        command,
        env={**os.environ, **RAY_ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, words = driver.communicate(timeout=CLUSTER_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # Its own session: nothing but this cluster is in it.
        os.killpg(driver.pid, signal.SIGKILL)
        raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    assert driver.returncode == 0, words
    saw = json.loads(out.splitlines()[-1])
    assert saw["squares"] == [0, 1, 4, 9, 16, 25, 36, 49]
    assert saw["driver"]
    assert saw["attached"]
    assert saw["serve"] == {"hello": "world", "ray": installed.release, "attached": True}


def test_verify(installed: Installed) -> None:
    command = [*MANTARAY, "wheel", "verify", "--json", str(installed.custom)]
    (release,) = (REPOSITORY / "build" / "wheel").glob("ray_mantaray-*.whl")
    for options in ([], ["--against", str(installed.official), "--mantaray", str(release)]):
        done = run([*command, *options])
        assert done.returncode == 0, done.stdout + done.stderr
        said = json.loads(done.stdout)
        assert said["ok"] is True
        assert said["unchanged"] > 2000


def test_made_from_the_file_it_is_the_same_to_the_byte(
    installed: Installed, tmp_path: Path
) -> None:
    done = run(
        [*MANTARAY, "wheel", "--from", installed.official, "--without-relay", "-o", tmp_path]
    )
    assert done.returncode == 0, done.stderr
    again = Path(done.stdout.strip())
    assert again.name == installed.custom.name
    # Compared as files: pytest would spend minutes on showing how two large byte strings differ.
    assert filecmp.cmp(again, installed.custom, shallow=False)
    again.unlink()


def test_uninstall_leaves_nothing_and_it_installs_over_stock_ray(installed: Installed) -> None:
    assert installed.traces_of_ray(), "the check sees what is installed"
    installed.pip("uninstall", "-q", "-y", "ray")
    assert installed.traces_of_ray() == set()

    installed.pip("install", "-q", "--no-compile", "--no-deps", installed.official)
    stock = installed.traces_of_ray()
    if "protobuf<7" in bounds_for(installed.release):
        # What stock Ray has today, when pip picks its dependencies.
        installed.pip("install", "-q", "protobuf>=7")
    installed.pip("install", "-q", "--no-compile", installed.custom)
    version = f"{installed.release}+mantaray.{mantaray.__version__}"
    assert f"Version: {version}" in installed.pip("show", "ray").splitlines()
    assert "No broken requirements found." in installed.pip("check")
    assert f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages/ray" in stock
    code = "import ray, sys; print(ray.__version__, 'mantaray.overlay.bootstrap' in sys.modules)"
    assert installed.run("python", "-c", code).stdout == f"{installed.release} True\n"
    test_upper_bounds_took_effect(installed)

    installed.pip("uninstall", "-q", "-y", "ray")
    assert installed.traces_of_ray() == set()
