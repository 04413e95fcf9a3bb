"""The Pythons that the extension module is built for: PYTHON_BIN_PATH (or python3 on PATH), and those of the wheels."""

# Only headers are needed of them, which do not differ between x86-64 and aarch64 in anything that the module uses.
WHEEL_PYTHONS = ["310", "311", "312", "313", "314"]

_ASK = "import sys, sysconfig; print(sysconfig.get_path('include'), sys.version_info >= (3, 12))"

# The distribution's pybind11 may be older than Python 3.12.
_PYBIND11 = """
alias(
    name = "pybind11",
    actual = "%s",
    visibility = ["//visibility:public"],
)
"""

_BUILD = """
cc_library(
    name = "headers",
    hdrs = glob(["include/**/*.h"]),
    includes = ["include"],
    visibility = ["//visibility:public"],
)
"""

def _python_headers_impl(repository_ctx):
    python = repository_ctx.os.environ.get("PYTHON_BIN_PATH") or repository_ctx.which("python3")
    if not python:
        fail("No python3 found: install python3 and python3-dev, or set PYTHON_BIN_PATH.")
    result = repository_ctx.execute([str(python), "-c", _ASK])
    include, _, recent = result.stdout.strip().rpartition(" ")
    if result.return_code != 0 or not repository_ctx.path(include + "/Python.h").exists:
        fail("%s has no headers (looked for Python.h in '%s'): install python3-dev." % (python, include))
    repository_ctx.symlink(include, "include")
    pybind11 = "@pybind11//:headers" if recent == "True" else "@system//:pybind11"
    repository_ctx.file("BUILD.bazel", _BUILD + _PYBIND11 % pybind11)

python_headers = repository_rule(
    implementation = _python_headers_impl,
    environ = ["PYTHON_BIN_PATH", "PATH"],
    local = True,
)

def _wheel_python_impl(repository_ctx):
    variable = "MANTARAY_PYTHON_HEADERS_" + repository_ctx.attr.version
    include = repository_ctx.os.environ.get(variable, "")
    if not include:
        fail("%s is not set: build wheels with `make dist`, which finds the headers of each Python." % variable)
    if not repository_ctx.path(include + "/Python.h").exists:
        fail("%s is '%s', which has no Python.h." % (variable, include))
    repository_ctx.symlink(include, "include")
    repository_ctx.file("BUILD.bazel", _BUILD)

wheel_python = repository_rule(
    implementation = _wheel_python_impl,
    environ = ["MANTARAY_PYTHON_HEADERS_" + version for version in WHEEL_PYTHONS],
    attrs = {"version": attr.string(mandatory = True)},
    local = True,
)
