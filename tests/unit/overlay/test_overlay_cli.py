"""The command line to the letter: doctor, settings, version, and what goes where."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

import mantaray

from .world import ENGINE, World, speed_fingerprint


def wheel(path: Path, version: str = "2.60.0", engine: str = ENGINE) -> Path:
    """Write something that looks like a wheel of Ray."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ray/__init__.py", "")
        archive.writestr("ray/_version.py", f'version = "{version}"\n')
        archive.writestr("ray/engine.py", engine)
    return path


def test_doctor_of_a_healthy_ray(world: World) -> None:
    world.demo_patch()
    world.patch(
        """
        from mantaray.overlay import Patch, register
        register(Patch("newer", "Not needed", "2.50", "2.55", (), {}))
        """,
        name="newer",
    )
    result = world.cli("doctor")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        f"Mantaray {mantaray.__version__}, Ray 2.60.0 at {world.site}/ray\n"
        "\n"
        "patch  state   why\n"
        "demo   active  attached to ray.engine\n"
        "newer  native  Ray's own is enough since 2.55\n"
    )


def test_doctor_of_a_patch_that_fails(world: World) -> None:
    world.patch(
        """
        from mantaray.overlay import Patch, register
        def into_engine(module, installation):
            raise KeyError("oops")
        register(Patch("demo", "Fails", None, None, (), {"ray.engine": into_engine}))
        """
    )
    result = world.cli("doctor")
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.splitlines()[2:] == [
        "patch  state    why",
        "demo   refused  it failed in ray.engine with KeyError: 'oops'",
    ]


def test_doctor_of_a_ray_module_that_cannot_be_imported(world: World) -> None:
    world.demo_patch()
    world.ray("2.60.0", ENGINE + "\nimport nothing_of_that_name\n")
    result = world.cli("doctor")
    assert result.returncode == 1
    assert result.stdout.splitlines()[3] == (
        "demo   refused  ray.engine cannot be imported (No module named 'nothing_of_that_name')"
    )


def test_doctor_with_patches_off_is_content(world: World) -> None:
    world.demo_patch()
    result = world.cli("doctor", MANTARAY_PATCHES="-demo")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[3] == "demo   off    MANTARAY_PATCHES is -demo"


def test_doctor_of_an_unknown_newer_ray_says_what_would_match(world: World) -> None:
    world.ray("2.70.0")
    world.demo_patch()
    result = world.cli("doctor")
    assert result.returncode == 1
    assert result.stdout.splitlines()[3] == "demo   refused  every target is as in Ray 2.60.0"
    assert result.stderr == (
        "error: Ray 2.70.0 is not one that Mantaray knows (2.48.0 to 2.60.0)\n"
        "hint: use a Ray from 2.48.0 to 2.60.0, or a newer Mantaray; MANTARAY_UNTESTED_RAY=1 "
        "attaches the patches whose targets are as in Ray 2.60.0\n"
    )
    world.ray("2.70.0", ENGINE.replace("return 1", "return 3"))
    assert world.cli("doctor").stdout.splitlines()[3] == (
        "demo   refused  not as in Ray 2.60.0: ray.engine:Engine.speed"
    )


def test_doctor_of_an_older_ray_has_nothing_to_compare_it_with(world: World) -> None:
    world.ray("2.47.1")
    world.demo_patch()
    result = world.cli("doctor")
    assert result.stdout.splitlines()[3] == (
        "demo   refused  Ray 2.47.1 is not one that Mantaray knows (2.48.0 to 2.60.0)"
    )
    assert result.stderr.splitlines()[1] == (
        "hint: use a Ray from 2.48.0 to 2.60.0, or a newer Mantaray"
    )


def test_doctor_without_ray(world: World) -> None:
    world.demo_patch()
    (world.site / "ray").rename(world.site / "gone")
    result = world.cli("doctor")
    assert result.returncode == 1
    assert result.stdout.splitlines()[0] == f"Mantaray {mantaray.__version__}, no Ray"
    assert result.stderr == (
        "error: no Ray is installed in this environment\n"
        "hint: install one that Mantaray knows: pip install 'ray==2.60.0'\n"
    )


