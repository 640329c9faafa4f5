from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiphone.errors import SipError
from aiphone.sip.sdp import (
    MAX_LENGTH,
    MAX_MEDIA,
    SdpError,
    acceptable,
    codecs,
    has_comfort_noise,
    parse,
    remote_audio,
    rewrite_local,
)

HEAD = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
OFFER = HEAD + (
    "m=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=sendrecv\r\n"
)
PJSUA = (
    "v=0\r\no=- 4004 4005 IN IP4 127.0.0.1\r\ns=pjmedia\r\nb=AS:151\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\nc=IN IP4 127.0.0.1\r\na=rtpmap:96 H264/90000\r\n"
    "m=audio 4000 RTP/AVP 3 0 8 120\r\nc=IN IP4 127.0.0.1\r\nb=TIAS:64000\r\na=rtcp:4001 IN IP4 127.0.0.1\r\n"
    "a=sendonly\r\na=rtpmap:3 GSM/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n"
    "a=rtpmap:120 telephone-event/8000\r\na=fmtp:120 0-16\r\na=ssrc:1 cname:x\r\n"
    "m=audio 4002 RTP/AVP 0 8\r\nc=IN IP4 127.0.0.1\r\na=rtpmap:0 PCMU/8000\r\n"
)


def test_reading_an_ordinary_offer():
    audio = remote_audio(OFFER)
    assert audio is not None
    assert (audio.host, audio.port, audio.rtcp_port) == ("192.0.2.1", 4000, 4001)
    assert audio.codecs == (("PCMU", 0), ("PCMA", 8))
    assert audio.dtmf_payload_type == 101
    assert (audio.direction, audio.ptime_ms, audio.rtcp_mux, audio.held) == ("sendrecv", 20, False, False)


@pytest.mark.parametrize(
    ("lines", "name", "value"),
    [
        ("a=ptime:30\r\n", "ptime_ms", 30),
        ("a=ptime:60\r\na=maxptime:40\r\n", "ptime_ms", 40),
        ("a=ptime:0\r\n", "ptime_ms", 20),
        ("a=ptime:nine\r\n", "ptime_ms", 20),
        ("a=rtcp:5005\r\n", "rtcp_port", 5005),
        ("a=rtcp:5005 IN IP4 192.0.2.9\r\n", "rtcp_port", 5005),
        ("a=rtcp:99999\r\n", "rtcp_port", 4001),
        ("a=rtcp-mux\r\n", "rtcp_mux", True),
        ("c=IN IP4 192.0.2.7\r\n", "host", "192.0.2.7"),
        ("c=IN IP4 0.0.0.0\r\n", "held", True),
        ("c=IN IP6 2001:db8::1\r\n", "host", "2001:db8::1"),
        ("c=IN IP4 224.2.1.1/127\r\n", "host", "224.2.1.1"),
        ("a=inactive\r\n", "direction", "inactive"),
        ("a=RecvOnly\r\n", "direction", "recvonly"),
    ],
)
def test_reading_single_lines(lines, name, value):
    assert getattr(remote_audio(HEAD + "m=audio 4000 RTP/AVP 0\r\n" + lines), name) == value


def test_session_direction_counts_where_the_media_has_none():
    assert remote_audio(HEAD + "a=sendonly\r\nm=audio 4000 RTP/AVP 0\r\n").direction == "sendonly"


def test_own_payload_types_of_the_other_side():
    text = HEAD + "m=audio 4000 RTP/AVP 97 96\r\na=rtpmap:97 pcma/8000/1\r\na=rtpmap:96 Telephone-Event/8000\r\n"
    audio = remote_audio(text)
    assert audio.codecs == (("PCMA", 97),)
    assert audio.dtmf_payload_type == 96


@pytest.mark.parametrize("rtpmap", ["PCMU/16000", "PCMU/8000/2", "L16/8000", "", "/"])
def test_a_static_number_that_means_something_else(rtpmap):
    assert remote_audio(HEAD + f"m=audio 4000 RTP/AVP 0\r\na=rtpmap:0 {rtpmap}\r\n").codecs == ()


def test_the_first_open_audio_line_counts():
    text = HEAD + "m=video 4 RTP/AVP 96\r\nm=audio 0 RTP/AVP 0\r\nm=audio 4002/2 RTP/AVP 8\r\n"
    assert (remote_audio(text).index, remote_audio(text).port) == (2, 4002)
    assert remote_audio(HEAD) is None
    assert remote_audio(HEAD + "m=audio x RTP/AVP 0\r\n") is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", True), (" \r\n", True), (OFFER, True), (HEAD, False), ("rubbish", False),
        (HEAD + "m=audio 4000 RTP/AVP 18\r\n", False),
        (HEAD + "m=audio 4000 RTP/AVP 101\r\na=rtpmap:101 telephone-event/8000\r\n", False),
    ],
)  # fmt: skip
def test_acceptable_offers(text, answer):
    assert acceptable(text) is answer


@pytest.mark.parametrize(
    "text",
    ["", "x", "m=audio 1 RTP/AVP 0", "v=0\r\n" + "a=x\r\n" * 600, "v=0\r\n" + "a" * MAX_LENGTH,
     "v=0\r\n" + "m=audio 1 RTP/AVP 0\r\n" * (MAX_MEDIA + 1)],
)  # fmt: skip
def test_what_is_no_description_or_too_much(text):
    with pytest.raises(SdpError) as raised:
        parse(text)
    assert isinstance(raised.value, SipError)


