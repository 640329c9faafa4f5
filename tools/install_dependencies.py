"""Installs what pyproject.toml asks for into the environment that runs this.

    .venv/bin/python tools/install_dependencies.py            what running needs
    .venv/bin/python tools/install_dependencies.py test       ... and an extra

Two things that plain ``pip install`` does not do: a package that only comes as source and takes minutes to
compile (llama-cpp-python) is built once into the cache directory, apart for each kind of processor, and found
there by every later environment; and pip's stream of lines becomes one line that moves.

Standard library only: it runs in an empty environment.
"""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from build_pjsua2 import cache_directory

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = Path(__file__).with_name("constraints.txt")
BUILT_HERE = ("llama-cpp-python",)
"""Distributions that have no wheels in the registry, compiled for the processor they are built on."""

INTERESTING = re.compile(r"^\s*(Collecting|Downloading|Building|Installing collected|Using cached|ERROR|error)")


def processor_key(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Names the kind of processor: a wheel compiled for one may stop with SIGILL on another."""
    features = platform.machine()
    if cpuinfo.is_file():
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
        match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
        features += " ".join(sorted(match[1].split())) if match else ""
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def requirements(extras: Sequence[str], pyproject: Path = ROOT / "pyproject.toml") -> list[str]:
    """What building in place, running and the named extras ask for.

    Raises:
        KeyError: pyproject.toml has no such extra.
    """
    table = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    wanted = [*table["build-system"]["requires"], *table["project"]["dependencies"]]
    for extra in extras:
        wanted += table["project"]["optional-dependencies"][extra]
    return list(dict.fromkeys(wanted))


def name_of(requirement: str) -> str:
    """``llama-cpp-python`` of ``llama-cpp-python>=0.3.30``."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


def has_wheel(directory: Path, requirement: str) -> bool:
    """Whether the cache has a wheel for a requirement, of the version that the constraints pin."""
    name = name_of(requirement)
    pins = dict(
        line.split("==")
        for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines()
        if re.match(r"[a-z].*==", line)
    )
    pattern = f"{name.replace('-', '_')}-{pins.get(name, '*').strip()}-*.whl"
    return any(directory.glob(pattern))


def pip(*arguments: str, what: str) -> None:
    """Run pip, showing one moving line on a terminal and a line for each package elsewhere.

    Raises:
        SystemExit: pip failed; its own words have been printed.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "--progress-bar", "off"]
    live = sys.stdout.isatty()
    print(f"{what} ...", flush=True)
    start = time.monotonic()
    kept: list[str] = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        kept.append(line)
        text = line.strip()
        if not INTERESTING.match(text):
            continue
        if live:
            print(f"\r\x1b[K  [{time.monotonic() - start:4.0f} s] {text[:100]}", end="", flush=True)
        elif text.startswith(("Building wheel", "Installing collected")):
            print(f"  [{time.monotonic() - start:4.0f} s] {text.split(':')[0]}", flush=True)
    if live:
        print("\r\x1b[K", end="", flush=True)
    if process.wait() != 0:
        sys.stdout.write("".join(kept[-60:]))
        raise SystemExit(f"{what}: pip failed with status {process.returncode}; its last lines are above")


def main(extras: Sequence[str]) -> int:
    """Entry point; returns the exit status."""
    wanted = requirements(extras)
    wheels = cache_directory() / "wheels"
    native = wheels / processor_key()
    native.mkdir(parents=True, exist_ok=True)
    common = ["--constraint", str(CONSTRAINTS), "--find-links", str(wheels), "--find-links", str(native)]
    for requirement in wanted:
        if name_of(requirement) in BUILT_HERE and not has_wheel(native, requirement):
            what = f"building {requirement} for this processor (once; several minutes)"
            pip("wheel", "--no-deps", "--wheel-dir", str(native), *common, requirement, what=what)
    pip("install", *common, *wanted, what="installing Python packages")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