def test_doctor_with_a_bad_setting(world: World) -> None:
    world.demo_patch()
    result = world.cli("doctor", MANTARAY_PATCHES="dmeo")
    assert result.returncode == 1
    assert result.stderr == (
        "error: MANTARAY_PATCHES is set to 'dmeo'; allowed: all, or some of: demo; "
        "-name excludes one\n"
        "hint: `mantaray settings` lists every setting\n"
    )


def test_doctor_in_json(world: World) -> None:
    world.demo_patch()
    result = world.cli("doctor", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    digest = told["patches"][0]["targets"][0].pop("digest")
    assert len(digest) == 64
    assert told == {
        "mantaray": mantaray.__version__,
        "ray": {"version": "2.60.0", "path": f"{world.site}/ray"},
        "problem": None,
        "patches": [
            {
                "name": "demo",
                "summary": "A patch for tests",
                "state": "active",
                "why": "attached to ray.engine",
                "targets": [
                    {
                        "module": "ray.engine",
                        "attribute": "Engine.speed",
                        "expected": speed_fingerprint(),
                        "found": speed_fingerprint(),
                        "trusted": False,
                        "problem": None,
                    }
                ],
            }
        ],
    }


def test_doctor_against_a_wheel_needs_no_installed_ray(world: World, tmp_path: Path) -> None:
    world.demo_patch()
    (world.site / "ray").rename(world.site / "gone")
    path = wheel(tmp_path / "ray-2.60.0.whl")
    result = world.cli("doctor", "--against", str(path))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        f"Mantaray {mantaray.__version__}, Ray 2.60.0 at {path}\n"
        "\n"
        "patch  state  why\n"
        "demo   armed  every target is as expected\n"
    )


def test_doctor_against_an_altered_wheel(world: World, tmp_path: Path) -> None:
    world.demo_patch()
    altered = ENGINE.replace("return 1", "return 3")
    path = wheel(tmp_path / "ray-2.60.0.whl", engine=altered)
    result = world.cli("doctor", "--against", str(path))
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.splitlines()[3] == (
        "demo   refused  ray.engine:Engine.speed is not what the patch was written for "
        f"(expected {speed_fingerprint()}, found {speed_fingerprint(altered)})"
    )


def test_doctor_against_an_unknown_wheel(world: World, tmp_path: Path) -> None:
    world.demo_patch()
    path = wheel(tmp_path / "ray-2.47.1.whl", "2.47.1")
    result = world.cli("doctor", "--against", str(path))
    assert result.returncode == 1
    assert result.stderr.startswith("error: Ray 2.47.1 is not one that Mantaray knows")
    path = wheel(tmp_path / "ray-2.61.0.whl", "2.61.0")
    result = world.cli("doctor", "--against", str(path))
    assert result.returncode == 1
    assert result.stdout.splitlines()[3] == "demo   refused  every target is as in Ray 2.60.0"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "cannot be read as a wheel: [Errno 2] No such file"),
        (b"not a zip", "cannot be read as a wheel: File is not a zip file"),
        (b"", "cannot be read as a wheel: File is not a zip file"),
    ],
)
def test_doctor_against_what_is_no_wheel(
    world: World, tmp_path: Path, content: bytes | None, error: str
) -> None:
    path = tmp_path / "ray.whl"
    if content is not None:
        path.write_bytes(content)
    result = world.cli("doctor", "--against", str(path))
    assert (result.returncode, result.stdout) == (1, "")
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {path} {error}")
    assert second == "hint: give the path of a ray-*.whl file"


def test_doctor_against_a_wheel_of_something_else(world: World, tmp_path: Path) -> None:
    path = tmp_path / "six.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("six.py", "")
    result = world.cli("doctor", "--against", str(path))
    assert result.stderr.startswith(f"error: {path} is not a wheel of Ray")


def test_version(world: World) -> None:
    result = world.cli("--version")
    assert (result.returncode, result.stdout, result.stderr) == (
        0,
        f"mantaray {mantaray.__version__}\n",
        "",
    )


