"""C++ libraries of the distribution: pybind11, GoogleTest, Google Benchmark, gRPC with all it needs.

Headers lie in the compiler's own search path; only the linking has to be said. gRPC goes statically into programs that
travel in a wheel: the list of its libraries is pkg-config's, each replaced by its archive where there is one. They are
compiled for executables (PIE), not for extension modules. The gRPC of the distribution is built upon the distribution's Abseil,
whose headers its own headers include: what includes gRPC must not see another Abseil (see abseil.bzl), and links this one.
The published relay is linked with a current gRPC instead (see sysroot.bzl).
"""

# Of the C library and the compiler; these stay as they are.
_NOT_ARCHIVED = ["atomic", "c", "dl", "m", "pthread", "rt"]

def _grpc_libraries(repository_ctx, *options):
    if not repository_ctx.which("pkg-config"):
        return None
    asked = repository_ctx.execute(["pkg-config", "--libs-only-l", "grpc++"] + list(options))
    if asked.return_code != 0:
        return None
    return asked.stdout.strip().split(" ")

def _grpc_linkopts(repository_ctx):
    libraries = _grpc_libraries(repository_ctx, "--static")
    if libraries == None:
        return None
    compiler = repository_ctx.os.environ.get("CC", "cc")
    archives = {}
    for word in libraries:
        name = word[len("-l"):]
        if not word.startswith("-l") or name in archives or name in _NOT_ARCHIVED:
            continue
        found = repository_ctx.execute([compiler, "-print-file-name=lib%s.a" % name]).stdout.strip()
        archives[name] = "-l:lib%s.a" % name if found.startswith("/") else "-l" + name
    return ["-Wl,--start-group"] + archives.values() + ["-Wl,--end-group", "-ldl", "-lrt", "-lpthread"]

def _system_libraries_impl(repository_ctx):
    grpc = _grpc_linkopts(repository_ctx)
    if grpc == None:
        # Said when something that needs it is built, not before.
        grpc = ["-l:gRPC-is-missing--install-libgrpc++-dev-and-pkg-config"]

    # TSan can leave out what a shared library does that was not built for it, but not what an archive does.
    shared = {library: None for library in _grpc_libraries(repository_ctx) or grpc}.keys()
    repository_ctx.file("BUILD.bazel", """
package(default_visibility = ["//visibility:public"])
cc_library(name = "gtest", linkopts = ["-l:libgmock_main.a", "-l:libgmock.a", "-l:libgtest.a", "-lpthread"])
cc_library(name = "benchmark", linkopts = ["-lbenchmark", "-lpthread"])
cc_library(name = "pybind11")
# For tests: protobuf's own parser as the judge of ours.
cc_library(name = "protobuf", linkopts = ["-l:libprotobuf.a", "-lpthread"])
config_setting(name = "shared_grpc", define_values = {"mantaray_shared_grpc": "1"})
[config_setting(name = "relay_" + machine, values = {"cpu": "relay-" + machine}) for machine in ["x86_64", "aarch64"]]
cc_library(
    name = "grpc",
    linkopts = select({":shared_grpc": %s, ":relay_x86_64": [], ":relay_aarch64": [], "//conditions:default": %s}),
    deps = select({
        ":relay_x86_64": ["@sysroot//:grpc-x86_64"],
        ":relay_aarch64": ["@sysroot//:grpc-aarch64"],
        "//conditions:default": [],
    }),
)
""" % (repr(shared), repr(grpc)))

system_libraries = repository_rule(
    implementation = _system_libraries_impl,
    environ = ["CC", "PATH"],
    local = True,
)
