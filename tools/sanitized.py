"""Builds the extensions a second time, with sanitizers, and runs Python programs with them.

    python tools/sanitized.py                                 build, or bring up to date
    python tools/sanitized.py -m pytest tests/unit/native     ... and run this with the sanitized extensions

The copies lie in the cache directory, under the hash of all that goes into them (compiling takes a minute), and are
found before the ordinary ones; nothing else changes. A read or write
outside an object (AddressSanitizer) or undefined behaviour (UndefinedBehaviorSanitizer) ends the process with a
report and exit status 99. The extensions are compiled with coverage callbacks too, which ``tests/fuzz/coverage.c``
receives: what is fuzzed is what is sanitized.

Works with gcc on Linux. Exit status 3 where the compiler has no sanitizers.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from build_pjsua2 import cache_directory

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "ext" / "aiphone" / "native"
COVERAGE = ROOT / "tests" / "fuzz" / "coverage.c"
FAILED = 99
CANNOT_BUILD = 3

SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
# `shift-base` is left out of what is undefined: C11 6.5.7 forbids 1 << 31, every compiler in use defines it.
C_FLAGS = ["-O1", "-g1", "-std=c11", "-D_GNU_SOURCE", "-DAIPHONE_DEBUG_NATIVE", "-Wno-unused-function"]
C_FLAGS += [*SANITIZERS, "-fno-sanitize=shift-base", "-fsanitize-coverage=trace-pc"]

RUNNER = """
import runpy, sys
import aiphone.native
aiphone.native.__path__.insert(0, sys.argv.pop(1))
sys.argv.pop(0)
if sys.argv[0] == "-m":
    sys.argv.pop(0)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def with_srtp() -> bool:
    """Whether libsrtp2 is there to be linked, so that what is encrypted is tested too."""
    if shutil.which("pkg-config") is None:
        return False
    return subprocess.run(["pkg-config", "--exists", "libsrtp2"], check=False).returncode == 0


def built() -> Path:
    """Where the build of the present sources is, or will be."""
    key = hashlib.sha256(repr([C_FLAGS, sysconfig.get_config_var("EXT_SUFFIX"), with_srtp()]).encode())
    for path in sorted([*SOURCES.glob("*.py[xd]"), *SOURCES.glob("*.h"), COVERAGE]):
        key.update(path.name.encode() + path.read_bytes())
    return cache_directory() / "sanitized" / key.hexdigest()[:16]


def library(name: str) -> str | None:
    """The compiler's own copy of a runtime library; None when it has none."""
    path = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=False).stdout
    return path.strip() if os.path.isabs(path.strip()) else None  # noqa: PTH117 - gcc answers with the bare name


def build() -> Path:
    """Compile what has changed; the directory with the extensions.

    Raises:
        SystemExit: there is no compiler with sanitizers here (3), or something does not compile.
    """
    if sys.platform != "linux" or library("libasan.so") is None or library("libubsan.so") is None:
        print("a build with sanitizers needs gcc on Linux with libasan and libubsan", file=sys.stderr)
        raise SystemExit(CANNOT_BUILD)
    place = built()
    extensions_in = place / "lib" / "aiphone" / "native"
    if (place / "complete").exists():
        return extensions_in
    if place.parent.is_dir():
        for old in place.parent.iterdir():
            shutil.rmtree(old)
    import numpy
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    os.environ["CC"] = "gcc"
    headers = [str(p) for p in [*SOURCES.glob("*.pxd"), *SOURCES.glob("*.h")]]
    secret = with_srtp()
    extensions = [
        Extension(
            f"aiphone.native.{path.stem}",
            [str(path.relative_to(ROOT))],
            include_dirs=[numpy.get_include(), str(SOURCES)],
            extra_compile_args=[*C_FLAGS, "-DAIPHONE_WITH_SRTP"] if secret else C_FLAGS,
            extra_link_args=SANITIZERS,
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            libraries=["m", "srtp2"] if secret and path.stem == "srtp" else ["m"],
            depends=headers,
        )
        for path in sorted(SOURCES.glob("*.pyx"))
    ]
    directives = {"language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True}
    directives |= {"initializedcheck": False, "embedsignature": True}
    modules = cythonize(
        extensions,
        include_path=["ext"],
        build_dir=str(place / "c"),
        quiet=True,
        compiler_directives=directives,
    )
    command = build_ext(Distribution({"name": "sanitized", "ext_modules": modules}))
    command.build_lib, command.build_temp = str(place / "lib"), str(place / "objects")
    command.parallel = os.cpu_count() or 1
    command.ensure_finalized()
    command.run()
    flags = ["-O1", "-g1", "-shared", "-fPIC", "-std=c11", "-fsanitize=address"]
    subprocess.run(["gcc", *flags, "-o", str(place / "coverage.so"), str(COVERAGE)], check=True)
    (place / "complete").touch()
    return extensions_in


def environment() -> dict[str, str]:
    """The environment in which Python can load the extensions.

    Python's own allocator would hide small overruns, and it keeps memory to its end, which is no leak.
    """
    preload = [library("libasan.so"), library("libubsan.so"), str(built() / "coverage.so")]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(path for path in preload if path),
        "ASAN_OPTIONS": f"detect_leaks=0:exitcode={FAILED}:abort_on_error=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": f"print_stacktrace=1:exitcode={FAILED}",
        "PYTHONMALLOC": "malloc",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def run(arguments: Sequence[str], extra: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run ``python ARGUMENTS`` with the sanitized extensions, output and all to this process's own."""
    command = [sys.executable, "-c", RUNNER, str(build()), *arguments]
    return subprocess.run(command, cwd=ROOT, env={**environment(), **(extra or {})}, check=False)


def main(arguments: Sequence[str]) -> int:
    """Entry point; returns the exit status of what was run."""
    if not arguments:
        print(build())
        return 0
    return run(arguments).returncode


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
