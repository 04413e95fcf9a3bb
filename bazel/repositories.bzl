"""External repositories, all of them local: the distribution's packages and small stand-ins.

Bazel declares a handful of repositories of its own (rules_cc, rules_java, ...) that it would fetch from the network.
Each is given here as what the distribution installed or, where that does not fit an older Bazel, as a few lines
that hand on the native rules.
"""

load("//bazel:abseil.bzl", "abseil")
load("//bazel:pybind11.bzl", "pybind11")
load("//bazel:python.bzl", "WHEEL_PYTHONS", "python_headers", "wheel_python")
load("//bazel:sysroot.bzl", "sysroot_toolchain")
load("//bazel:system.bzl", "system_libraries")
load("//bazel:zig.bzl", "zig_toolchain")

_RULES_CC_DEFS = """
cc_binary = native.cc_binary
cc_import = native.cc_import
cc_library = native.cc_library
cc_test = native.cc_test
cc_toolchain = native.cc_toolchain
cc_toolchain_suite = native.cc_toolchain_suite
fdo_prefetch_hints = native.fdo_prefetch_hints
fdo_profile = native.fdo_profile
objc_import = native.objc_import
objc_library = native.objc_library
"""

def _write_repository_impl(repository_ctx):
    repository_ctx.file("WORKSPACE", "workspace(name = \"%s\")\n" % repository_ctx.name)
    for path, content in repository_ctx.attr.files.items():
        repository_ctx.file(path, content)

_write_repository = repository_rule(
    implementation = _write_repository_impl,
    attrs = {"files": attr.string_dict()},
)

def _installed_repository_impl(repository_ctx):
    for candidate in repository_ctx.attr.paths:
        path = repository_ctx.path(candidate)
        if path.exists:
            for entry in path.readdir():
                repository_ctx.symlink(entry, entry.basename)
            return
    repository_ctx.file("WORKSPACE", "")
    repository_ctx.file("BUILD.bazel", "")

_installed_repository = repository_rule(
    implementation = _installed_repository_impl,
    attrs = {"paths": attr.string_list()},
    local = True,
)

def mantaray_repositories():
    """Declares every external repository of the build."""
    _write_repository(
        name = "rules_cc",
        files = {"BUILD.bazel": "", "cc/BUILD.bazel": "", "cc/defs.bzl": _RULES_CC_DEFS},
    )
    _write_repository(
        name = "remote_coverage_tools",
        files = {"BUILD.bazel": "filegroup(name = \"coverage_report_generator\", visibility = [\"//visibility:public\"])\n"},
    )
    _installed_repository(name = "rules_java", paths = ["/usr/share/bazel/rules/java"])
    _installed_repository(name = "rules_proto", paths = ["/usr/share/bazel/rules/proto"])
    _installed_repository(name = "platforms", paths = ["/usr/share/bazel/tools/platforms", "/usr/share/bazel/platforms"])
    _installed_repository(name = "bazel_skylib", paths = ["/usr/share/bazel/tools/skylib"])
    abseil(name = "abseil")
    python_headers(name = "python")
    system_libraries(name = "system")
    pybind11(name = "pybind11")
    zig_toolchain(name = "zig")
    sysroot_toolchain(name = "sysroot")
    for version in WHEEL_PYTHONS:
        wheel_python(name = "python_" + version, version = version)
