"""What the overlay does to a Ray: version gates, altered targets, failing patches, taking back.

Each test runs in a world of its own, with a fake Ray and the real `mantaray.pth`.
"""

from __future__ import annotations

import hashlib
import shutil

import pytest
from mantaray.overlay import fingerprint

from .world import ENGINE, TELL, World, speed_fingerprint

STOCK = {"start": "stock", "speed": 1}
PATCHED = {"start": "patched", "speed": 2}


def behaviour(told: dict[str, object]) -> dict[str, object]:
    return {key: told[key] for key in ("start", "speed")}


def test_a_patch_is_attached_by_the_import_of_ray_alone(world: World) -> None:
    world.demo_patch()
    told = world.ask(TELL)
    assert behaviour(told) == PATCHED
    assert told["states"] == {"demo": "active"}
    assert told["why"] == {"demo": "attached to ray.engine"}


@pytest.mark.parametrize("options", [["-I"], ["-E"], ["-s"], ["-O"], ["-X", "importtime"]])
def test_interpreter_options_do_not_switch_it_off(world: World, options: list[str]) -> None:
    world.demo_patch()
    result = world.run(TELL, *options)
    assert '"start": "patched"' in result.stdout


def test_without_site_it_is_not_there_and_nothing_breaks(world: World) -> None:
    result = world.run("import sys; print('mantaray' in sys.modules)", "-S")
    assert (result.returncode, result.stdout, result.stderr) == (0, "False\n", "")


def test_a_process_without_ray_loads_the_bootstrap_alone(world: World) -> None:
    world.demo_patch()
    loaded = world.ask(
        "import json, sys;print(json.dumps([m for m in sys.modules if m.startswith('mantaray')]))"
    )
    assert sorted(loaded) == ["mantaray", "mantaray.overlay", "mantaray.overlay.bootstrap"]


def test_asking_whether_there_is_a_ray_imports_none_of_it(world: World) -> None:
    world.demo_patch()
    told = world.ask(
        """
        import importlib.util, json, sys
        spec = importlib.util.find_spec("ray")
        loaded = sorted(name for name in sys.modules if name.split(".")[0] == "ray")
        import ray.engine
        print(json.dumps([spec.origin == ray.__file__, loaded, ray.engine.start()]))
        """
    )
    assert told == [True, [], "patched"]


def test_asking_where_there_is_no_ray_is_silent(world: World) -> None:
    world.demo_patch()
    (world.site / "ray" / "__init__.py").unlink()
    program = """
        import importlib.util, json
        from mantaray.overlay import status
        importlib.util.find_spec("ray")
        print(json.dumps([str(patch.state) for patch in status()]))
        """
    assert world.ask(program) == ["refused"]


def test_a_folder_that_happens_to_be_called_ray_is_left_alone(world: World) -> None:
    world.demo_patch()
    for file in (world.site / "ray").glob("*.py"):
        file.unlink()
    world.ask("import ray, json; print(json.dumps(list(ray.__path__) != []))")


def test_our_finder_leaves_when_it_has_done_its_work(world: World) -> None:
    program = """
        import json, sys
        here = lambda: any(type(f).__name__ == "RayFinder" for f in sys.meta_path)
        before = here()
        import ray
        print(json.dumps([before, here()]))
        """
    assert world.ask(program) == [True, False]


# --- Version gates -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version", ["2.48.0", "2.49.2", "2.53.0", "2.60.0", "2.60", "2.60.0+mantaray.1"]
)
def test_each_supported_version_is_served(world: World, version: str) -> None:
    world.ray(version)
    world.demo_patch()
    assert world.ask(TELL)["states"] == {"demo": "active"}


@pytest.mark.parametrize(
    "version",
    [
        "1.13.0",
        "2.47.1",
        "2.48.0rc1",
        "2.48.1",
        "2.60.1",
        "2.60.0.post1",
        "2.60.0.1",
        "2.61.0",
        "2.61.0rc0",
        "3.0.0.dev0",
        "../2.60.0",
        "what?",
    ],
)
def test_an_unknown_version_is_left_as_it_came_with_one_line(world: World, version: str) -> None:
    world.ray(version)
    world.demo_patch()
    world.patch("raise RuntimeError", name="other")
    result = world.run(TELL)
    assert result.returncode == 0
    assert '"start": "stock"' in result.stdout
    assert '"demo": "refused"' in result.stdout
    assert len(result.stderr.splitlines()) == 1
    assert version in result.stderr
    assert "nothing is patched and Ray runs as it came" in result.stderr


