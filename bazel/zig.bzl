"""A C++ toolchain for wheels: clang, libc++ and the C library's symbols of any glibc, from PyPI's package `ziglang`.

The distribution's compiler links the distribution's glibc, so that what it makes loads only on systems as new. This one links
against a description of an older glibc (2.17, which is manylinux2014), for x86-64 and for aarch64, and brings its own C++ library,
linked statically. `tools/setup dist` installs it into .venv. Chosen with --config=wheel-x86_64 or --config=wheel-aarch64 (.bazelrc).
"""

load("@bazel_tools//tools/cpp:cc_toolchain_config_lib.bzl", "feature", "flag_group", "flag_set", "tool_path", "with_feature_set")

_GLIBC = "2.17"
_TARGETS = {
    "x86_64": "x86_64-linux-gnu." + _GLIBC,
    "aarch64": "aarch64-linux-gnu." + _GLIBC,
}

_COMPILE_ACTIONS = [
    "assemble",
    "preprocess-assemble",
    "c-compile",
    "c++-compile",
    "c++-header-parsing",
]
_LINK_ACTIONS = ["c++-link-executable", "c++-link-dynamic-library", "c++-link-nodeps-dynamic-library"]

def _flags(name, actions, flags, **more):
    return feature(
        name = name,
        enabled = True,
        flag_sets = [flag_set(actions = actions, flag_groups = [flag_group(flags = flags)], **more)],
    )

def _zig_toolchain_config_impl(ctx):
    return cc_common.create_cc_toolchain_config_info(
        ctx = ctx,
        toolchain_identifier = "zig-" + ctx.attr.machine,
        host_system_name = "local",
        target_system_name = ctx.attr.machine + "-linux-gnu",
        target_cpu = "wheel-" + ctx.attr.machine,
        target_libc = "glibc-" + _GLIBC,
        compiler = "clang",
        abi_version = "local",
        abi_libc_version = "local",
        cxx_builtin_include_directories = [ctx.attr.library],
        tool_paths = [
            tool_path(name = tool, path = path)
            for tool, path in {
                "gcc": "cc-" + ctx.attr.machine,
                "cpp": "cc-" + ctx.attr.machine,
                "ld": "cc-" + ctx.attr.machine,
                "ar": "ar",
                "nm": "/bin/false",
                "objcopy": "/bin/false",
                "objdump": "/bin/false",
                "gcov": "/bin/false",
                "strip": "/bin/false",
            }.items()
        ],
        features = [
            feature(name = "opt"),
            feature(name = "supports_pic", enabled = True),
            # Sanitizing is clang's default under this driver; it would need a runtime in Ray's processes.
            _flags("defaults", _COMPILE_ACTIONS, ["-fno-sanitize=all", "-fstack-protector-strong", "-ffunction-sections", "-fdata-sections", "-g0"]),
            _flags("optimized", _COMPILE_ACTIONS, ["-O2", "-DNDEBUG"], with_features = [with_feature_set(features = ["opt"])]),
            _flags("linked", _LINK_ACTIONS, ["-Wl,--gc-sections", "-Wl,-z,relro,-z,now", "-s"]),
        ],
    )

zig_toolchain_config = rule(
    implementation = _zig_toolchain_config_impl,
    attrs = {"machine": attr.string(mandatory = True), "library": attr.string(mandatory = True)},
    provides = [CcToolchainConfigInfo],
)

# One cache for all actions and trees: the C++ library is compiled once a machine, which takes minutes.
_DRIVER = """#!/bin/sh
export ZIG_GLOBAL_CACHE_DIR='%s' ZIG_LOCAL_CACHE_DIR='%s'
exec '%s' %s "$@"
"""

_BUILD = """
load("@mantaray//bazel:zig.bzl", "zig_toolchain_config")

package(default_visibility = ["//visibility:public"])

filegroup(name = "files", srcs = glob(["*"]))

cc_toolchain_suite(
    name = "suite",
    toolchains = {"wheel-%s" % machine: ":%s" % machine for machine in MACHINES},
)

[[
    zig_toolchain_config(name = machine + "-config", machine = machine, library = LIBRARY),
    cc_toolchain(
        name = machine,
        all_files = ":files",
        ar_files = ":files",
        as_files = ":files",
        compiler_files = ":files",
        dwp_files = ":files",
        linker_files = ":files",
        objcopy_files = ":files",
        strip_files = ":files",
        supports_param_files = 1,
        toolchain_config = machine + "-config",
    ),
] for machine in MACHINES]
"""

def _zig_toolchain_impl(repository_ctx):
    python = repository_ctx.os.environ.get("PYTHON_BIN_PATH") or repository_ctx.which("python3")
    asked = repository_ctx.execute([str(python), "-c", "import os, ziglang; print(os.path.dirname(ziglang.__file__))"])
    if asked.return_code != 0:
        fail("%s has no ziglang, the compiler for wheels: run tools/setup dist." % python)
    home = asked.stdout.strip()
    home_cache = (repository_ctx.os.environ.get("XDG_CACHE_HOME") or repository_ctx.os.environ.get("HOME", "/tmp") + "/.cache")
    cache = home_cache + "/mantaray-zig"

    for name, words in [("ar", "ar")] + [("cc-" + machine, "c++ -target " + target) for machine, target in _TARGETS.items()]:
        repository_ctx.file(name, _DRIVER % (cache, cache, home + "/zig", words))
    repository_ctx.file("BUILD.bazel", "MACHINES = %s\nLIBRARY = %s\n" % (repr(_TARGETS.keys()), repr(home + "/lib")) + _BUILD)

zig_toolchain = repository_rule(
    implementation = _zig_toolchain_impl,
    environ = ["PYTHON_BIN_PATH"],
    local = True,
)
