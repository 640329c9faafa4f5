from __future__ import annotations

import json

from api_stand_in import WALL, ApiCase, live_call

from aiphone.spoken_word import SpokenWord
from aiphone.store.records import TurnRow, WordsRow

HOSTILE = "<script>alert(1)</script> --> &"


class TestCalls(ApiCase):
    def past(self, caller: str = "sip:bob@example.org", recording: str = "") -> int:
        store = self.api.store
        number = store.begin_call(line_id="direct", caller=caller, caller_name=HOSTILE, called="sip:ai", started=WALL)
        store.call_answered(number, WALL + 2)
        store.add_words(WordsRow(number, 1, "assistant", "Hello.", WALL + 2.5))
        store.add_words(WordsRow(number, 2, "user", HOSTILE, WALL + 5.25))
        parts = {"patience": 0.5, "transcript": 0.1}
        store.add_turn(TurnRow(number, 1, WALL + 6, HOSTILE, "Goodbye.", False, parts, 0.6))
        store.end_call(number, 200, "bye", {"jitter_ms": 1.5}, recording, WALL + 12)
        return number

    def test_a_page_of_calls_and_the_next(self) -> None:
        numbers = [self.past() for _ in range(3)]
        first = self.json("GET", "/api/calls?limit=2")
        assert [call["id"] for call in first["calls"]] == numbers[:0:-1]
        second = self.json("GET", f"/api/calls?limit=2&before={first['next']}")
        assert ([call["id"] for call in second["calls"]], second["next"]) == (numbers[:1], None)

    def test_filters(self) -> None:
        self.past("sip:bob@example.org")
        eve = self.past("sip:eve@example.org")
        assert [call["id"] for call in self.json("GET", "/api/calls?caller=eve")["calls"]] == [eve]
        assert self.json("GET", f"/api/calls?from={WALL + 1}")["calls"] == []
        assert len(self.json("GET", f"/api/calls?to={WALL + 1}&line=direct&text=alert")["calls"]) == 2

    def test_a_parameter_that_is_wrong_is_named(self) -> None:
        for query in ("limit=0", "limit=many", "before=x", "from=nan", "colour=red"):
            error = self.error(self.call("GET", f"/api/calls?{query}"), 422)
            assert error["fields"][0]["field"] == query.partition("=")[0]

    def test_a_call_has_turns_words_parts_and_media(self) -> None:
        body = self.json("GET", f"/api/calls/{self.past()}")
        assert body["seconds"] == 10
        assert body["turns"][0]["parts"] == {"patience": 0.5, "transcript": 0.1}
        assert [(w["role"], w["offset"]) for w in body["words"]] == [("assistant", 0.5), ("user", 3.25)]
        assert body["media"] == {"jitter_ms": 1.5}
        assert body["call_id"] is None

    def test_a_live_call_goes_by_either_name(self) -> None:
        number = self.api.store.begin_call(line_id="direct", caller="sip:bob@example.org", started=WALL)
        self.control.live = [live_call("c9", number)]
        for name in (number, "c9"):
            body = self.json("GET", f"/api/calls/{name}")
            assert (body["id"], body["call_id"]) == (number, "c9")
        assert self.json("GET", "/api/live")["calls"][0]["id"] == number
        self.error(self.call("GET", "/api/calls/c10"), 404)

    def test_hang_up_by_either_name_and_again(self) -> None:
        number = self.past()
        self.control.live = [live_call("c8", number), live_call("c9", None)]
        assert self.json("POST", f"/api/calls/{number}/hangup") == {"ended": True}
        assert self.json("POST", f"/api/calls/{number}/hangup") == {"ended": False}
        assert self.json("POST", "/api/calls/c9/hangup") == {"ended": True}
        assert self.control.hung_up == ["c8", "c9"]
        self.error(self.call("POST", "/api/calls/999/hangup"), 404)

    def test_a_call_is_placed_from_a_line_that_is_up(self) -> None:
        self.json("POST", "/api/sip-clients", {"client_id": "out", "username": "1", "server_ip": "192.0.2.1"})
        error = self.error(self.call("POST", "/api/calls", {"uri": "1002", "line_id": "out"}), 409)
        assert "start it first" in error["message"]
        self.json("POST", "/api/sip-clients/out/start")
        response = self.call("POST", "/api/calls", {"uri": "sip:1002@pbx.example.org", "line_id": "out"})
        assert (response.code, json.loads(response.body)) == (202, {"call_id": "c77"})
        assert self.control.placed == [("sip:1002@pbx.example.org", "out")]
        self.json("POST", "/api/calls", {"uri": "1002", "line_id": "out", "message": "Call back."})
        assert self.control.placed[1] == ("1002", "out", "Call back.")
        error = self.error(self.call("POST", "/api/calls", {"uri": "1002", "line_id": "none"}), 409)
        assert error["fields"][0]["field"] == "line_id"
        self.error(self.call("POST", "/api/calls", {"uri": "sip:a@b>;x=<sip:c", "line_id": "out"}), 422)

    def test_the_transcript_in_three_forms(self) -> None:
        number = self.past()
        assert len(self.json("GET", f"/api/calls/{number}/transcript")["words"]) == 2
        text = self.call("GET", f"/api/calls/{number}/transcript?format=text")
        assert text.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert text.body.decode() == f"[0:00] Assistant: Hello.\n[0:03] Caller: {HOSTILE}\n"
        vtt = self.call("GET", f"/api/calls/{number}/transcript?format=vtt").body.decode()
        assert vtt.startswith("WEBVTT\n\n1\n00:00:00.500 --> 00:00:01.500\n<v Assistant>Hello.\n")
        assert "<v Caller>&lt;script&gt;alert(1)&lt;/script&gt; --&gt; &amp;\n" in vtt

    def test_the_words_of_a_caller_have_times_and_probabilities(self) -> None:
        number = self.past()
        spoken = (SpokenWord("Two", -1.5, -1.12, 0.91), SpokenWord("<pears>.", -1.1, -0.25, 0.34))
        self.api.store.add_words(WordsRow(number, 3, "user", "Two <pears>.", WALL + 8, spoken=spoken))
        lines = self.json("GET", f"/api/calls/{number}/transcript")["words"]
        assert [line["words"] for line in lines] == [
            [],
            [],
            [
                {"text": "Two", "start": 4.5, "end": 4.88, "probability": 0.91},
                {"text": "<pears>.", "start": 4.9, "end": 5.75, "probability": 0.34},
            ],
        ]
        assert self.json("GET", f"/api/calls/{number}")["words"] == lines
        vtt = self.call("GET", f"/api/calls/{number}/transcript?format=vtt").body.decode()
        assert "\n3\n00:00:04.500 --> 00:00:05.750\n<v Caller>Two &lt;pears&gt;.\n" in vtt
        assert "\n2\n00:00:03.250 --> 00:00:04.500\n" in vtt

    def test_a_caller_is_forgotten_and_the_audit_log_does_not_say_who(self) -> None:
        self.past("sip:eve@example.org")
        self.control.remembered = {"direct/sip:eve@example.org": {"messages": [], "tokens": 0}}
        assert self.json("POST", "/api/callers/forget", {"caller": "sip:eve@example.org"}) == {
            "calls": 1,
            "sessions": 1,
        }
        assert self.json("GET", "/api/calls")["calls"] == []
        assert self.control.remembered == {}
        assert all("eve" not in entry.target + entry.detail for entry in self.api.store.audit_log())