@pytest.mark.parametrize(
    ("rays", "version", "why"),
    [
        (">=2.50,<2.55", "2.49.2", "attached to ray.engine"),
        (">=2.50,<2.55", "2.50.0", "(ray.engine:fresh)"),
        (">=2.50,<2.55", "2.54.1", "(ray.engine:fresh)"),
        (">=2.50,<2.55", "2.55.0", "attached to ray.engine"),
        ("not a specifier", "2.55.0", "it states its releases wrongly"),
    ],
)
def test_a_target_counts_on_its_own_releases(
    world: World, rays: str, version: str, why: str
) -> None:
    """On those releases the patch is refused here, for nobody has reviewed the target."""
    world.ray(version)
    targets = f"(Target('ray.engine', 'Engine.speed'), Target('ray.engine', 'fresh', {rays!r}))"
    world.demo_patch(targets=targets)
    result = world.run(TELL)
    assert why in result.stdout
    assert len(result.stderr.splitlines()) == ("attached" not in why)


def test_a_patch_that_nobody_accepted_for_a_release_is_refused_on_it_alone(world: World) -> None:
    """The target is what it always was: the table decides, not a fingerprint of another release."""
    world.demo_patch()
    world.know({}, only=["2.55.1"])
    world.ray("2.55.1")
    result = world.run(TELL)
    assert '"states": {"demo": "refused"}' in result.stdout
    assert result.stderr == (
        "mantaray: demo is not attached: it has not been adapted to Ray 2.55.1; "
        "Ray runs as it came (see `mantaray doctor`)\n"
    )
    world.ray("2.55.0")
    assert world.ask(TELL)["states"] == {"demo": "active"}


def test_a_fingerprint_of_another_release_does_not_count(world: World) -> None:
    world.demo_patch()
    faster = ENGINE.replace("return 1", "return 3")
    world.know({"demo": {"ray.engine:Engine.speed": speed_fingerprint(faster)}}, only=["2.55.1"])
    world.ray("2.55.1", faster)
    assert world.ask(TELL)["states"] == {"demo": "active"}
    world.ray("2.55.0", faster)
    result = world.run(TELL)
    assert "ray.engine:Engine.speed is not what the patch was written for" in result.stderr


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"ray": "2.59.0", "files": {}, "patches": {}}'])
def test_a_damaged_table_is_one_line_and_ray_runs_as_it_came(world: World, damage: str) -> None:
    world.demo_patch()
    (world.mantaray / "overlay" / "rays" / "2.60.0.json").write_text(damage)
    result = world.run(TELL)
    assert '"start": "stock"' in result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("mantaray: the description of Ray 2.60.0 is ")
    assert line.endswith("(install Mantaray again)")


def test_of_the_known_rays_only_the_one_at_hand_is_read(world: World) -> None:
    world.demo_patch()
    for path in (world.mantaray / "overlay" / "rays").glob("*.json"):
        if path.stem != "2.60.0":
            path.write_text("damaged")
    assert world.ask(TELL)["states"] == {"demo": "active"}


@pytest.mark.parametrize(("version", "state"), [("2.54.1", "active"), ("2.55.0", "native")])
def test_where_rays_own_is_enough_nothing_is_patched(
    world: World, version: str, state: str
) -> None:
    world.ray(version)
    world.demo_patch(enough_since="'2.55'")
    told = world.ask(TELL)
    assert told["states"] == {"demo": state}
    assert behaviour(told) == (STOCK if state == "native" else PATCHED)


@pytest.mark.parametrize("version", ["2.60.1", "2.61.0", "2.61.0rc0", "3.0.0.dev0", "2.54.2"])
def test_an_unknown_newer_ray_is_attached_only_if_asked_for(world: World, version: str) -> None:
    world.ray(version)
    world.demo_patch()
    assert '"start": "stock"' in world.run(TELL).stdout
    told = world.ask(TELL, MANTARAY_UNTESTED_RAY="1")
    assert (told["states"], behaviour(told)) == ({"demo": "active"}, PATCHED)


