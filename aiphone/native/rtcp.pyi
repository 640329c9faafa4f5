def parse(packet: bytes, our_ssrc: int) -> dict[str, int | bool]: ...
def build(
    ssrc: int,
    wall: float,
    timestamp: int,
    packets: int,
    octets: int,
    *,
    last_sr: int = 0,
    delay: float = 0.0,
    cname: bytes = b"test",
    bye: bool = False,
    sent: bool = True,
    source: tuple[int, list[int]] | None = None,
) -> bytes: ...
