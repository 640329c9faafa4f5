"""Session descriptions: reading, and answering by the rules of RFC 3264."""

from aiphone.caller import sdp

OFFER = """v=0
o=- 1 1 IN IP4 10.0.0.9
s=-
c=IN IP4 10.0.0.9
t=0 0
m=audio 4000 RTP/AVP 9 8 0 96
a=rtpmap:96 telephone-event/8000
a=fmtp:96 0-16
a=ptime:30
a=sendonly
m=video 4002 RTP/AVP 99
c=IN IP4 10.0.0.10
a=rtpmap:99 H264/90000
"""


def test_an_offer_is_read() -> None:
    audio, video = sdp.parse(OFFER)
    assert (audio.host, audio.port, audio.ptime, audio.direction) == ("10.0.0.9", 4000, 30, sdp.Direction.SENDONLY)
    assert audio.payload_type(sdp.TELEPHONE_EVENT) == 96
    assert audio.codec(["PCMU", "PCMA"]) == ("PCMA", 8)
    assert audio.codec(["PCMU"]) == ("PCMU", 0)
    assert audio.codec(["OPUS"]) is None
    assert (video.kind, video.host, video.names[99]) == ("video", "10.0.0.10", ("H264", 90000))


def test_a_description_is_read_back() -> None:
    text = sdp.describe("127.0.0.1", 5004, [("PCMA", 8)], direction=sdp.Direction.RECVONLY)
    audio = sdp.audio(text)
    assert audio is not None
    assert (audio.host, audio.port, audio.formats) == ("127.0.0.1", 5004, ["8", "101"])
    assert audio.direction is sdp.Direction.RECVONLY
    assert text.endswith(b"a=recvonly\r\n")


def test_the_answer_keeps_the_sections_and_refuses_video() -> None:
    text = sdp.answer(OFFER, "127.0.0.1", 6000, ["PCMU", "PCMA"])
    assert text is not None
    audio, video = sdp.parse(text)
    assert (audio.port, audio.formats, audio.direction) == (6000, ["8", "96"], sdp.Direction.RECVONLY)
    assert (video.kind, video.port) == ("video", 0)


def test_no_answer_without_a_common_codec_or_audio() -> None:
    assert sdp.answer(OFFER, "127.0.0.1", 6000, ["OPUS"]) is None
    assert sdp.answer(OFFER.replace("m=audio 4000", "m=audio 0"), "127.0.0.1", 6000, ["PCMU"]) is None
    assert sdp.answer(b"\xff\x00", "127.0.0.1", 6000, ["PCMU"]) is None


def test_session_attributes_hold_for_sections_without_their_own() -> None:
    text = "v=0\na=inactive\nc=IN IP6 ::1\nm=audio 4000/2 RTP/AVP 0\nm=audio x RTP/AVP 0\nm=audio\nc=IN\nz\n"
    (audio,) = sdp.parse(text)
    assert (audio.direction, audio.host, audio.port) == (sdp.Direction.INACTIVE, "::1", 4000)


def test_a_dynamic_payload_type_may_name_g711() -> None:
    (audio,) = sdp.parse("m=audio 4000 RTP/AVP 97 98\na=rtpmap:97 PCMU/16000\na=rtpmap:98 pcmu/8000/1\n")
    assert audio.codec(["PCMU"]) == ("PCMU", 98)


def test_directions() -> None:
    assert [d.mirrored.value for d in sdp.Direction] == ["sendrecv", "recvonly", "sendonly", "inactive"]
    assert [d.sends for d in sdp.Direction] == [True, True, False, False]
    assert [d.receives for d in sdp.Direction] == [True, False, True, False]