def test_an_unknown_newer_ray_with_another_target_stays_as_it_came(world: World) -> None:
    world.ray("2.61.0", ENGINE.replace("return 1", "return 3"))
    world.demo_patch()
    result = world.run(TELL, MANTARAY_UNTESTED_RAY="1")
    assert '"start": "stock"' in result.stdout
    assert "ray.engine:Engine.speed is not what the patch was written for" in result.stderr


def test_an_unknown_ray_is_compared_with_the_last_known_one_before_it(world: World) -> None:
    """2.54.2 is as 2.54.1 was, whatever the newest Ray looks like."""
    world.demo_patch()
    world.know({"demo": {"ray.engine:Engine.speed": "0" * 16}}, only=["2.55.0", "2.60.0"])
    world.ray("2.54.2")
    assert world.ask(TELL, MANTARAY_UNTESTED_RAY="1")["states"] == {"demo": "active"}
    world.ray("2.55.2")
    assert '"demo": "active"' in world.run(TELL, MANTARAY_UNTESTED_RAY="1").stdout
    world.ray("2.60.1")
    assert '"demo": "refused"' in world.run(TELL, MANTARAY_UNTESTED_RAY="1").stdout


@pytest.mark.parametrize("version", ["1.13.0", "2.47.1", "2.48.0rc1", "what?"])
def test_a_ray_older_than_every_known_one_is_never_attached(world: World, version: str) -> None:
    world.ray(version)
    world.demo_patch()
    result = world.run(TELL, MANTARAY_UNTESTED_RAY="1")
    assert '"start": "stock"' in result.stdout
    assert len(result.stderr.splitlines()) == 1


# --- Targets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("return 1", "return 3", "found "),
        ("def speed", "def velocity", "nothing of that name"),
        ("class Engine", "class Motor", "nothing of that name"),
    ],
)
def test_an_altered_target_is_refused_and_ray_still_runs(
    world: World, before: str, after: str, found: str
) -> None:
    world.demo_patch()
    world.ray("2.60.0", ENGINE.replace(before, after))
    program = "import ray.engine; print(ray.engine.start())"
    result = world.run(program)
    assert (result.returncode, result.stdout) == (0, "stock\n")
    (line,) = result.stderr.splitlines()
    assert line.startswith("mantaray: demo is not attached: ray.engine:Engine.speed is not what")
    assert found in line


def test_a_target_whose_source_is_gone_is_refused(world: World) -> None:
    targets = "(Target('ray.gone', 'f'), Target('ray.gone', 'g'))"
    world.demo_patch({"ray.gone:f": "0", "ray.gone:g": "0"}, targets=targets)
    result = world.run("import ray.engine; print(ray.engine.start())")
    assert result.stdout == "stock\n"
    assert "this Ray has no source of ray.gone, and 1 more; Ray runs as it came" in result.stderr


def test_a_target_that_cannot_be_parsed_is_refused(world: World) -> None:
    world.demo_patch({"ray.other:f": "0"}, targets="(Target('ray.other', 'f'),)")
    (world.site / "ray" / "other.py").write_text("def f(:\n")
    result = world.run("import ray.engine; print(ray.engine.start())")
    assert result.stdout == "stock\n"
    assert "ray.other cannot be read" in result.stderr


def test_targets_are_checked_without_importing_them(world: World) -> None:
    value = fingerprint("VALUE = 'stock'", "VALUE")
    assert value is not None
    world.demo_patch({"ray.other:VALUE": value}, targets="(Target('ray.other', 'VALUE'),)")
    program = """
        import json, sys
        import ray.engine
        print(json.dumps([ray.engine.start(), "ray.other" in sys.modules]))
        """
    assert world.ask(program) == ["patched", False]


def test_a_file_known_by_its_digest_is_not_parsed(world: World) -> None:
    official = hashlib.sha256((world.site / "ray" / "engine.py").read_bytes()).hexdigest()
    world.demo_patch()
    world.know({"demo": {"ray.engine:Engine.speed": "0"}}, {"ray.engine": official})
    program = """
        import ast, json
        ast.parse = None
        import ray.engine
        print(json.dumps(ray.engine.start()))
        """
    assert world.ask(program) == "patched"


# --- Exceptions --------------------------------------------------------------------------------

