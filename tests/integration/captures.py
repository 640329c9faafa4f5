"""What goes over the wire in a test, and what tshark finds wrong with our part of it.

    with Capture(folder / "calls.pcap") as capture:
        ...  # calls, with our agent at sip_port
        capture.check(sip_ports=[sip_port], ours=[sip_port], least={"sip": 10, "rtp": 300})

Packets are ours by their address, where the other side is another machine; on loopback by their port: that of SIP,
and those that our session descriptions name. SRTP shows as RTP with a payload that cannot be read. SIP over TLS is
read with the private key of the server, which a server gives away as long as it has RSA exchange the keys.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pytest

_FIELDS = (
    "frame.number", "frame.protocols", "ip.src", "ipv6.src", "udp.srcport", "tcp.srcport", "tcp.dstport",
    "sdp.media.port", "sdp.media.proto", "_ws.malformed", "_ws.expert.severity", "_ws.expert.message", "_ws.col.Info",
)  # fmt: skip
_ERROR = 0x800000
"""``PI_ERROR``, the gravest of tshark's severities."""
_START = 10.0


@dataclass(frozen=True, slots=True)
class Tls:
    """A server whose TLS can be read."""

    port: int
    key: Path
    """Its private key, PEM; the certificate may be in the same file."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One that tshark takes for SIP, RTP or RTCP, or for broken."""

    number: str
    protocols: frozenset[str]
    source: str
    from_port: int
    to_port: int
    """Of TCP."""
    media_ports: tuple[int, ...]
    """Of the session description in it."""
    media_kinds: tuple[str, ...]
    """``RTP/AVP`` and the like."""
    complaint: str
    """What is wrong with it; empty when nothing is."""
    summary: str


def _numbers(text: str) -> list[int]:
    return [int(one, 0) for one in text.split(",") if one]


def _packet(line: str) -> Packet:
    values = dict(zip(_FIELDS, line.split("\t", len(_FIELDS) - 1), strict=True))
    grave = [one for one in _numbers(values["_ws.expert.severity"]) if one >= _ERROR]
    wrong = "malformed: " * bool(values["_ws.malformed"]) + values["_ws.expert.message"] * bool(grave)
    ports = _numbers(values["udp.srcport"]) + _numbers(values["tcp.srcport"])
    return Packet(
        number=values["frame.number"],
        protocols=frozenset(values["frame.protocols"].split(":")),
        source=values["ip.src"] or values["ipv6.src"],
        from_port=ports[0] if ports else 0,
        to_port=next(iter(_numbers(values["tcp.dstport"])), 0),
        media_ports=tuple(_numbers(values["sdp.media.port"])),
        media_kinds=tuple(values["sdp.media.proto"].split(",")),
        complaint=wrong,
        summary=values["_ws.col.Info"],
    )


class Capture:
    """dumpcap on this network namespace, as long as the ``with`` block. Skips the test where it may not capture."""

    def __init__(self, path: Path, interface: str = "lo") -> None:
        tshark, dumpcap = shutil.which("tshark"), shutil.which("dumpcap")
        if tshark is None or dumpcap is None:
            pytest.skip("there is no tshark, or no dumpcap (Debian: tshark)")
        self._tshark, self._dumpcap = tshark, dumpcap
        self._path, self._interface = path, interface

    def __enter__(self) -> Capture:
        self._process = subprocess.Popen(
            [self._dumpcap, "-q", "-i", self._interface, "-f", "udp or tcp", "-w", str(self._path)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line)
            if line.startswith("File:"):
                break
        else:
            self._end()
            pytest.skip(f"dumpcap may not capture here: {''.join(said)}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._end()

    def _end(self) -> None:
        self._process.wait(_START)
        assert self._process.stderr is not None
        self._process.stderr.close()

    def wait_for(self, data: bytes) -> None:
        """Until a packet with this in it is in the file: what is captured gets there a moment later."""
        deadline = time.monotonic() + _START
        while data not in self._path.read_bytes():
            assert time.monotonic() < deadline, f"{data!r} is not in {self._path}"
            time.sleep(0.02)

    def packets(self, sip_ports: Collection[int], tls: Tls | None = None) -> list[Packet]:
        """SIP (at these ports), RTP and RTCP so far, and what tshark takes for broken."""
        known = [part for port in sip_ports for kind in ("udp", "tcp") for part in ("-d", f"{kind}.port=={port},sip")]
        if tls is not None:
            known += ["-o", f'uat:rsa_keys:"{tls.key}",""']
            known += ["-d", f"tcp.port=={tls.port},tls", "-d", f"tls.port=={tls.port},sip"]
        wanted = "sip || rtp || rtcp || _ws.malformed"
        fields = [part for name in _FIELDS for part in ("-e", name)]
        done = subprocess.run(
            [self._tshark, "-n", "-r", str(self._path), *known, "-Y", wanted,
             "-T", "fields", *fields],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        # A packet that is being written at the end is none yet.
        assert done.returncode == 0 or "cut short" in done.stderr, done.stderr
        lines: list[str] = []
        for line in done.stdout.split("\n"):
            if lines and line.count("\t") < len(_FIELDS) - 1:
                lines[-1] += line  # the last field may quote what a packet holds, line ends among it
            else:
                lines.append(line)
        return [_packet(line) for line in lines if line]

    def check(
        self,
        *,
        sip_ports: Collection[int],
        ours: Collection[int | str],
        least: Mapping[str, int],
        servers: Collection[int] = (),
        tls: Tls | None = None,
    ) -> None:
        """Nothing of ours is malformed or an error to tshark, and there is as much of each protocol as expected.

        ``ours`` are ports of SIP, or addresses; ``servers`` are ports that only we connect to by TCP.
        """
        packets = self.packets(sip_ports, tls)
        said = [packet for packet in packets if _is_of(packet, ours) or packet.to_port in servers]
        media = {port + more for packet in said for port in packet.media_ports if port for more in (0, 1)}
        mine = {packet.number: packet for packet in said}
        mine |= {packet.number: packet for packet in packets if packet.from_port in media and not packet.to_port}
        wrong = [
            f"{packet.number}: {packet.complaint} ({packet.summary})" for packet in mine.values() if packet.complaint
        ]
        assert not wrong, f"malformed, says tshark: {wrong}"
        counts = Counter(name for packet in mine.values() for name in packet.protocols)
        short = {name: counts[name] for name, number in least.items() if counts[name] < number}
        assert short == {}, f"less than {least} of ours in {self._path}: {counts}"


def _is_of(packet: Packet, ours: Collection[int | str]) -> bool:
    return packet.from_port in ours or packet.source in ours
