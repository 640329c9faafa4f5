"""Builds pjsua2 from pjproject's source into a wheel that is not limited to four calls.

    python tools/build_pjsua2.py                 the wheel, from the cache when it was built before
    python tools/build_pjsua2.py --install       ... and installed into the Python that runs this
    python tools/build_pjsua2.py --source FILE   from a pjproject tarball or directory of yours

The wheel in the package registry is compiled with pjsip's default of ``PJSUA_MAX_CALLS 4``. This one is compiled
with ``pjsua2_config_site.h``, has the same distribution name (``pjsua2-python``), so it satisfies the same
requirement, and a local version that says what it is: ``2.17+aiphone.<recipe>.<key>``, where the key covers
the source, the configuration, the options, the Python and the platform.

Exit status: 0 and the wheel's path on standard output; 3 when this machine cannot build it, with one sentence
why on standard error. Standard library only, any Python from 3.11.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import pjproject_source
from pjproject_source import Source, SourceError

RECIPE = 1
"""Number of this recipe: raise it when the steps below change what comes out."""

DISTRIBUTION = "pjsua2-python"
CONFIG_SITE = Path(__file__).with_name("pjsua2_config_site.h")
SWIG_REQUIREMENT = "swig>=4.2"
CANNOT_BUILD = 3

# G.711 and G.722 stay: what pjsip can negotiate is what it has a codec for. The rest is media that aiphone
# does itself, or codecs whose sources Debian's copy leaves out.
CONFIGURE = [
    *("--disable-video", "--disable-sound", "--disable-resample", "--disable-small-filter", "--disable-large-filter"),
    *("--disable-speex-aec", "--disable-speex-codec", "--disable-l16-codec", "--disable-gsm-codec"),
    *("--disable-g7221-codec", "--disable-ilbc-codec", "--disable-opencore-amr", "--disable-silk", "--disable-opus"),
    *("--disable-bcg729", "--disable-lyra", "--disable-libyuv", "--disable-libwebrtc", "--disable-libwebrtc-aec3"),
    *("--disable-sdl", "--disable-ffmpeg", "--disable-v4l2", "--disable-openh264", "--disable-vpx", "--disable-upnp"),
]
C_FLAGS = "-O2 -DNDEBUG -fPIC -g0"
WRAPPER_FLAGS = ["-O1", "-DNDEBUG", "-fPIC", "-g0", "-fno-strict-aliasing", "-w"]
LIBRARY_OBJECTS = 225
"""About how many objects ``make lib`` compiles; only the progress display depends on it."""

# pjlib writes to standard output until the application has given it a log writer, and a program whose standard
# output is read by another must not start with "pjlib 2.17 for POSIX initialized".
QUIET_WRITER = """\
#include <pj/log.h>
#include <stdio.h>

PJ_DEF(void) pj_log_write(int level, const char *buffer, int len)
{
    PJ_UNUSED_ARG(len);
    if (level <= 1)
        fputs(buffer, stderr);
}
"""


class BuildError(Exception):
    """This machine cannot build the wheel; the text is one sentence that says why."""


# ----------------------------------------------------------------------------------------------- progress


class Progress:
    """One line for each stage with the time so far, and a percentage where one can be had."""

    def __init__(self, stream: IO[str], *, live: bool) -> None:
        self._stream = stream
        self._live = live
        self._start = time.monotonic()
        self._stage = ""
        self._shown = -1

    def stage(self, text: str) -> None:
        """Begin a stage."""
        if self._live and self._shown >= 0:
            self._stream.write("\n")
        self._stage, self._shown = text, -1
        self._line(text, end="\n")

    def fraction(self, done: float) -> None:
        """How far the stage is, 0 to 1. On a terminal a line that moves, elsewhere a line for each fifth."""
        percent = min(99, int(done * 100))
        step = 1 if self._live else 20
        if percent // step == self._shown // step:
            return
        self._shown = percent
        if self._live:
            bar = "#" * (percent // 4)
            self._line(f"{self._stage} [{bar:<25}] {percent:2d} %", end="\r")
        elif percent >= step:
            self._line(f"{self._stage}: {percent} %", end="\n")

    def _line(self, text: str, end: str) -> None:
        self._stream.write(f"pjsua2 [{time.monotonic() - self._start:4.0f} s] {text}{end}")
        self._stream.flush()


# ----------------------------------------------------------------------------------------------- recipe


@dataclass(frozen=True, slots=True)
class Features:
    """What this machine's headers allow."""

    tls: bool
    external_srtp: bool


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything but the source that decides what comes out."""

    number: int
    config: str
    configure: tuple[str, ...]
    features: Features
    tag: str
    """Python and platform, as in a wheel's file name."""

    def key(self) -> str:
        """Hash of the recipe."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def local_version(self, source_sha256: str) -> str:
        """Local part (PEP 440) of the wheel's version."""
        digest = hashlib.sha256(f"{self.key()} {source_sha256}".encode()).hexdigest()
        return f"aiphone.{self.number}.{digest[:8]}"


