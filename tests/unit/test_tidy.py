"""The house rules, enforced; and each rule tried on what it must find and what it must allow."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from tests.support.tidy import REPOSITORY, RULES, check_bytes, check_repository

PY = '"""Says what it is for."""\nfrom __future__ import annotations\n'
CC = "// Says what it is for.\n"
SLASH = "/"

# rule, path, text, line of the violation
VIOLATIONS = [
    ("imports", "python/mantaray/overlay/a.py", PY + "import mantaray.wheel.record\n", 3),
    ("imports", "python/mantaray/overlay/a.py", PY + "from ..wheel import record\n", 3),
    ("imports", "python/mantaray/overlay/a.py", PY + "def f():\n    from .. import wheel\n", 4),
    ("imports", "python/mantaray/spill/a.py", PY + "from mantaray import wheel\n", 3),
    ("imports", "python/mantaray/wheel/a.py", PY + "from mantaray.cli.output import say\n", 3),
    ("imports", "python/mantaray/settings.py", PY + "from mantaray.overlay import patch\n", 3),
    ("no-ray-at-import", "python/mantaray/spill/a.py", PY + "import ray.util\n", 3),
    ("no-ray-at-import", "python/mantaray/spill/a.py", PY + "from ray import get\n", 3),
    (
        "no-ray-at-import",
        "python/mantaray/cli/a.py",
        PY + "try:\n    x = 1\nexcept OSError:\n    import ray\n",
        6,
    ),
    ("no-ray-at-import", "python/mantaray/cli/a.py", PY + "class A:\n    import ray\n", 4),
    (
        "no-ray-at-import",
        "python/mantaray/cli/a.py",
        PY + "if not TYPE_CHECKING:\n    import ray\n",
        4,
    ),
    (
        "no-ray-at-import",
        "python/mantaray/cli/a.py",
        PY + "if TYPE_CHECKING:\n    x = 1\nelse:\n    import ray\n",
        6,
    ),
    ("annotations", "python/mantaray/cli/a.py", '"""For this."""\nx: int = 1\n', 2),
    ("helper-processes", "python/mantaray/spill/a.py", PY + "x = [sys.executable, path]\n", 3),
    ("helper-processes", "python/mantaray/wheel/a.py", PY + "x = ['python3', '-m', 'pip']\n", 3),
    ("includes", "src/mantaray/common/a.h", CC + '#include "mantaray/spill/names.h"\n', 2),
    ("includes", "src/mantaray/spill/a.cc", CC + '#include "mantaray/syncer/view.h"\n', 2),
    ("includes", "src/mantaray/refcount/a.cc", CC + '#include "mantaray/sim/world.h"\n', 2),
    ("includes", "src/mantaray/sim/a.cc", CC + '#include "mantaray/python/module.h"\n', 2),
    ("no-python-in-cores", "src/mantaray/spill/a.cc", CC + "#include <Python.h>\n", 2),
    ("no-python-in-cores", "src/mantaray/common/a.h", CC + "#include <pybind11/pybind11.h>\n", 2),
    ("pure-cores", "src/mantaray/spill/a.cc", CC + "#include <thread>\n", 2),
    ("pure-cores", "src/mantaray/spill/a.cc", CC + "#include <sys/stat.h>\n", 2),
    ("pure-cores", "src/mantaray/spill/a.h", CC + "#include <chrono>\n", 2),
    ("pure-cores", "src/mantaray/spill/a.h", CC + "#include <fstream>\n", 2),
    ("pure-cores", "src/mantaray/spill/a.cc", CC + "#include <unistd.h>\n", 2),
    ("pure-cores", "src/mantaray/spill/a.cc", CC + "#include <fcntl.h>\n", 2),
    (
        "pure-cores",
        "src/mantaray/syncer/a.h",
        CC + "auto t = std::chrono::steady_clock::now();\n",
        2,
    ),
    ("pure-cores", "src/mantaray/refcount/a.h", CC + "std::this_thread::yield();\n", 2),
    ("pure-cores", "src/mantaray/spill/a.cc", CC + "absl::SleepFor(delay);\n", 2),
    ("spill-names", "src/mantaray/spill/writer.cc", CC + 'x = "ray_spilled_objects_" + id;\n', 2),
    ("spill-names", "python/mantaray/cli/a.py", PY + "x = f'ray_spilled_objects_{n}'\n", 3),
    ("spill-names", "python/mantaray/spill/a.py", PY + "x = '.damaged'\n", 3),
    ("spill-names", "python/mantaray/spill/names.py", PY + "x = 'ray_spilled_objects_'\n", 3),
    ("spill-names", "src/mantaray/python/names.cc", CC + 'x = "ray_spilled_objects_";\n', 2),
    ("no-example", "python/mantaray/serve/a.py", PY + "import knowledge.service\n", 3),
    ("no-example", "src/mantaray/spill/a.cc", CC + "// As the knowledge service does.\n", 2),
    ("no-example", "python/mantaray/py.toml", "# See examples" + "/knowledge.\n", 1),
    ("opening", "src/mantaray/spill/a.h", "#include <string>\n", 1),
    ("opening", "tests/unit/a.py", "from __future__ import annotations\n", 1),
    ("opening", "src/mantaray/spill/BUILD.bazel", "package()\n", 1),
    ("opening", "tools/a", "#!/usr/bin/env bash\nset -e\n", 1),
    ("opening", "python/mantaray/spill/__init__.py", "", 1),
    ("todo", "src/mantaray/spill/a.h", CC + "// TO" + "DO: later\n", 2),
    ("todo", "python/mantaray/a.py", PY + "# FIX" + "ME(#7)\n", 3),
    ("todo", "docs/a.md", "TO" + "DO(#12): say more about this when the relay exists\n", 1),
    ("machine-paths", "docs/a.md", f"Look into {SLASH}work/main.\n", 1),
    ("machine-paths", "tools/a", f"# For this.\ncd {SLASH}root\n", 2),
    ("machine-paths", "tests/a.py", f'"""A."""\nx = "{SLASH}tmp/x/log"\n', 2),
    ("registry-hosts", "README.md", "curl https://pypi" + ".org/simple\n", 1),
    ("assertions", "tests/unit/test_a.py", PY + "def test_nothing():\n    print(1)\n", 1),
    ("assertions", "examples/a/tests/test_a.py", PY + "def test_nothing():\n    print(1)\n", 1),
    ("assertions", "src/mantaray/spill/a_test.cc", CC + "TEST(A, B) { Run(); }\n", 1),
]

# path, text
ALLOWED = [
    (
        "python/mantaray/cli/a.py",
        PY + "from mantaray.wheel import record\nfrom mantaray import spill\n",
    ),
    ("python/mantaray/spill/a.py", PY + "from mantaray.overlay import register\nfrom . import b\n"),
    (
        "python/mantaray/wheel/a.py",
        PY + "from mantaray import __version__, settings\nimport rayon\n",
    ),
    ("python/mantaray/spill/a.py", PY + "def f():\n    import ray\n"),
    (
        "python/mantaray/spill/a.py",
        PY + "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ray\n",
    ),
    ("python/mantaray/spill/a.py", '"""Of ray_spilled_objects_*."""\n'),
    ("tests/unit/a.py", PY + "x = 'ray_spilled_objects_'\n"),
    ("src/mantaray/spill/a.cc", CC + '#include "mantaray/common/crc32c.h"\n#include <string>\n'),
    ("src/mantaray/sim/a.cc", CC + '#include "mantaray/refcount/counter.h"\n'),
    ("src/mantaray/python/a.cc", CC + '#include <pybind11/stl.h>\n#include "mantaray/spill/a.h"\n'),
    ("src/mantaray/spill/posix_host.cc", CC + "#include <unistd.h>\n#include <thread>\n"),
    ("src/mantaray/spill/a_test.cc", CC + '#include <thread>\nEXPECT_EQ(n, "fused-1");\n'),
    ("src/mantaray/spill/a.cc", CC + "x = clock->Now();  // not std::this_thread\n"),
    ("src/mantaray/spill/names.h", CC + 'kPrefix = "ray_spilled_objects_";\n'),
    ("python/mantaray/cli/a.py", PY + "# For example, from knowledge of the node.\n"),
    ("docs/a.md", "Objects lie in ../root of http://host/work-items.\n"),
    ("tools/a", "#!/usr/bin/env bash\n# For this.\n"),
]


def test_the_repository_keeps_the_house_rules() -> None:
    findings = check_repository(REPOSITORY)
    assert not findings, "\n" + "\n".join(map(str, findings))


@pytest.mark.parametrize(("rule", "path", "text", "line"), VIOLATIONS)
def test_a_planted_violation_is_found(rule: str, path: str, text: str, line: int) -> None:
    checked = next(candidate for candidate in RULES if candidate.name == rule)
    findings = checked.findings(PurePosixPath(path), text)
    assert [finding.line for finding in findings] == [line]
    assert str(findings[0]).startswith(f"{path}:{line}: ")
    assert findings[0].instead == checked.instead


@pytest.mark.parametrize(("path", "text"), ALLOWED)
def test_what_the_rules_allow_is_not_found(path: str, text: str) -> None:
    assert check_bytes(PurePosixPath(path), text.encode()) == []


def test_every_rule_has_a_planted_violation() -> None:
    assert {rule.name for rule in RULES} == {rule for rule, _, _, _ in VIOLATIONS}


@pytest.mark.parametrize("path", ["src/mantaray/a.so", "docs/a.gif", "tests/data.png"])
def test_a_binary_is_found(path: str) -> None:
    assert [finding.problem for finding in check_bytes(PurePosixPath(path), b"\x7f\0")] == [
        "binary file"
    ]


def test_a_picture_in_the_docs_is_allowed() -> None:
    assert check_bytes(PurePosixPath("docs/life.png"), b"\x89PNG\0") == []
