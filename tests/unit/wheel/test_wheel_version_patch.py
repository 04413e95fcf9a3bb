"""The patch that keeps `ray --version` what Ray's code says, in a custom wheel."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import click
import pytest
from click.testing import CliRunner
from mantaray.overlay import Installation
from mantaray.wheel import patch


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module with a command line as Ray's, whose option takes its version from the metadata."""
    ray = ModuleType("ray")
    ray.__dict__["__version__"] = "2.60.0"
    monkeypatch.setitem(sys.modules, "ray", ray)
    module = ModuleType("ray.scripts.scripts")

    @click.group()
    @click.option("--logging-level")
    @click.version_option("2.60.0+mantaray.0.1.0")
    def cli(logging_level: str | None) -> None:
        pass

    @cli.command()
    def start() -> None:
        click.echo("started")

    module.__dict__["cli"] = cli
    return module


def said(module: ModuleType, *arguments: str) -> str:
    """Return what the command prints."""
    done = CliRunner().invoke(module.cli, [*arguments], prog_name="ray")
    assert done.exit_code == 0
    return done.output


def install(module: ModuleType) -> Installation:
    """Attach the patch to the module."""
    installation = Installation()
    for installer in patch.PATCH.installers.values():
        installer(module, installation)
    return installation


def test_prints_the_version_of_the_code(scripts: ModuleType) -> None:
    assert said(scripts, "--version") == "ray, version 2.60.0+mantaray.0.1.0\n"
    install(scripts)
    assert said(scripts, "--version") == "ray, version 2.60.0\n"


def test_other_commands_go_on(scripts: ModuleType) -> None:
    install(scripts)
    assert said(scripts, "start") == "started\n"


def test_is_taken_back(scripts: ModuleType) -> None:
    assert install(scripts).undo() == []
    assert said(scripts, "--version") == "ray, version 2.60.0+mantaray.0.1.0\n"


def test_a_command_line_without_the_option_is_an_error(scripts: ModuleType) -> None:
    scripts.cli.params.clear()
    with pytest.raises(ValueError, match="not enough values"):
        install(scripts)


def test_is_cheap_to_import() -> None:
    # It is imported in every process of a cluster, the builder beside it is not.
    code = (
        "import sys, mantaray.wheel.patch\n"
        "heavy = {'click', 'ray', 'mantaray.wheel.builder'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