def wheel_tag() -> str:
    """``cp311-cp311-linux_x86_64`` and the like, for the Python that runs this."""
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    abi = python + ("t" if sysconfig.get_config_var("Py_GIL_DISABLED") else "")
    return f"{python}-{abi}-{re.sub(r'[-.]', '_', sysconfig.get_platform())}"


def compiler(variable: str, *fallbacks: str) -> list[str]:
    """The compiler named by the environment variable, else the first of ``fallbacks`` on the path.

    Raises:
        BuildError: there is none.
    """
    named = os.environ.get(variable, "").split()
    for candidate in (named, *([name] for name in fallbacks)):
        if candidate and shutil.which(candidate[0]):
            return candidate
    raise BuildError(f"there is no {fallbacks[0]} on this machine; install a C and C++ compiler and make")


def has_header(name: str) -> bool:
    """Whether the C compiler finds the header ``name``."""
    command = [*compiler("CC", "cc", "gcc", "clang"), "-E", "-x", "c", "-o", os.devnull, "-"]
    done = subprocess.run(command, input=f"#include <{name}>\n", text=True, capture_output=True, check=False)
    return done.returncode == 0


def recipe_for_this_machine() -> Recipe:
    """The recipe, with what can be found here.

    Raises:
        BuildError: a tool or header without which nothing can be built is missing.
    """
    for tool in ("make", "tar", "ar"):
        if shutil.which(tool) is None:
            raise BuildError(f"there is no {tool} on this machine; install a C and C++ compiler and make")
    compiler("CXX", "c++", "g++", "clang++")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise BuildError(
            f"{header} is missing; install the headers of Python {platform.python_version()} (python3-dev)"
        )
    features = Features(tls=has_header("openssl/ssl.h"), external_srtp=has_header("srtp2/srtp.h"))
    config = CONFIG_SITE.read_text(encoding="utf-8")
    return Recipe(RECIPE, config, tuple(CONFIGURE), features, wheel_tag())


# ----------------------------------------------------------------------------------------------- cache


def cache_directory() -> Path:
    """Where built wheels are kept: ``$XDG_CACHE_HOME/aiphone``, ``~/.cache/aiphone`` without it."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "aiphone"


def cached(wheels: Path, recipe: Recipe | None, source_sha256: str | None) -> Path | None:
    """The newest wheel of this recipe, and of this source when one is named.

    Without a recipe (no compiler here any more) any wheel of ours for this Python and platform will do.
    """
    found: list[tuple[float, Path]] = []
    for note in wheels.glob("pjsua2_python-*.whl.json"):
        wheel = note.with_suffix("")
        try:
            fact = json.loads(note.read_text(encoding="utf-8"))
            age = wheel.stat().st_mtime
        except (OSError, ValueError):
            continue
        if fact.get("tag") != wheel_tag() or (recipe and fact.get("recipe") != recipe.key()):
            continue
        if source_sha256 is None or fact.get("source") == source_sha256:
            found.append((age, wheel))
    return max(found)[1] if found else None


@contextmanager
def only_one(cache: Path) -> Iterator[None]:
    """Hold the cache's lock: two builds at once would only take twice as long."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "pjsua2.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ----------------------------------------------------------------------------------------------- build