TWO_MODULES = """
from mantaray.overlay import Patch, register

def into_engine(module, installation):
    installation.replace(module, "start", lambda: "patched")
    installation.replace(module, "extra", 1)
    installation.on_undo(lambda: print("undone"))

def into_other(module, installation):
    installation.replace(module, "VALUE", "patched")
    {failure}

register(Patch("demo", "Two modules", None, None, (),
               {{"ray.engine": into_engine, "ray.other": into_other}}))
"""


def test_an_exception_inside_a_patch_rolls_back_all_of_it(world: World) -> None:
    world.patch(TWO_MODULES.format(failure="raise KeyError('oops')"))
    result = world.run(
        """
        import ray.engine
        from mantaray.overlay import status
        start, stock = ray.engine.start, ray.engine.start()
        print(start(), ray.engine.extra, status()[0].state, "-", status()[0].why)
        import ray.other
        print(ray.engine.start(), hasattr(ray.engine, "extra"), ray.other.VALUE, status()[0].state)
        """
    )
    assert result.returncode == 0
    assert result.stdout.splitlines() == [
        "patched 1 active - attached to ray.engine; waits for the import of ray.other",
        "undone",
        "stock False stock refused",
    ]
    assert result.stderr == (
        "mantaray: demo is not attached: it failed in ray.other with KeyError: 'oops'; "
        "Ray runs as it came (see `mantaray doctor`)\n"
    )


def test_an_undo_that_fails_does_not_stop_the_others(world: World) -> None:
    world.patch(
        """
        from mantaray.overlay import Patch, register

        def into_engine(module, installation):
            installation.replace(module, "start", lambda: "patched")
            installation.on_undo(lambda: 1 / 0)
            raise OSError("no")

        hooks = {"ray.engine": into_engine}
        register(Patch("demo", "Fails twice", None, None, (), hooks))
        """
    )
    result = world.run("import ray.engine; print(ray.engine.start())")
    assert (result.returncode, result.stdout) == (0, "stock\n")
    assert "OSError: no; not all of it could be taken back: division by zero" in result.stderr


def test_a_patch_module_that_cannot_be_imported_spares_the_others(world: World) -> None:
    world.demo_patch()
    world.patch("import nothing_of_that_name", name="broken")
    result = world.run(TELL)
    assert '"start": "patched"' in result.stdout
    assert '"states": {"broken": "refused", "demo": "active"}' in result.stdout
    assert len(result.stderr.splitlines()) == 1
    assert "mantaray.broken.patch cannot be imported" in result.stderr


def test_the_children_of_a_process_do_not_repeat_its_warning(world: World) -> None:
    world.ray("2.10.0")
    world.demo_patch()
    program = """
        import ray, subprocess, sys
        for _ in range(3):
            subprocess.run([sys.executable, "-c", "import ray"], check=True)
        """
    assert len(world.run(program).stderr.splitlines()) == 1


# --- Installing and taking back ----------------------------------------------------------------


def test_two_installs_attach_once(world: World) -> None:
    world.demo_patch()
    told = world.ask(
        """
        import json, ray.engine
        from mantaray import overlay
        once = ray.engine.start, ray.engine.Engine.__dict__["speed"]
        overlay.install()
        overlay.install()
        again = ray.engine.start, ray.engine.Engine.__dict__["speed"]
        print(json.dumps([a is b for a, b in zip(once, again)] + [ray.engine.Engine().speed()]))
        """
    )
    assert told == [True, True, 2]


def test_uninstall_restores_the_identical_objects_and_install_attaches_again(world: World) -> None:
    world.patch(
        """
        from mantaray.overlay import Patch, register

        def twice(wrapped, instance, args, kwargs):
            return 2 * wrapped(*args, **kwargs)

        def into_engine(module, installation):
            for name in ("speed", "name", "fuel"):
                installation.wrap(module.Engine, name, twice)
            installation.replace(module.Engine, "fresh", 1)
            installation.replace(module, "start", lambda: "patched")
            installation.replace(module, "start", lambda: "patched twice")

        hooks = {"ray.engine": into_engine}
        register(Patch("demo", "Many things", None, None, (), hooks))
        """
    )
    told = world.ask(
        """
        import json
        from mantaray import overlay
        overlay.uninstall()
        import ray.engine
        engine = ray.engine
        def everything():
            return {**vars(engine.Engine), "start": engine.start}
        stock = everything()
        overlay.install()
        patched = [engine.Engine().speed(), engine.Engine.name(), engine.Engine.fuel(),
                   engine.Engine().fuel(), engine.start()]
        overlay.uninstall()
        overlay.uninstall()
        now = everything()
        changed = [name for name in stock.keys() | now.keys()
                   if stock.get(name) is not now.get(name)]
        states = [str(patch.state) for patch in overlay.status()]
        overlay.install()
        print(json.dumps([patched, changed, states, engine.start()]))
        """
    )
    patched, changed, states, again = told
    assert patched == [2, "EngineEngine", "coalcoal", "coalcoal", "patched twice"]
    assert changed == []
    assert states == ["off"]
    assert again == "patched twice"


