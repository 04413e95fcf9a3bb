"""A C++ toolchain for the published relay, upon Debian's static archives of a current gRPC and all below it.

The compiler is the clang of PyPI's `ziglang` without what zig adds to it (zig.bzl has that). Headers, archives and the C library come from
a directory that `make dist` fills (tools/distribution/sysroot.py) and names in MANTARAY_RELAY_SYSROOT_<machine>. Everything is linked
statically, so that the program asks nothing of the system that it runs on. Chosen with --config=relay-x86_64 or --config=relay-aarch64.
"""

load("//bazel:zig.bzl", "toolchains_file", "ziglang_directory")

MACHINES = ["x86_64", "aarch64"]
_GCC = "14"
_ARCHIVES = ["lib%s.a" % name for name in [
    "grpc++",
    "grpc",
    "gpr",
    "address_sorting",
    "utf8_range",
    "cares",
    "re2",
    "ssl",
    "crypto",
    "z",
    "zstd",
]]

_DRIVER = """#!/bin/sh
exec '{zig}' clang --driver-mode=g++ --target={machine}-linux-gnu --sysroot='{sysroot}' -resource-dir='{home}/lib' \\
  --gcc-install-dir='{sysroot}/usr/lib/gcc/{machine}-linux-gnu/{gcc}' --ld-path="$(dirname "$0")/ld.lld" -Wno-unused-command-line-argument "$@"
"""

_GRPC = """
cc_library(name = "grpc-%s", linkopts = %s)
"""

def _grpc_linkopts(repository_ctx, sysroot, machine):
    directory = repository_ctx.path("%s/usr/lib/%s-linux-gnu" % (sysroot, machine))
    if not directory.exists:
        fail("%s does not exist: MANTARAY_RELAY_SYSROOT_%s names no directory with libraries." % (directory, machine))

    # The linker takes from an archive only what is asked for, so all of Abseil and upb may be named. (pkg-config knows which are
    # needed, and takes seconds to find out.)
    archives = sorted([entry.basename for entry in directory.readdir() if entry.basename.endswith(".a")])
    several = [name for name in archives if name.startswith("libabsl_") or name.startswith("libupb")]
    return ["-Wl,--start-group"] + ["-l:" + name for name in _ARCHIVES + several] + ["-Wl,--end-group"]

def _sysroot_toolchain_impl(repository_ctx):
    sysroots = {machine: repository_ctx.os.environ.get("MANTARAY_RELAY_SYSROOT_" + machine, "") for machine in MACHINES}
    sysroots = {machine: sysroot for machine, sysroot in sysroots.items() if sysroot}
    if not sysroots:
        fail("MANTARAY_RELAY_SYSROOT_<machine> is not set: build the published relay with `make dist`, which finds its libraries.")
    home = ziglang_directory(repository_ctx)
    for tool in ["ar", "ld.lld"]:
        repository_ctx.file(tool, "#!/bin/sh\nexec '%s/zig' %s \"$@\"\n" % (home, tool))
    for machine, sysroot in sysroots.items():
        repository_ctx.file("cc-" + machine, _DRIVER.format(
            gcc = _GCC,
            home = home,
            machine = machine,
            sysroot = sysroot,
            zig = home + "/zig",
        ))
    settings = {
        "KIND": "relay",
        "LIBC": "static",
        "LINK_FLAGS": ["-static-pie"],
        "MACHINES": {machine: [home + "/lib", sysroot] for machine, sysroot in sysroots.items()},
    }
    grpc = [_GRPC % (machine, repr(_grpc_linkopts(repository_ctx, sysroot, machine))) for machine, sysroot in sysroots.items()]
    repository_ctx.file("BUILD.bazel", toolchains_file(settings) + "".join(grpc))

sysroot_toolchain = repository_rule(
    implementation = _sysroot_toolchain_impl,
    environ = ["PYTHON_BIN_PATH"] + ["MANTARAY_RELAY_SYSROOT_" + machine for machine in MACHINES],
    local = True,
)