class Build:
    """One build: a temporary directory, a log, and the steps in order."""

    def __init__(self, recipe: Recipe, source: Source, work: Path, log: Path, progress: Progress, jobs: int) -> None:
        self._recipe = recipe
        self._source = source
        self._work = work
        self._log = log
        self._progress = progress
        self._jobs = jobs
        self._environment = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
        self._environment |= {"LC_ALL": "C", "CFLAGS": C_FLAGS, "CXXFLAGS": C_FLAGS}

    def run(self, wheels: Path) -> Path:
        """All steps; returns the finished wheel in ``wheels``.

        Raises:
            BuildError: a step failed.
        """
        self._progress.stage("unpacking the source")
        tree = self._unpack()
        version = read_version(tree)
        self._progress.stage(f"configuring pjproject {version} ({self._feature_text()})")
        self._configure(tree)
        self._progress.stage("installing swig in a build environment")
        swig = self._swig()
        self._progress.stage("compiling the libraries and the Python binding")
        extension, module = self._compile(tree, swig)
        self._progress.stage("packing the wheel")
        self._strip(extension)
        full = f"{version}+{self._recipe.local_version(self._source.sha256)}"
        target = wheels / f"pjsua2_python-{full}-{self._recipe.tag}.whl"
        licence = tree / "COPYING"
        write_wheel(target, full, self._recipe.tag, [extension, module], licence)
        return target

    def _feature_text(self) -> str:
        features = self._recipe.features
        return f"TLS {'yes' if features.tls else 'no'}, SRTP {'yes' if features.external_srtp else 'no'}"

    def _unpack(self) -> Path:
        if self._source.path.is_dir():
            tree = self._work / "pjproject"
            shutil.copytree(self._source.path, tree, symlinks=True, ignore=shutil.ignore_patterns(".git", "*.o", "*.a"))
        else:
            unpacked = self._work / "source"
            unpacked.mkdir()
            try:
                self._step("tar", "-xf", str(self._source.path), "-C", str(unpacked))
            except BuildError as error:
                raise BuildError(f"{self._source.path} cannot be unpacked ({error})") from error
            markers = list(unpacked.glob("version.mak")) + list(unpacked.glob("*/version.mak"))
            if not markers:
                raise BuildError(f"{self._source.path} is not a pjproject tarball: it has no version.mak")
            tree = markers[0].parent
        (tree / "pjlib/include/pj/config_site.h").write_text(self._recipe.config, encoding="utf-8")
        (tree / "pjlib/src/pj/log_writer_stdout.c").write_text(QUIET_WRITER, encoding="utf-8")
        # Named in a Makefile, used only with a sound device of one vendor, and left out of Debian's copy.
        (tree / "pjmedia/src/pjmedia-audiodev/bdimad_dev.c").touch()
        return tree

    def _configure(self, tree: Path) -> None:
        options = list(self._recipe.configure)
        if sys.platform == "linux":
            options.append("--enable-epoll")
        if not self._recipe.features.tls:
            options.append("--disable-ssl")
        if self._recipe.features.external_srtp:
            options.append("--with-external-srtp")
        elif not (tree / "third_party/srtp").is_dir():
            options.append("--disable-libsrtp")
        self._step("./aconfigure", *options, cwd=tree)

    def _swig(self) -> Path:
        environment = self._work / "swig"
        try:
            venv.create(environment, with_pip=True)
        except (subprocess.CalledProcessError, OSError) as error:
            raise BuildError(f"a virtual environment could not be made ({error}); install python3-venv") from error
        self._step(str(environment / "bin/python"), "-m", "pip", "install", "--quiet", SWIG_REQUIREMENT)
        return environment / "bin/swig"

    def _compile(self, tree: Path, swig: Path) -> tuple[Path, Path]:
        """The static libraries and the wrapper, which is one big file, side by side."""
        binding = tree / "pjsip-apps/src/swig/python"
        includes = [f"-I{tree / part / 'include'}" for part in ("pjlib", "pjlib-util", "pjnath", "pjmedia", "pjsip")]
        wrapper = binding / "pjsua2_wrap.cpp"
        self._step(
            *(str(swig), *includes, "-c++", "-w312", "-threads", "-python", "-o", str(wrapper), "../pjsua2.i"),
            cwd=binding,
        )
        make_flags = (binding, "cflags"), (binding, "libs"), (binding, "ldflags")
        defines, libraries, link = (self._make_list(*flag) for flag in make_flags)
        cxx = compiler("CXX", "c++", "g++", "clang++")
        compiled = wrapper.with_suffix(".o")
        python = f"-I{sysconfig.get_path('include')}"
        wanted = [flag for flag in defines if flag.startswith(("-D", "-I"))]
        with self._log.open("ab") as log:
            command = [*cxx, *WRAPPER_FLAGS, *wanted, python, "-c", str(wrapper), "-o", str(compiled)]
            log.write((" ".join(command) + "\n").encode())
            log.flush()
            side = subprocess.Popen(command, stdout=log, stderr=log, cwd=binding, env=self._environment)
            try:
                self._make_libraries(tree)
                if side.wait() != 0:
                    raise BuildError("the Python binding did not compile")
            finally:
                if side.poll() is None:
                    side.kill()
                    side.wait()
        extension = self._work / f"_pjsua2{sysconfig.get_config_var('EXT_SUFFIX')}"
        shared = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
        self._step(*cxx, *shared, str(compiled), *link, *(f"-l{name}" for name in libraries), "-o", str(extension))
        return extension, binding / "pjsua2.py"

    def _make_libraries(self, tree: Path) -> None:
        # One process for the wrapper is running beside this one.
        command = ["make", f"-j{max(1, self._jobs - 1)}", "lib"]
        compiled = 0
        with self._log.open("ab") as log:
            make = subprocess.Popen(
                command, cwd=tree, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            assert make.stdout is not None
            for line in make.stdout:
                log.write(line)
                if re.search(rb"-c -o \S+\.o", line):
                    compiled += 1
                    self._progress.fraction(compiled / LIBRARY_OBJECTS)
            if make.wait() != 0:
                raise BuildError("pjproject's libraries did not compile")

    def _make_list(self, binding: Path, target: str) -> list[str]:
        command = ["make", "--no-print-directory", "-f", "helper.mak", target]
        done = subprocess.run(command, cwd=binding, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"pjproject's build settings could not be read ({done.stderr.strip()[-200:]})")
        return done.stdout.split()

    def _strip(self, extension: Path) -> None:
        if shutil.which("strip"):
            self._step("strip", *(["-x"] if sys.platform == "darwin" else ["--strip-unneeded"]), str(extension))

    def _step(self, *command: str, cwd: Path | None = None) -> None:
        with self._log.open("ab") as log:
            log.write(f"\n$ {' '.join(command)}\n".encode())
            log.flush()
            done = subprocess.run(
                command, cwd=cwd or self._work, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                check=False,
            )  # fmt: skip
        if done.returncode != 0:
            raise BuildError(f"{Path(command[0]).name} ended with status {done.returncode}")


def read_version(tree: Path) -> str:
    """pjproject's version, from ``version.mak``: ``2.17``, ``2.17.1``; a suffix such as ``-dev`` becomes ``.dev0``."""
    text = (tree / "version.mak").read_text(encoding="utf-8")
    parts = {name: value.strip() for name, value in re.findall(r"PJ_VERSION_(\w+)\s*:=(.*)", text)}
    numbers = [parts.get(name, "") for name in ("MAJOR", "MINOR", "REV")]
    if not all(number.isdigit() for number in numbers[:2]):
        raise BuildError("pjproject's version.mak names no version")
    version = ".".join(number for number in numbers if number)
    return version + (".dev0" if parts.get("SUFFIX") else "")


def write_wheel(target: Path, version: str, tag: str, files: Sequence[Path], licence: Path) -> None:
    """Write a wheel (PEP 427) with ``files`` at its top; it appears under its name when it is whole."""
    info = f"pjsua2_python-{version}.dist-info"
    metadata = (
        f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {version}\n"
        "Summary: Python binding of the pjsip SIP stack, built without the limit of four calls\n"
        "License: GPL-2.0-or-later\n"
    )
    wheel = f"Wheel-Version: 1.0\nGenerator: aiphone\nRoot-Is-Purelib: false\nTag: {tag}\n"
    contents = [(file.name, file.read_bytes()) for file in files]
    if licence.is_file():
        contents.append((f"{info}/COPYING", licence.read_bytes()))
    contents += [(f"{info}/METADATA", metadata.encode()), (f"{info}/WHEEL", wheel.encode())]
    record = ""
    for name, data in contents:
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    record += f"{info}/RECORD,,\n"
    contents.append((f"{info}/RECORD", record.encode()))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if name.endswith(".so") else 0o644) << 16
            archive.writestr(entry, data)
    part.replace(target)


