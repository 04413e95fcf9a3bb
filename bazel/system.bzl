"""C++ libraries of the distribution: pybind11, GoogleTest, Google Benchmark.

Headers lie in the compiler's own search path; only the linking has to be said.
"""

def _system_libraries_impl(repository_ctx):
    repository_ctx.file("BUILD.bazel", """
package(default_visibility = ["//visibility:public"])
cc_library(name = "gtest", linkopts = ["-l:libgmock_main.a", "-l:libgmock.a", "-l:libgtest.a", "-lpthread"])
cc_library(name = "benchmark", linkopts = ["-lbenchmark", "-lpthread"])
cc_library(name = "pybind11")
""")

system_libraries = repository_rule(
    implementation = _system_libraries_impl,
    local = True,
)