def test_what_someone_else_changed_meanwhile_is_not_overwritten(world: World) -> None:
    world.demo_patch()
    result = world.run(
        """
        import ray.engine
        from mantaray import overlay
        ray.engine.start = lambda: "theirs"
        overlay.uninstall()
        print(ray.engine.start(), ray.engine.Engine().speed())
        """
    )
    assert result.stdout == "theirs 1\n"
    assert "ray.engine.start was changed by someone else, it stays as it is" in result.stderr


def test_uninstalled_before_its_module_was_imported_it_stays_away(world: World) -> None:
    world.demo_patch()
    told = world.ask(
        """
        import json, ray
        from mantaray import overlay
        armed = [str(patch.state) for patch in overlay.status()]
        overlay.uninstall()
        import ray.engine
        stock = ray.engine.start()
        overlay.install()
        print(json.dumps([armed, stock, ray.engine.start()]))
        """
    )
    assert told == [["armed"], "stock", "patched"]


def test_ray_imported_before_the_hook(world: World) -> None:
    world.demo_patch()
    told = world.ask(
        """
        import json, site, sys
        import ray.engine
        stock = ray.engine.start()
        site.addsitedir(sys.argv[0] or SITE)
        print(json.dumps([stock, ray.engine.start()]))
        """.replace("sys.argv[0] or SITE", repr(str(world.site))),
        "-S",
        PYTHONPATH=str(world.site),
    )
    assert told == ["stock", "patched"]


def test_a_patch_registered_late_is_attached_at_once(world: World) -> None:
    told = world.ask(
        """
        import json, ray.engine
        from mantaray.overlay import Patch, register, status
        def into_engine(module, installation):
            installation.replace(module, "start", lambda: "patched")
        patch = Patch("late", "Late", None, None, (), {"ray.engine": into_engine})
        register(patch)
        register(patch)
        print(json.dumps([ray.engine.start(), str(status()[0].state)]))
        """
    )
    assert told == ["patched", "active"]


def test_two_patches_of_one_name_are_an_error_of_the_second(world: World) -> None:
    world.demo_patch()
    world.patch(
        """
        from mantaray.overlay import Patch, register
        register(Patch("demo", "Another", None, None, (), {}))
        """,
        name="second",
    )
    result = world.run(TELL)
    assert '"states": {"demo": "active", "second": "refused"}' in result.stdout
    assert "two patches are called 'demo'; rename one of them" in result.stderr


@pytest.mark.parametrize("module", ["ray", "ray.engine"])
def test_threads_that_import_at_once_all_see_it_patched(world: World, module: str) -> None:
    world.demo_patch()
    # Slow enough for all of the threads to be in the middle of it together.
    slow = "import time; time.sleep(0.05)\n"
    (world.mantaray / "demo" / "__init__.py").write_text(slow)
    world.ray("2.60.0", slow + ENGINE)
    told = world.ask(
        f"""
        import importlib, importlib.util, json, threading
        barrier = threading.Barrier(16)
        seen = []
        def work(index):
            barrier.wait()
            if index % 4 == 0:
                importlib.util.find_spec("ray")
            importlib.import_module({module!r})
            import ray.engine
            seen.append((ray.engine.start(), ray.engine.Engine().speed()))
        threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(150)
        print(json.dumps([len(seen), sorted(set(seen))]))
        """
    )
    assert told == [16, [["patched", 2]]]


def test_threads_that_install_and_uninstall_leave_it_whole(world: World) -> None:
    world.patch(TWO_MODULES.format(failure=""))
    told = world.ask(
        """
        import io, json, sys, threading
        import ray.engine, ray.other
        from mantaray import overlay
        out, sys.stdout = sys.stdout, io.StringIO()
        def work():
            for _ in range(200):
                overlay.install()
                overlay.uninstall()
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(150)
        sys.stdout = out
        overlay.uninstall()
        print(json.dumps([ray.engine.start(), hasattr(ray.engine, "extra"), ray.other.VALUE]))
        """
    )
    assert told == ["stock", False, "stock"]


