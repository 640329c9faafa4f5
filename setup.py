"""Builds the Cython extensions and says what goes into the wheel. Everything else is in pyproject.toml.

The sources in ``ext/`` mirror the package path without ``__init__`` files: that is how ``cimport
aiphone.native.ring`` finds ``ext/aiphone/native/ring.pxd`` while the Python package stays in ``aiphone/``.
The page in ``web/`` goes into the wheel as ``aiphone/web``.

Environment: ``AIPHONE_DEBUG_NATIVE=1`` builds with debug counters; ``AIPHONE_WITHOUT_EXTENSIONS=1`` leaves the
extensions out, for an editable install beside ones that ``build_ext --inplace`` has built already.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, find_packages, setup

EXT = Path("ext")
DEBUG = os.environ.get("AIPHONE_DEBUG_NATIVE") == "1"
WITHOUT_EXTENSIONS = os.environ.get("AIPHONE_WITHOUT_EXTENSIONS") == "1"

compile_args = ["-O3", "-std=c11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function"]
compile_args += ["-Wno-sign-compare"]  # Cython compares enums and ints in code of its own making
if DEBUG:
    compile_args += ["-g", "-DAIPHONE_DEBUG_NATIVE"]
if sys.platform == "linux":
    compile_args.append("-D_GNU_SOURCE")


def links(header: str, call: str, *arguments: str) -> bool:
    """Whether a shared library that makes this call can be linked with these arguments."""
    compiler = os.environ.get("CC") or shutil.which("cc") or "cc"
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "probe.c")
        source.write_text(f"#include <stddef.h>\n#include <stdint.h>\n{header}\nvoid probe(void) {{ {call} }}\n")
        command = [*compiler.split(), "-fPIC", "-shared", str(source), "-o", str(Path(place, "probe.so")), *arguments]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def optional_libraries(name: str) -> dict[str, list[str]]:
    """What a module adds to its build when its library is there. Without it, it is built all the same and says so."""
    if name == "aiphone.native.srtp":
        head, call = "#include <srtp2/srtp.h>", "srtp_init();"
        config = ["pkg-config", "--static", "--libs-only-l", "libsrtp2"]
        private: list[str] = []
        if shutil.which(config[0]):
            done = subprocess.run(config, capture_output=True, text=True, check=False)
            private = [word for word in done.stdout.split() if word != "-lsrtp2"]
        for arguments in (["-l:libsrtp2.a", *private, "-Wl,--exclude-libs,ALL"], ["-lsrtp2"]):
            if links(head, call, *arguments, "-Wl,-z,defs"):
                return {"extra_compile_args": ["-DAIPHONE_WITH_SRTP"], "extra_link_args": arguments}
        sys.stderr.write("aiphone is built without SRTP: libsrtp2 was not found (Debian: libsrtp2-dev)\n")
    return {}


def extension(source: Path) -> Extension:
    """One extension for each .pyx file; its module name is its path below ``ext/``."""
    import numpy

    name = ".".join(source.relative_to(EXT).with_suffix("").parts)
    optional = optional_libraries(name)
    return Extension(
        name,
        [str(source)],
        include_dirs=[numpy.get_include(), str(source.parent)],
        extra_compile_args=[*compile_args, *optional.get("extra_compile_args", [])],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        extra_link_args=optional.get("extra_link_args", []),
        libraries=["m"] if sys.platform != "win32" else [],
        depends=[str(path) for path in source.parent.glob("*.h")],  # Cython itself follows what is cimported
    )


def extensions() -> list[Extension]:
    """Every extension, translated to C."""
    if WITHOUT_EXTENSIONS:
        return []
    from Cython.Build import cythonize

    return cythonize(
        [extension(path) for path in sorted(EXT.rglob("*.pyx"))],
        include_path=[str(EXT)],
        quiet=True,
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": True,
        },
    )


setup(
    packages=[*find_packages(include=["aiphone", "aiphone.*"]), "aiphone.web"],
    package_dir={"aiphone.web": "web"},
    ext_modules=extensions(),
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