# ----------------------------------------------------------------------------------------------- command


def obtain(arguments: argparse.Namespace, progress: Progress, log: Path) -> Path:
    """The wheel: from the cache, or built.

    Raises:
        BuildError, SourceError: it could not be built here.
    """
    wheels = cache_directory() / "wheels"
    try:
        recipe = recipe_for_this_machine()
    except BuildError:
        usable = cached(wheels, None, None) if arguments.source is None else None
        if usable is None:
            raise
        return usable
    source = pjproject_source.given(arguments.source) if arguments.source else None
    with only_one(cache_directory()):
        done = cached(wheels, recipe, source.sha256 if source else None)
        if done is not None and not arguments.force:
            return done
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        with tempfile.TemporaryDirectory(prefix="aiphone-pjsua2-") as name:
            work = Path(name)
            if source is None:
                progress.stage("getting the source of pjproject")
                source = pjproject_source.find(work, lambda text: _append(log, text))
            wheel = Build(recipe, source, work, log, progress, arguments.jobs).run(wheels)
        note = {"recipe": recipe.key(), "tag": recipe.tag, "source": source.sha256, "origin": source.origin}
        wheel.with_name(wheel.name + ".json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
        progress.stage(f"done: {wheel.name}")
        return wheel


def _append(log: Path, text: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def install(wheel: Path) -> None:
    """Install the wheel into the Python that runs this, unless this very build is in place already.

    Raises:
        BuildError: pip could not.
    """
    version = wheel.name.split("-")[1]
    ask = f"from importlib.metadata import version; print(version({DISTRIBUTION!r}))"
    present = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False).stdout.strip()
    if present == version:
        return
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--force-reinstall",
        str(wheel),
    ]
    if subprocess.run(pip, stdout=sys.stderr, check=False).returncode != 0:
        raise BuildError(f"pip could not install {wheel}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build a pjsua2 wheel that is not limited to four calls.")
    parser.add_argument("--source", type=Path, metavar="PATH", help="pjproject tarball or directory to build from")
    parser.add_argument("--install", action="store_true", help="install the wheel into the Python that runs this")
    parser.add_argument("--force", action="store_true", help="build even when the cache has it")
    parser.add_argument(
        "-j", "--jobs", type=int, default=os.cpu_count() or 1, help="compilers at once (default: all cores)"
    )
    return parser.parse_args(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parse(argv)
    log = cache_directory() / "logs" / "pjsua2-build.log"
    progress = Progress(sys.stderr, live=sys.stderr.isatty())
    try:
        wheel = obtain(arguments, progress, log)
        if arguments.install:
            install(wheel)
    except (BuildError, SourceError) as error:
        place = f" The whole log is in {log}." if log.is_file() and log.stat().st_size else ""
        sys.stderr.write(f"pjsua2 cannot be built here: {error}.{place}\n")
        return CANNOT_BUILD
    except KeyboardInterrupt:
        sys.stderr.write("\npjsua2: stopped; nothing was installed.\n")
        return 130
    print(wheel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
