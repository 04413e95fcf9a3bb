"""The Python the extension module is built for: PYTHON_BIN_PATH, or python3 on PATH."""

_ASK = "import sysconfig; print(sysconfig.get_path('include'))"

def _python_headers_impl(repository_ctx):
    python = repository_ctx.os.environ.get("PYTHON_BIN_PATH") or repository_ctx.which("python3")
    if not python:
        fail("No python3 found: install python3 and python3-dev, or set PYTHON_BIN_PATH.")
    result = repository_ctx.execute([str(python), "-c", _ASK])
    include = result.stdout.strip()
    if result.return_code != 0 or not repository_ctx.path(include + "/Python.h").exists:
        fail("%s has no headers (looked for Python.h in '%s'): install python3-dev." % (python, include))
    repository_ctx.symlink(include, "include")
    repository_ctx.file("BUILD.bazel", """
cc_library(
    name = "headers",
    hdrs = glob(["include/**/*.h"]),
    includes = ["include"],
    visibility = ["//visibility:public"],
)
""")

python_headers = repository_rule(
    implementation = _python_headers_impl,
    environ = ["PYTHON_BIN_PATH", "PATH"],
    local = True,
)
