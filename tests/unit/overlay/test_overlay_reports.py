"""MANTARAY_REPORT_DIR: what each process writes about itself, and when."""

from __future__ import annotations

import json
from pathlib import Path

from .world import World


def reports(directory: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]


def test_a_report_follows_the_states(world: World, tmp_path: Path) -> None:
    directory = tmp_path / "made" / "when needed"
    world.demo_patch()
    told = world.ask(
        """
        import json, os, sys
        from pathlib import Path
        path = Path(os.environ["MANTARAY_REPORT_DIR"], f"{os.getpid()}.json")
        read = lambda: json.loads(path.read_text())["patches"]["demo"]["state"]
        before = path.exists()
        import ray
        states = [read()]
        import ray.engine
        states.append(read())
        from mantaray import overlay
        overlay.uninstall()
        states.append(read())
        print(json.dumps([before, states]))
        """,
        MANTARAY_REPORT_DIR=str(directory),
    )
    assert told == [False, ["armed", "active", "off"]]
    (report,) = reports(directory)
    assert report.keys() == {"pid", "argv", "ray_version", "patches"}
    assert report["ray_version"] == "2.60.0"
    assert report["argv"][:2] == [str(world.python), "-c"]  # type: ignore[index]
    assert [path.suffix for path in directory.iterdir()] == [".json"]


def test_a_process_without_ray_writes_none(world: World, tmp_path: Path) -> None:
    world.run("pass", MANTARAY_REPORT_DIR=str(tmp_path / "reports"))
    assert not (tmp_path / "reports").exists()


def test_a_forked_child_writes_its_own(world: World, tmp_path: Path) -> None:
    world.demo_patch()
    program = """
        import os
        import ray.engine
        if (pid := os.fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        print(f'"{pid}"')
        """
    pid = world.ask(program, MANTARAY_REPORT_DIR=str(tmp_path))
    report = json.loads((tmp_path / f"{pid}.json").read_text())
    assert report["patches"]["demo"]["state"] == "active"


def test_a_directory_that_cannot_be_made_is_one_line_and_no_more(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    world.demo_patch()
    result = world.run(
        "import ray.engine; print(ray.engine.start())",
        MANTARAY_REPORT_DIR=str(tmp_path / "file" / "reports"),
    )
    assert (result.returncode, result.stdout) == (0, "patched\n")
    (line,) = result.stderr.splitlines()
    assert line.startswith("mantaray: cannot write a report (")
    assert line.endswith("unset or correct MANTARAY_REPORT_DIR")
