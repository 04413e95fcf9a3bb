"""What the overlay does to a Ray: altered targets, failing patches, taking back, threads and forks.

Each test runs in a world of its own, with a fake Ray and the real `mantaray.pth`.
"""

from __future__ import annotations

import hashlib
import shutil

import pytest
from mantaray.overlay import fingerprint

from .world import ENGINE, PATCHED, TELL, World, behaviour


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
