"""Installs the system packages that building and testing need, or prints the command that would.

    python3 tools/system_packages.py build         compilers and headers
    python3 tools/system_packages.py build test    ... and what the tests talk to: a browser, a SIP server, sounds

As root on Debian and its relatives the missing ones are installed, without starting any of their services (a SIP
server that takes port 5060 is the last thing a telephone needs). Anywhere else the command is printed and the
exit status is 0 all the same: what is missing is only felt by the step that needs it, which then says so.

Standard library only: this runs before there is an environment.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")
SOUNDS = "/usr/share/asterisk/sounds"
HEADER_PLACES = ("/usr/include", "/usr/local/include", "/opt/homebrew/include", "/opt/homebrew/opt/openssl/include")


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that is needed, how to see whether it is there, and what it is called by each package manager."""

    why: str
    debian: str
    brew: str = ""
    command: str = ""
    header: str = ""
    python_header: bool = False
    module: str = ""
    folder: str = ""

    def is_met(self) -> bool:
        """Whether this machine has it, however it came here."""
        if self.command:
            return shutil.which(self.command) is not None
        if self.header:
            return any(Path(place, self.header).is_file() for place in header_places())
        if self.python_header:
            return Path(sysconfig.get_path("include"), "Python.h").is_file()
        if self.module:
            return importlib.util.find_spec(self.module) is not None
        return Path(self.folder).is_dir()


def header_places() -> list[str]:
    """Directories that C compilers look in here, Debian's own for this architecture included."""
    multiarch = sysconfig.get_config_var("MULTIARCH")
    return [*HEADER_PLACES, *([f"/usr/include/{multiarch}"] if multiarch else [])]


NEEDS: dict[str, list[Need]] = {
    "build": [
        Need("the virtual environment", "python3-venv", module="ensurepip"),
        Need("the Python headers", "python3-dev", python_header=True),
        Need("a C compiler", "build-essential", command="cc"),
        Need("a C++ compiler", "build-essential", command="c++"),
        Need("TLS", "libssl-dev", "openssl", header="openssl/ssl.h"),
        Need("SRTP", "libsrtp2-dev", "srtp", header="srtp2/srtp.h"),
    ],
    "test": [
        Need("a browser", "chromium", command="chromium"),
        Need("the browser's driver", "chromium-driver", "chromedriver", command="chromedriver"),
        Need("a SIP registrar", "kamailio", command="kamailio"),
        Need("SIP scenarios", "sip-tester", "sipp", command="sipp"),
        Need("a telephone with SRTP", "baresip-core", "baresip", command="baresip"),
        Need("another telephone", "linphone-cli", command="linphonec"),
        Need("a third telephone", "twinkle-console", command="twinkle-console"),
        Need("a registrar with TLS", "kamailio-tls-modules", folder="/usr/share/doc/kamailio-tls-modules"),
        Need("a relay of media", "rtpengine-daemon", command="rtpengine"),
        Need("a STUN server", "coturn", "coturn", command="turnserver"),
        Need("cables between network namespaces", "iproute2", command="ip"),
        Need("a router with NAT", "iptables", command="iptables"),
        Need("a dissector of SIP and RTP", "tshark", "wireshark", command="tshark"),
        Need("audio conversion", "sox", "sox", command="sox"),
        Need("wideband speech (G.722)", "libspandsp-dev", "spandsp", header="spandsp/g722.h"),
        Need("a second voice", "espeak-ng", "espeak-ng", command="espeak-ng"),
        Need("what the recordings say", "asterisk-core-sounds-en", folder="/usr/share/doc/asterisk-core-sounds-en"),
        Need("recorded telephone speech", "asterisk-core-sounds-en-wav", folder=f"{SOUNDS}/en_US_f_Allison"),
        Need("the same in Spanish", "asterisk-core-sounds-es-wav", folder=f"{SOUNDS}/es_MX_f_Allison"),
        Need("the same in French", "asterisk-core-sounds-fr-wav", folder=f"{SOUNDS}/fr_CA_f_June"),
    ],
}


def missing(groups: Sequence[str]) -> list[Need]:
    """What the named groups need and this machine lacks."""
    return [need for group in groups for need in NEEDS[group] if not need.is_met()]


def command_for(needs: Sequence[Need], *, root: bool) -> str:
    """The command a person would type to get ``needs`` on this kind of machine; empty when there is none."""
    if shutil.which("apt-get"):
        names = sorted({need.debian for need in needs})
        return f"{'' if root else 'sudo '}apt-get install --no-install-recommends {' '.join(names)}"
    if sys.platform == "darwin":
        parts = []
        if any(need.command in {"cc", "c++"} for need in needs):
            parts.append("xcode-select --install")
        formulas = sorted({need.brew for need in needs if need.brew})
        if formulas:
            parts.append(f"brew install {' '.join(formulas)}")
        return " && ".join(parts)
    return ""


@contextmanager
def services_stay_off() -> Iterator[None]:
    """While packages are installed their services are not started (the interface is Debian's ``policy-rc.d``)."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def install(needs: Sequence[Need]) -> bool:
    """Install with apt-get, as root. Returns whether all went in."""
    names = sorted({need.debian for need in needs})
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    flags = ["-qq", "-o", "Dpkg::Use-Pty=0", "-o", "APT::Update::Error-Mode=any"]
    if subprocess.run(["apt-get", "update", *flags], env=environment, check=False).returncode != 0:
        print("system packages: apt-get update had errors; going on with the lists that are there", flush=True)
    with services_stay_off():
        command = ["apt-get", "install", "-y", "--no-install-recommends", "-qq", "-o", "Dpkg::Use-Pty=0", *names]
        return subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode == 0


def main(groups: Sequence[str]) -> int:
    """Entry point; the exit status is 0 unless the arguments are wrong."""
    unknown = [group for group in groups if group not in NEEDS]
    if unknown or not groups:
        print(f"usage: system_packages.py {' '.join(f'[{name}]' for name in NEEDS)}", file=sys.stderr)
        return 2
    needs = missing(groups)
    if not needs:
        return 0
    names = ", ".join(sorted({need.debian for need in needs}))
    root = os.geteuid() == 0
    if root and shutil.which("apt-get"):
        print(f"system packages: installing {names}", flush=True)
        if install(needs):
            return 0
        print("system packages: not all could be installed; going on without them", flush=True)
        return 0
    wanted = "; ".join(f"{need.why}" for need in needs)
    command = command_for(needs, root=root)
    how = f"Install with: {command}" if command else f"In Debian's names they are: {names}"
    print(f"system packages: missing here: {wanted}. {how}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
