"""Abseil, built from source with the rest, so that it can be position-independent, hidden and instrumented.

The distribution's static archives are compiled for executables (PIE), which the linker refuses in an extension module
("recompile with -fPIC"), and its shared ones would have to travel in every wheel. gRPC's source package on PyPI
carries Abseil's sources whole; that is where they come from, by the ordinary package client. Pinned by version and hash.
"""

_PACKAGE = "grpcio==1.66.2"
_ARCHIVE = "grpcio-1.66.2.tar.gz"
_PREFIX = "grpcio-1.66.2/third_party/abseil-cpp"
# The version of the Abseil in it, which the list of materials names. Abseil's own header has to say the same.
_VERSION = "20240116.0"
_SHA256 = "563588c587b75c34b928bc428548e5b00ea38c46972181a4d8b75ba7e3f24231"

_BUILD = """
cc_library(
    name = "absl",
    srcs = glob(
        ["absl/%s/**/*.cc" % part for part in PARTS],
        exclude = [
            "**/*test*.cc",
            "**/*benchmark*.cc",
            "**/*mock*.cc",
            "absl/hash/internal/print_hash_of.cc",
            "absl/time/internal/cctz/testdata/**",
            "absl/debugging/failure_signal_handler.cc",
            "absl/strings/internal/pow10_helper.cc",
            "absl/synchronization/internal/*_win32.cc",
            "absl/base/internal/spinlock_benchmark.cc",
        ],
    ),
    hdrs = glob(["absl/**/*.h", "absl/**/*.inc"]),
    includes = ["."],
    copts = ["-w", "-fvisibility=hidden"],
    linkopts = ["-lpthread"],
    visibility = ["//visibility:public"],
)
"""

_PARTS = [
    "base",
    "container",
    "crc",
    "debugging",
    "hash",
    "numeric",
    "profiling",
    "status",
    "strings",
    "synchronization",
    "time",
    "types",
]

def _abseil_impl(repository_ctx):
    python = repository_ctx.os.environ.get("PYTHON_BIN_PATH") or repository_ctx.which("python3")
    fetched = repository_ctx.execute(
        [str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:", "--dest=.", _PACKAGE],
        timeout = 600,
    )
    if fetched.return_code != 0:
        fail("Abseil's sources could not be fetched (pip download %s): %s" % (_PACKAGE, fetched.stderr))
    digest = repository_ctx.execute(["sha256sum", _ARCHIVE]).stdout.split(" ")[0]
    if digest != _SHA256:
        fail("%s has sha256 %s, expected %s; remove it from pip's cache and try again." % (_ARCHIVE, digest, _SHA256))
    repository_ctx.extract(_ARCHIVE, stripPrefix = _PREFIX)
    repository_ctx.delete(_ARCHIVE)
    header = repository_ctx.read("absl/base/config.h")
    for name, number in zip(["VERSION", "PATCH_LEVEL"], _VERSION.split(".")):
        if "#define ABSL_LTS_RELEASE_%s %s\n" % (name, number) not in header:
            fail("%s holds another Abseil than %s; correct _VERSION in bazel/abseil.bzl." % (_PACKAGE, _VERSION))
    repository_ctx.file("BUILD.bazel", "PARTS = %s\n" % repr(_PARTS) + _BUILD)

abseil = repository_rule(
    implementation = _abseil_impl,
)