class TestRecording(ApiCase):
    audio = bytes(range(256)) * 40

    def call_with(self, recording: str) -> int:
        number = self.api.store.begin_call(line_id="direct", caller="sip:bob@example.org", started=WALL)
        self.api.store.end_call(number, 200, "bye", None, recording)
        return number

    def test_whole_and_in_parts(self) -> None:
        (self.directory / "recordings" / "one.wav").write_bytes(self.audio)
        path = f"/api/calls/{self.call_with('recordings/one.wav')}/recording"
        whole = self.call("GET", path)
        assert (whole.code, whole.body, whole.headers["Content-Type"]) == (200, self.audio, "audio/wav")
        part = self.call("GET", path, headers={"Range": "bytes=100-199"})
        assert (part.code, part.body) == (206, self.audio[100:200])
        assert part.headers["Content-Range"] == f"bytes 100-199/{len(self.audio)}"
        assert self.call("GET", path, headers={"Range": "bytes=99999-"}).code == 416
        assert self.call("GET", path, headers={"If-None-Match": whole.headers["ETag"]}).code == 304
        head = self.call("HEAD", path)
        assert (head.code, head.headers["Content-Length"]) == (200, str(len(self.audio)))

    def test_an_absolute_name_within_the_directory_is_fine(self) -> None:
        file = self.directory / "recordings" / "two.wav"
        file.write_bytes(b"RIFF")
        assert self.call("GET", f"/api/calls/{self.call_with(str(file))}/recording").body == b"RIFF"

    def test_no_file_outside_the_directory_is_served(self) -> None:
        (self.directory / "recordings" / "link.wav").symlink_to(self.directory / "aiphone.db")
        outside = ("aiphone.db", "recordings/../aiphone.db", str(self.directory / "aiphone.db"), "recordings/link.wav")
        for name in outside:
            self.error(self.call("GET", f"/api/calls/{self.call_with(name)}/recording"), 404)

    def test_none_and_gone(self) -> None:
        assert (
            "not recorded" in self.error(self.call("GET", f"/api/calls/{self.call_with('')}/recording"), 404)["message"]
        )
        gone = f"/api/calls/{self.call_with('recordings/gone.wav')}/recording"
        assert "not there any more" in self.error(self.call("GET", gone), 404)["message"]
        self.error(self.call("GET", "/api/calls/12345/recording"), 404)
