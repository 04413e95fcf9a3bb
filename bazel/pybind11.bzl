"""pybind11 for wheels: the distribution's is too old for the newest Pythons. Headers only, by the ordinary package client."""

_PACKAGE = "pybind11==3.1.0"
_ARCHIVE = "pybind11-3.1.0-py3-none-any.whl"
_SHA256 = "b8488090f8acffbcb6b5d6a85571a6827a0a2981ffb75e5a0b27b87c4a6b7dd0"

_BUILD = """
cc_library(
    name = "headers",
    hdrs = glob(["pybind11/include/**/*.h"]),
    includes = ["pybind11/include"],
    visibility = ["//visibility:public"],
)
"""

def _pybind11_impl(repository_ctx):
    python = repository_ctx.os.environ.get("PYTHON_BIN_PATH") or repository_ctx.which("python3")
    fetched = repository_ctx.execute(
        [str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest=.", _PACKAGE],
        timeout = 600,
    )
    if fetched.return_code != 0:
        fail("pybind11 could not be fetched (pip download %s): %s" % (_PACKAGE, fetched.stderr))
    digest = repository_ctx.execute(["sha256sum", _ARCHIVE]).stdout.split(" ")[0]
    if digest != _SHA256:
        fail("%s has sha256 %s, expected %s; remove it from pip's cache and try again." % (_ARCHIVE, digest, _SHA256))
    unpacked = repository_ctx.execute([str(python), "-m", "zipfile", "-e", _ARCHIVE, "."])
    if unpacked.return_code != 0:
        fail("%s cannot be unpacked: %s" % (_ARCHIVE, unpacked.stderr))
    repository_ctx.delete(_ARCHIVE)
    repository_ctx.file("BUILD.bazel", _BUILD)

pybind11 = repository_rule(
    implementation = _pybind11_impl,
)