def test_settings_are_listed_one_a_line(world: World) -> None:
    result = world.cli("settings")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.partition("\n\n")[0].splitlines()
    assert lines[0].split() == ["variable", "type", "default", "allowed", "meaning"]
    assert [line.split()[0] for line in lines[1:]] == [
        "MANTARAY_DISABLE",
        "MANTARAY_PATCHES",
        "MANTARAY_UNTESTED_RAY",
        "MANTARAY_REPORT_DIR",
        "MANTARAY_SPILL_CACHE",
        "MANTARAY_SPILL_RESERVE_BYTES",
        "MANTARAY_SPILL_PUNCH_DELAY_MS",
        "MANTARAY_SPILL_READAHEAD_BYTES",
        "MANTARAY_SPILL_GET_BYTES",
        "MANTARAY_SPILL_IO_DEADLINE_MS",
        "MANTARAY_SPILL_CHECK_PULLS",
        "MANTARAY_LOG_REWRITES",
        "MANTARAY_LOG_RETENTION_BYTES",
        "MANTARAY_LOG_RETENTION_AGE_S",
        "RAY_max_spilling_file_size_bytes",
        "RAY_SERVE_ROUTER_RETRY_INITIAL_BACKOFF_S",
        "RAY_SERVE_ROUTER_RETRY_BACKOFF_MULTIPLIER",
        "RAY_SERVE_ROUTER_RETRY_MAX_BACKOFF_S",
        "MANTARAY_SERVE_BACKOFF_JITTER",
        "RAY_start_python_gc_manager_thread",
        "MANTARAY_GC_TIME_SHARE",
        "MANTARAY_GC_SHORT_PAUSE_MS",
        "MANTARAY_GC_IDLE_DELAY_MS",
        "MANTARAY_GC_RSS_LIMIT_BYTES",
        "MANTARAY_GC_HUGE_PAGES",
        "MANTARAY_REFS_WATCH_INTERVAL_MS",
        "MANTARAY_RELAY_PORT",
        "MANTARAY_RELAY_ADMIN_PORT",
        "MANTARAY_RELAY_HOST",
        "MANTARAY_RELAY_UPSTREAM_TIMEOUT_MS",
        "MANTARAY_RELAY_MAX_MEMORY_BYTES",
    ]


def test_settings_show_rays_knobs_beside_what_the_user_set(world: World) -> None:
    result = world.cli("settings", RAY_max_io_workers="7")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.partition("\n\n")[2].splitlines()
    assert lines[0].startswith("ray's knob")
    rows = [re.split("  +", line)[:4] for line in lines[1:]]
    # A running node adds a column, so only the first are compared.
    assert rows == [
        ["RAY_oom_grace_period_s", "2", "0; 1 on a small disk", "-"],
        ["RAY_max_io_workers", "4", "-", "7"],
        ["RAY_min_spilling_size", "104857600", "half the bound", "-"],
        ["RAY_max_spilling_file_size_bytes", "-1", "1/8 of the store, up to 128 MiB", "-"],
    ]


def test_help_imports_no_command(world: World) -> None:
    for name in ("doctor", "spill", "wheel"):
        (world.mantaray / "cli" / f"{name}.py").write_text("raise RuntimeError\n")
    result = world.cli("--help")
    assert (result.returncode, result.stderr) == (0, "")
    listed = [line.split()[0] for line in result.stdout.split("Commands:\n")[1].splitlines()]
    assert [name for name in listed if name != "it"] == [
        "doctor",
        "gc",
        "logs",
        "refs",
        "relay",
        "report",
        "settings",
        "sim",
        "spill",
        "tail",
        "wheel",
    ]


def test_what_one_command_lacks_does_not_break_the_others(world: World) -> None:
    (world.mantaray / "cli" / "wheel.py").write_text("import nothing_of_that_name\n")
    assert world.cli("settings").returncode == 0
    result = world.cli("wheel", "verify", "x.whl")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "error: `mantaray wheel` cannot start: No module named 'nothing_of_that_name'\n"
        "hint: install ray-mantaray again, with what this command needs: "
        "pip install --force-reinstall 'ray-mantaray[wheel]'\n"
    )


def test_a_command_that_is_not_there_is_a_usage_error(world: World) -> None:
    result = world.cli("nothing")
    assert (result.returncode, result.stdout) == (2, "")
    assert "No such command 'nothing'" in result.stderr