def test_a_forked_child_goes_on_attaching(world: World) -> None:
    world.patch(TWO_MODULES.format(failure=""))
    told = world.ask(
        """
        import json, os
        import ray.engine
        pid = os.fork()
        if pid == 0:
            import ray.other
            os._exit(0 if (ray.engine.start(), ray.other.VALUE) == ("patched", "patched") else 1)
        print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
        """
    )
    assert told == 0


# --- Half an installation ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "gone",
    [
        "mantaray",
        "mantaray/overlay",
        "mantaray/overlay/bootstrap.py",
        "mantaray/overlay/hooks.py",
        "mantaray/overlay/installation.py",
        "mantaray/settings.py",
        "mantaray/demo/patch.py",
        "a-dependencies.pth",
    ],
)
def test_a_half_removed_package_breaks_neither_interpreter_nor_ray(world: World, gone: str) -> None:
    world.demo_patch()
    path = world.site / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    plain = world.run("print('started')")
    assert (plain.returncode, plain.stdout, plain.stderr) == (0, "started\n", "")
    result = world.run("import ray.engine; print(ray.engine.start())")
    assert (result.returncode, result.stdout) == (0, "stock\n")
    assert len(result.stderr.splitlines()) <= 1
    assert "Traceback" not in result.stderr


# --- Settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1", "true", "TRUE"])
def test_disabled_everything_is_off(world: World, value: str) -> None:
    world.demo_patch()
    told = world.ask(TELL, MANTARAY_DISABLE=value)
    assert behaviour(told) == STOCK
    assert told["states"] == {"demo": "off"}
    assert told["why"] == {"demo": "MANTARAY_DISABLE is set"}


def test_disabled_an_unknown_ray_is_no_matter(world: World) -> None:
    world.ray("2.10.0")
    world.demo_patch()
    assert world.ask(TELL, MANTARAY_DISABLE="1")["states"] == {"demo": "off"}


@pytest.mark.parametrize(
    ("value", "on"),
    [
        ("", {"demo", "second", "third"}),
        ("all", {"demo", "second", "third"}),
        ("demo", {"demo"}),
        ("demo,third", {"demo", "third"}),
        (" demo , third ", {"demo", "third"}),
        ("-demo", {"second", "third"}),
        ("-demo,-third", {"second"}),
        ("all,-second", {"demo", "third"}),
        ("demo,-demo", set()),
    ],
)
def test_patches_are_picked_and_excluded(world: World, value: str, on: set[str]) -> None:
    world.demo_patch()
    for name in ("second", "third"):
        world.patch(
            f"""
            from mantaray.overlay import Patch, register
            register(Patch("{name}", "-", None, None, (),
                           {{"ray.other": lambda module, installation: None}}))
            """,
            name=name,
        )
    states = world.ask("import ray.other\n" + TELL, MANTARAY_PATCHES=value)["states"]
    assert {name for name, state in states.items() if state == "active"} == on
    assert {state for name, state in states.items() if name not in on} <= {"off"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MANTARAY_DISABLE", "yes"),
        ("MANTARAY_UNTESTED_RAY", "yes"),
        ("MANTARAY_PATCHES", "dmeo"),
        ("MANTARAY_PATCHES", "-dmeo"),
        ("MANTARAY_PATCHES", "demo,,"),
        ("MANTARAY_PATCHES", "-all"),
        ("MANTARAY_REPORT_DIR", "relative/path"),
    ],
)
def test_a_bad_setting_is_one_line_and_ray_runs_as_it_came(
    world: World, variable: str, value: str
) -> None:
    world.demo_patch()
    result = world.run(TELL, **{variable: value})
    assert result.returncode == 0
    assert '"start": "stock"' in result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"mantaray: {variable} is set to {value!r}; allowed: ")
    assert "nothing is patched and Ray runs as it came" in line


def test_an_unknown_patch_is_answered_with_the_known_ones(world: World) -> None:
    world.demo_patch()
    result = world.run(TELL, MANTARAY_PATCHES="dmeo")
    assert "allowed: all, or some of: demo; -name excludes one" in result.stderr
