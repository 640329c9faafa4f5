"""Digest authentication for SIP (RFC 3261 section 22, RFC 7616, RFC 8760): both the answer and the check of one."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from aiphone.caller.messages import Request, Response, parse_parameters, split_outside_quotes

HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


@dataclass(frozen=True, slots=True)
class Credentials:
    """User name and password of an account; the password is not shown."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One WWW-Authenticate or Proxy-Authenticate value."""

    realm: str
    nonce: str
    algorithm: str = "MD5"
    qop: str = ""
    """``"auth"`` or nothing; ``auth-int`` is not spoken."""
    opaque: str = ""
    stale: bool = False

    @classmethod
    def parse(cls, value: str) -> Challenge | None:
        """None when it is not a digest, or one with a hash or qop that we do not speak."""
        fields = _fields(value)
        if fields is None:
            return None
        algorithm = fields.get("algorithm", "MD5").upper()
        offered = [q.strip().lower() for q in fields.get("qop", "").split(",") if q.strip()]
        if algorithm.removesuffix("-SESS") not in HASHES or (offered and "auth" not in offered):
            return None
        return cls(
            fields.get("realm", ""),
            fields.get("nonce", ""),
            algorithm,
            "auth" if offered else "",
            fields.get("opaque", ""),
            fields.get("stale", "").lower() == "true",
        )

    def header(self) -> str:
        """As a header value, for the side that asks."""
        text = f'Digest realm="{self.realm}", nonce="{self.nonce}", algorithm={self.algorithm}'
        if self.qop:
            text += f', qop="{self.qop}"'
        if self.opaque:
            text += f', opaque="{self.opaque}"'
        return text + (", stale=true" if self.stale else "")


def challenge_of(response: Response) -> tuple[Challenge, str] | None:
    """The first challenge that we can answer (the server lists them best first), and the header to answer in."""
    for asked, answered in (
        ("WWW-Authenticate", "Authorization"),
        ("Proxy-Authenticate", "Proxy-Authorization"),
    ):
        for name, value in response.headers:
            if name.lower() == asked.lower():
                challenge = Challenge.parse(value)
                if challenge:
                    return challenge, answered
    return None


def authorization(
    challenge: Challenge,
    credentials: Credentials,
    method: str,
    uri: str,
    *,
    nc: int = 1,
    cnonce: Callable[[], str] = lambda: secrets.token_hex(8),
) -> str:
    """The value of Authorization or Proxy-Authorization."""
    client_nonce = cnonce() if challenge.qop or challenge.algorithm.endswith("-SESS") else ""
    count = f"{nc:08x}"
    result = _response(challenge, credentials, method, uri, count, client_nonce)
    text = (
        f'Digest username="{credentials.username}", realm="{challenge.realm}", nonce="{challenge.nonce}", '
        f'uri="{uri}", response="{result}", algorithm={challenge.algorithm}'
    )
    if client_nonce:
        text += f', cnonce="{client_nonce}"'
    if challenge.qop:
        text += f", qop={challenge.qop}, nc={count}"
    if challenge.opaque:
        text += f', opaque="{challenge.opaque}"'
    return text


def verify(request: Request, challenge: Challenge, accounts: Iterable[Credentials]) -> bool:
    """Whether a request answers ``challenge`` with the password of one of the accounts."""
    for name in ("Authorization", "Proxy-Authorization"):
        fields = _fields(request.get(name))
        if not fields or fields.get("nonce") != challenge.nonce or fields.get("realm") != challenge.realm:
            continue
        if challenge.qop and fields.get("qop") != challenge.qop:
            continue
        for account in accounts:
            if account.username == fields.get("username"):
                expected = _response(
                    challenge,
                    account,
                    request.method,
                    fields.get("uri", ""),
                    fields.get("nc", ""),
                    fields.get("cnonce", ""),
                )
                if hmac.compare_digest(expected, fields.get("response", "")):
                    return True
    return False


def _fields(value: str) -> dict[str, str] | None:
    scheme, _, rest = value.strip().partition(" ")
    return parse_parameters(split_outside_quotes(rest, ",")) if scheme.lower() == "digest" else None


def _response(challenge: Challenge, account: Credentials, method: str, uri: str, count: str, cnonce: str) -> str:
    make = HASHES[challenge.algorithm.removesuffix("-SESS")]

    def digest(*parts: str) -> str:
        return make(":".join(parts).encode()).hexdigest()

    first = digest(account.username, challenge.realm, account.password)
    if challenge.algorithm.endswith("-SESS"):
        first = digest(first, challenge.nonce, cnonce)
    second = digest(method, uri)
    if challenge.qop:
        return digest(first, challenge.nonce, count, cnonce, challenge.qop, second)
    return digest(first, challenge.nonce, second)
