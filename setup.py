"""Builds the Cython extensions. Everything else about the project is in pyproject.toml.

The sources in ``ext/`` mirror the package path without ``__init__`` files: that is how ``cimport
aiphone.native.ring`` finds ``ext/aiphone/native/ring.pxd`` while the Python package stays in ``aiphone/``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

EXT = Path("ext")
DEBUG = os.environ.get("AIPHONE_DEBUG_NATIVE") == "1"

compile_args = ["-O3", "-std=c11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function"]
if DEBUG:
    compile_args += ["-g", "-DAIPHONE_DEBUG_NATIVE"]
if sys.platform == "linux":
    compile_args.append("-D_GNU_SOURCE")


def extension(source: Path) -> Extension:
    """One extension for each .pyx file; its module name is its path below ``ext/``."""
    name = ".".join(source.relative_to(EXT).with_suffix("").parts)
    return Extension(
        name,
        [str(source)],
        include_dirs=[numpy.get_include(), str(source.parent)],
        extra_compile_args=compile_args,
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        libraries=["m"] if sys.platform != "win32" else [],
        depends=[str(p) for p in [*source.parent.glob("*.pxd"), *source.parent.glob("*.h")]],
    )


setup(
    ext_modules=cythonize(
        [extension(path) for path in sorted(EXT.rglob("*.pyx"))],
        include_path=[str(EXT)],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": True,
        },
    ),
)