def test_our_description_points_at_our_socket():
    text = rewrite_local(PJSUA, "198.51.100.7", 30000)
    assert text == (
        "v=0\r\no=- 4004 4005 IN IP4 198.51.100.7\r\ns=pjmedia\r\nb=AS:151\r\nt=0 0\r\n"
        "m=video 0 RTP/AVP 96\r\nc=IN IP4 198.51.100.7\r\na=rtpmap:96 H264/90000\r\n"
        "m=audio 30000 RTP/AVP 0 8 13 120\r\nc=IN IP4 198.51.100.7\r\nb=TIAS:64000\r\n"
        "a=rtcp:30001 IN IP4 198.51.100.7\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:13 CN/8000\r\n"
        "a=rtpmap:120 telephone-event/8000\r\na=fmtp:120 0-16\r\na=ptime:20\r\na=sendonly\r\n"
        "m=audio 0 RTP/AVP 0 8\r\nc=IN IP4 198.51.100.7\r\na=rtpmap:0 PCMU/8000\r\n"
    )
    again = remote_audio(text)
    assert (again.host, again.port, again.direction) == ("198.51.100.7", 30000, "sendonly")


@pytest.mark.parametrize(
    ("offered", "rtpmap", "answered"),
    [
        ("0 8 101", "", "0 120"),
        ("8 0 101", "", "8 120"),
        ("0 13 101", "", "0 13 120"),
        ("8 101 13", "a=rtpmap:13 CN/8000\r\n", "8 13 120"),
        ("101 13 0", "", "0 120"),  # before the codec: a negotiator that leaves one would take it for that
        ("0 13 101", "a=rtpmap:13 CN/16000\r\n", "0 120"),
        ("0 97 101", "a=rtpmap:97 CN/8000\r\n", "0 120"),
        ("97 0 101", "a=rtpmap:97 PCMA/8000\r\n", "8 120"),
        ("13 18", "", "0 8 120"),
    ],
)
def test_an_answer_has_one_codec_and_comfort_noise_where_it_was_offered(offered, rtpmap, answered):
    offer = HEAD + f"m=audio 4000 RTP/AVP {offered}\r\na=rtpmap:101 telephone-event/8000\r\n{rtpmap}"
    text = rewrite_local(PJSUA, "198.51.100.7", 30000, remote_audio(offer))
    assert f"m=audio 30000 RTP/AVP {answered}\r\n" in text
    assert ("a=rtpmap:13 CN/8000\r\n" in text) is has_comfort_noise(text) is ("13" in answered)


def test_comfort_noise_of_8_khz_does_not_go_with_wideband():
    if "G722" not in codecs():
        pytest.skip("libspandsp is not installed (Debian: libspandsp2)")
    ours = PJSUA.replace("RTP/AVP 3 0 8 120", "RTP/AVP 9 0 8 120").replace("rtpmap:3 GSM", "rtpmap:9 G722")
    offer = HEAD + "m=audio 4000 RTP/AVP 9 0 13\r\n"
    assert "m=audio 30000 RTP/AVP 9 120\r\n" in rewrite_local(ours, "198.51.100.7", 30000, remote_audio(offer))
    assert "m=audio 30000 RTP/AVP 9 0 8 13 120\r\n" in rewrite_local(ours, "198.51.100.7", 30000)


def test_ipv6_and_session_level_addresses():
    text = rewrite_local(OFFER, "2001:db8::5", 30000)
    assert "c=IN IP6 2001:db8::5\r\n" in text
    assert "o=- 1 1 IN IP6 2001:db8::5\r\n" in text
    assert "192.0.2.1" not in text


def test_closed_audio_stays_closed():
    assert "m=audio 0 RTP/AVP 0\r\n" in rewrite_local(HEAD + "m=audio 0 RTP/AVP 0\r\n", "192.0.2.2", 30000)


WORDS = st.sampled_from(
    ["v=0", "s=-", "t=0 0", "o=- 1 1 IN IP4 1.2.3.4", "o=x", "c=IN IP4 1.2.3.4", "c=", "b=AS:64", "a=sendonly",
     "a=rtpmap:0 PCMU/8000", "a=rtpmap:96 telephone-event/8000", "a=rtpmap:", "a=ptime:20", "a=rtcp:9", "a=:",
     "m=audio 4000 RTP/AVP 0 8 96", "m=audio 4002 RTP/AVP 8 8", "m=audio 0 RTP/AVP 0", "m=", "m=audio",
     "m=video 4004 RTP/AVP 96", "m=audio -1 RTP/AVP 0", "m=audio 4000 RTP/SAVP 0", "x", "", "=", "a=crypto:1 A b"]
)  # fmt: skip


@given(st.lists(WORDS, max_size=30).map(lambda lines: "\r\n".join(["v=0", *lines])))
def test_rewriting_keeps_the_order_and_opens_at_most_one_line(text):
    before = parse(text)
    after = parse(rewrite_local(text, "198.51.100.7", 30000))
    assert [m.kind for m in after.media] == [m.kind for m in before.media]
    open_lines = [m for m in after.media if m.port]
    assert len(open_lines) <= 1
    assert all(m.kind == "audio" and m.port == 30000 for m in open_lines)
    assert all(not m.port or old.port for m, old in zip(after.media, before.media, strict=True))
    assert rewrite_local(after.text(), "198.51.100.7", 30000) == after.text()


@given(st.text(max_size=400) | st.text(max_size=400).map(lambda tail: OFFER + tail))
def test_no_text_raises_anything_else(text):
    try:
        remote_audio(text)
        rewrite_local(text, "198.51.100.7", 30000)
    except SdpError:
        pass


@given(st.binary(max_size=300))
def test_bytes_as_pjsua2_hands_them_over(data):
    text = "v=0\n" + data.decode("utf-8", "surrogateescape")
    remote_audio(text)
    parse(text).text()
