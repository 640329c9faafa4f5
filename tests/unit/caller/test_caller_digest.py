"""Digest authentication against the examples of the RFCs."""

import pytest

from aiphone.caller.digest import Challenge, Credentials, authorization, challenge_of, verify
from aiphone.caller.messages import Request, Response

NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_example_of_rfc_7616(algorithm: str, response: str) -> None:
    challenge = Challenge("http-auth@example.org", NONCE, algorithm, "auth")
    account = Credentials("Mufasa", "Circle of Life")
    value = authorization(challenge, account, "GET", "/dir/index.html", cnonce=lambda: CNONCE)
    assert f'response="{response}"' in value
    assert "qop=auth, nc=00000001" in value


def test_the_example_of_rfc_2069_without_qop() -> None:
    challenge = Challenge("testrealm@host.com", "dcd98b7102dd2f0e8b11d0f600bfb0c093")
    value = authorization(challenge, Credentials("Mufasa", "CircleOfLife"), "GET", "/dir/index.html")
    assert 'response="1949323746fe6a43ef61f9606e7febea"' in value
    assert "cnonce" not in value


@pytest.mark.parametrize("algorithm", ["MD5", "MD5-SESS", "SHA-256", "SHA-256-SESS"])
@pytest.mark.parametrize("qop", ["", "auth"])
def test_what_is_answered_is_accepted_and_nothing_else(algorithm: str, qop: str) -> None:
    challenge = Challenge("here", "n1", algorithm, qop, opaque="o")
    account = Credentials("ann", "secret")
    request = Request(method="INVITE", uri="sip:x")
    request.add("Authorization", authorization(challenge, account, "INVITE", "sip:x"))
    assert verify(request, challenge, [Credentials("bob", "secret"), account])
    assert not verify(request, challenge, [Credentials("ann", "Secret")])
    assert not verify(request, Challenge("here", "n2", algorithm, qop), [account])
    request.method = "BYE"
    assert not verify(request, challenge, [account])


def test_a_challenge_is_read_and_written() -> None:
    challenge = Challenge("re, alm", "n", "SHA-256", "auth", "opaque", stale=True)
    assert Challenge.parse(challenge.header()) == challenge
    assert Challenge.parse('digest realm="r",nonce="n",qop="auth-int,auth",algorithm=md5') == Challenge(
        "r", "n", "MD5", "auth"
    )


@pytest.mark.parametrize("value", ['Basic realm="x"', "Digest algorithm=SHA-512-256", 'Digest qop="auth-int"', ""])
def test_a_challenge_we_cannot_answer_is_none(value: str) -> None:
    assert Challenge.parse(value) is None


def test_the_first_challenge_that_can_be_answered_is_taken() -> None:
    response = Response(status=401)
    response.add("WWW-Authenticate", 'Digest realm="r", nonce="n", algorithm=SHA-512-256')
    response.add("WWW-Authenticate", 'Digest realm="r", nonce="n", algorithm=SHA-256')
    response.add("WWW-Authenticate", 'Digest realm="r", nonce="n"')
    found = challenge_of(response)
    assert found is not None
    assert (found[0].algorithm, found[1]) == ("SHA-256", "Authorization")
    proxy = Response(status=407)
    proxy.add("Proxy-Authenticate", 'Digest realm="r", nonce="n"')
    found = challenge_of(proxy)
    assert found is not None
    assert found[1] == "Proxy-Authorization"
    assert challenge_of(Response(status=401)) is None


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Credentials("ann", "secret"))
