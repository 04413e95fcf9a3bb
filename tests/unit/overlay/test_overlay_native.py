"""A native module that is missing or unusable: the patches that need it are refused, and only they.

Each kind of damage is done to a copy of the real extension module.
"""

from __future__ import annotations

import json
import shutil
from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path

import pytest

import mantaray
from tests.support.damaged_native import DAMAGES, FOUND_BY_LOADING, damage, native_file

from .world import TELL, World

# Uses the module as the spill patch does, when Ray calls it.
RELY = """
import json
import ray.engine
from mantaray.overlay import rely_on_native, status
relied = rely_on_native("demo")
print(json.dumps({
    "relied": relied,
    "start": ray.engine.start(),
    "states": {patch.name: str(patch.state) for patch in status()},
    "why": {patch.name: patch.why for patch in status()},
}))
"""


@pytest.fixture
def native_world(world: World) -> World:
    """A world with the real native module and a patch that needs it."""
    shutil.copy(native_file(Path(mantaray.__file__).parent), world.mantaray)
    world.demo_patch(summary='"A patch for tests", needs_native=True')
    return world


def test_an_intact_module_is_loaded_when_a_patch_relies_on_it(native_world: World) -> None:
    told = native_world.ask(RELY)
    assert (told["relied"], told["start"]) == (True, "patched")


def test_attaching_does_not_load_the_module(native_world: World) -> None:
    program = "import json, ray.engine, sys; print(json.dumps('mantaray._native' in sys.modules))"
    assert native_world.ask(program) is False


@pytest.mark.parametrize("kind", DAMAGES)
def test_unusable_module(native_world: World, kind: str) -> None:
    words = damage(native_world.mantaray, kind)
    done = native_world.run(RELY)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["relied"], told["start"]) == (False, "stock")
    assert told["states"] == {"demo": "refused"}
    assert words in told["why"]["demo"]
    (line,) = done.stderr.splitlines()
    assert line.startswith("mantaray: demo is not attached: ")
    assert line.endswith("Ray runs as it came (see `mantaray doctor`)")


@pytest.mark.parametrize("kind", sorted(set(DAMAGES) - set(FOUND_BY_LOADING)))
def test_damage_that_headers_show_is_refused_before_anything_is_attached(
    native_world: World, kind: str
) -> None:
    words = damage(native_world.mantaray, kind)
    told = json.loads(native_world.run(TELL).stdout.splitlines()[-1])
    assert told["start"] == "stock"
    assert told["states"] == {"demo": "refused"}
    assert words in told["why"]["demo"]


@pytest.mark.parametrize("kind", FOUND_BY_LOADING)
def test_the_doctor_loads_the_module(native_world: World, kind: str) -> None:
    assert native_world.cli("doctor").returncode == 0
    words = damage(native_world.mantaray, kind)
    done = native_world.cli("doctor")
    assert done.returncode == 1
    assert "refused" in done.stdout
    assert words in done.stdout


def test_child_processes_inherit_the_verdict(native_world: World) -> None:
    words = damage(native_world.mantaray, "zeroed_in_the_middle")
    program = """
        import json, subprocess, sys
        from mantaray.overlay import rely_on_native
        import ray.engine
        rely_on_native("demo")
        child = "import json, ray.engine\\nfrom mantaray.overlay import status\\n" \\
                "print(json.dumps([[str(p.state), p.why] for p in status()]))"
        print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout)
    """
    ((state, why),) = json.loads(native_world.run(program).stdout)
    assert state == "refused"
    assert words in why


_TRIALS = """
    import json
    from mantaray.overlay import native_module
    trials = []
    native_module._trial = lambda path: trials.append(str(path))
    native_module.load()
    print(json.dumps(len(trials)))
"""


@pytest.mark.parametrize("package", ["ray_mantaray-0.2.0", "ray-2.60.0+mantaray"])
def test_intact_module_costs_a_driver_no_child_process(native_world: World, package: str) -> None:
    """Each driver waited 40 ms and more in `import ray` for an interpreter that tried the module."""
    file = native_file(native_world.mantaray)
    checksum = urlsafe_b64encode(sha256(file.read_bytes()).digest()).decode().rstrip("=")
    record = file.parent.parent / f"{package}.dist-info" / "RECORD"
    record.parent.mkdir()
    record.write_text(f"mantaray/{file.name},sha256={checksum},{file.stat().st_size}\n")
    assert native_world.run(_TRIALS).stdout.strip() == "0"
    record.write_text(f"mantaray/{file.name},sha256={checksum[::-1]},{file.stat().st_size}\n")
    assert native_world.run(_TRIALS).stdout.strip() == "1"
    record.write_text(f"mantaray/{file.name},,\n")
    assert native_world.run(_TRIALS).stdout.strip() == "1"


def test_a_verdict_does_not_outlive_the_file(native_world: World) -> None:
    file = native_file(native_world.mantaray)
    intact = file.read_bytes()
    damage(native_world.mantaray, "another_libc")
    program = """
        import os
        from mantaray.overlay import native_module
        try:
            native_module.load()
        except native_module.NativeError:
            print(os.environ[native_module.VERDICT_VARIABLE])
    """
    verdict = native_world.run(program).stdout.strip()
    assert "GLIBC_9.99" in verdict
    file.write_bytes(intact)
    told = native_world.ask(RELY, _MANTARAY_NATIVE=verdict)
    assert told["relied"] is True


@pytest.mark.parametrize("command", ["spill", "refs"])
def test_commands_that_need_the_module_say_what_is_wrong(native_world: World, command: str) -> None:
    words = damage(native_world.mantaray, "truncated")
    done = native_world.cli(command, "--help")
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error.startswith(f"error: `mantaray {command}` cannot start: ")
    assert words in error
    assert hint == "hint: install ray-mantaray again"
