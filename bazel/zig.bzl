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
        toolchain_identifier = ctx.attr.cpu,
        host_system_name = "local",
        target_system_name = ctx.attr.machine + "-linux-gnu",
        target_cpu = ctx.attr.cpu,
        target_libc = ctx.attr.libc,
        compiler = "clang",
        abi_version = "local",
        abi_libc_version = "local",
        cxx_builtin_include_directories = ctx.attr.libraries,
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
            _flags("linked", _LINK_ACTIONS, ["-Wl,--gc-sections", "-Wl,-z,relro,-z,now", "-s"] + ctx.attr.link_flags),
        ],
    )

zig_toolchain_config = rule(
    implementation = _zig_toolchain_config_impl,
    attrs = {
        "machine": attr.string(mandatory = True),
        # What --cpu chooses it with.
        "cpu": attr.string(mandatory = True),
        "libc": attr.string(mandatory = True),
        # Directories that the compiler finds headers in by itself.
        "libraries": attr.string_list(mandatory = True),
        "link_flags": attr.string_list(),
    },
    provides = [CcToolchainConfigInfo],
)

# One cache for all actions and trees: the C++ library is compiled once a machine, which takes minutes.
_DRIVER = """#!/bin/sh
export ZIG_GLOBAL_CACHE_DIR='%s' ZIG_LOCAL_CACHE_DIR='%s'
exec '%s' %s "$@"
"""

# Of a file that sets KIND ("wheel": what the names of its processors begin with), LIBC, LINK_FLAGS, and MACHINES: by machine, where its
# compiler finds headers by itself.
TOOLCHAINS = """
load("@mantaray//bazel:zig.bzl", "zig_toolchain_config")

package(default_visibility = ["//visibility:public"])

filegroup(name = "files", srcs = glob(["*"], exclude_directories = 1))

cc_toolchain_suite(
    name = "suite",
    toolchains = {"%s-%s" % (KIND, machine): ":%s" % machine for machine in MACHINES},
)

[[
    zig_toolchain_config(
        name = machine + "-config",
        cpu = "%s-%s" % (KIND, machine),
        libc = LIBC,
        libraries = libraries,
        link_flags = LINK_FLAGS,
        machine = machine,
    ),
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
] for machine, libraries in MACHINES.items()]
"""

def toolchains_file(settings):
    """Returns the text of a build file with these settings and TOOLCHAINS."""

    # A `load` has to come first.
    first, rest = TOOLCHAINS.strip().split("\n", 1)
    return "\n".join([first] + ["%s = %s" % (name, repr(value)) for name, value in settings.items()] + [rest])

def ziglang_directory(repository_ctx):
    """Returns the directory of the package `ziglang`."""
    python = repository_ctx.os.environ.get("PYTHON_BIN_PATH") or repository_ctx.which("python3")
    asked = repository_ctx.execute([str(python), "-c", "import os, ziglang; print(os.path.dirname(ziglang.__file__))"])
    if asked.return_code != 0:
        fail("%s has no ziglang, the compiler for wheels: run tools/setup dist." % python)
    return asked.stdout.strip()

def _zig_toolchain_impl(repository_ctx):
    home = ziglang_directory(repository_ctx)
    home_cache = (repository_ctx.os.environ.get("XDG_CACHE_HOME") or repository_ctx.os.environ.get("HOME", "/tmp") + "/.cache")
    cache = home_cache + "/mantaray-zig"

    for name, words in [("ar", "ar")] + [("cc-" + machine, "c++ -target " + target) for machine, target in _TARGETS.items()]:
        repository_ctx.file(name, _DRIVER % (cache, cache, home + "/zig", words))
    settings = {
        "KIND": "wheel",
        "LIBC": "glibc-" + _GLIBC,
        "LINK_FLAGS": [],
        "MACHINES": {machine: [home + "/lib"] for machine in _TARGETS},
    }
    repository_ctx.file("BUILD.bazel", toolchains_file(settings))

zig_toolchain = repository_rule(
    implementation = _zig_toolchain_impl,
    environ = ["PYTHON_BIN_PATH"],
    local = True,
)
