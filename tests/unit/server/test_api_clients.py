from __future__ import annotations

import logging

from api_stand_in import ApiCase

CLIENT = {"client_id": "reception", "username": "1001", "password": "s3cret", "server_ip": "192.0.2.7"}


class TestSipClients(ApiCase):
    def add(self, **more: object) -> None:
        self.json("POST", "/api/sip-clients", CLIENT | more)

    def test_what_is_added_is_listed_with_its_defaults_and_without_its_password(self) -> None:
        response = self.call("POST", "/api/sip-clients", CLIENT)
        assert response.code == 201
        assert response.headers["Location"] == "/api/sip-clients/reception"
        (listed,) = self.json("GET", "/api/sip-clients")["sip_clients"]
        assert listed["server_port"] == 5060
        assert listed["auto_answer"] is True
        assert listed["has_password"] is True
        assert listed["state"] == "stopped"
        assert "password" not in listed
        assert b"s3cret" not in response.body

    def test_the_same_again_changes_nothing_and_another_of_that_name_is_refused(self) -> None:
        self.add()
        assert self.call("POST", "/api/sip-clients", CLIENT).code == 200
        self.error(self.call("POST", "/api/sip-clients", CLIENT | {"username": "1002"}), 409)
        self.error(self.call("POST", "/api/sip-clients", CLIENT | {"password": "other"}), 409)

    def test_every_wrong_field_is_named_with_what_would_be_right(self) -> None:
        body = {"client_id": "two words", "username": "", "server_ip": "a b", "server_port": 70000, "colour": "red"}
        error = self.error(self.call("POST", "/api/sip-clients", body), 422)
        fields = {problem["field"]: problem for problem in error["fields"]}
        assert set(fields) == set(body)
        assert fields["server_port"] == {
            "field": "server_port",
            "problem": "is 70000",
            "expected": "a whole number from 1 to 65535",
        }
        assert fields["client_id"]["expected"].startswith("letters, digits")

    def test_encryption_of_signalling_and_sound_is_chosen_by_line(self) -> None:
        assert self.json("POST", "/api/sip-clients", CLIENT)["srtp"] == "off"
        body = CLIENT | {"client_id": "secret", "transport": "tls", "srtp": "mandatory"}
        made = self.json("POST", "/api/sip-clients", body)
        assert (made["transport"], made["srtp"]) == ("tls", "mandatory")
        self.json("POST", "/api/sip-clients/secret/start")
        assert (self.control.started[-1][0].transport, self.control.started[-1][0].srtp) == ("tls", "mandatory")
        error = self.error(self.call("POST", "/api/sip-clients", body | {"client_id": "x", "srtp": "yes"}), 422)
        assert error["fields"][0]["field"] == "srtp"

    def test_a_line_break_cannot_get_into_a_sip_header(self) -> None:
        for name in ("username", "display_name", "auth_username", "proxy"):
            error = self.error(self.call("POST", "/api/sip-clients", CLIENT | {name: "a\r\nVia: x"}), 422)
            assert error["fields"][0]["field"] == name

    def test_the_phones_own_line_ids_are_taken(self) -> None:
        self.error(self.call("POST", "/api/sip-clients", CLIENT | {"client_id": "direct"}), 422)

    def test_start_hands_the_password_to_the_phone_and_stop_ends_it(self) -> None:
        self.add()
        assert self.json("POST", "/api/sip-clients/reception/start")["state"] == "registering"
        client, password = self.control.started[0]
        assert (client.client_id, password) == ("reception", "s3cret")
        assert self.api.store.sip_client("reception").started
        assert self.json("POST", "/api/sip-clients/reception/start")["started"] is True
        assert self.json("POST", "/api/sip-clients/reception/stop")["state"] == "stopped"
        assert self.json("POST", "/api/sip-clients/reception/stop")["started"] is False

    def test_what_cannot_be_started_says_why_and_is_not_kept_as_started(self) -> None:
        self.add(username="refused")
        error = self.error(self.call("POST", "/api/sip-clients/reception/start"), 409)
        assert "transport" in error["message"]
        assert not self.api.store.sip_client("reception").started
        self.json("PUT", "/api/sip-clients/reception", CLIENT | {"enabled": False})
        assert "enable it" in self.error(self.call("POST", "/api/sip-clients/reception/start"), 409)["message"]

    def test_a_change_keeps_the_password_and_registers_anew(self) -> None:
        self.add()
        self.json("POST", "/api/sip-clients/reception/start")
        body = {name: value for name, value in CLIENT.items() if name != "password"}
        self.json("PUT", "/api/sip-clients/reception", body | {"server_ip": "192.0.2.8"})
        client, password = self.control.started[-1]
        assert (client.server_ip, password) == ("192.0.2.8", "s3cret")

    def test_what_was_got_may_be_put_back(self) -> None:
        self.add()
        body = self.json("GET", "/api/sip-clients/reception")
        assert self.json("PUT", "/api/sip-clients/reception", body)["version"] == body["version"] + 1

    def test_the_second_of_two_who_edit_is_told(self) -> None:
        self.add()
        tag = self.call("GET", "/api/sip-clients/reception").headers["ETag"]
        first = self.call("PUT", "/api/sip-clients/reception", CLIENT, {"If-Match": tag})
        assert first.code == 200
        assert first.headers["ETag"] != tag
        self.error(self.call("PUT", "/api/sip-clients/reception", CLIENT, {"If-Match": tag}), 412)
        self.error(self.call("DELETE", "/api/sip-clients/reception", None, {"If-Match": tag}), 412)
        assert self.call("DELETE", "/api/sip-clients/reception", None, {"If-Match": first.headers["ETag"]}).code == 204

    def test_deleting_stops_it(self) -> None:
        self.add()
        self.json("POST", "/api/sip-clients/reception/start")
        assert self.call("DELETE", "/api/sip-clients/reception").code == 204
        assert "reception" not in self.control.lines
        self.error(self.call("GET", "/api/sip-clients/reception"), 404)

    def test_a_persona_that_there_is_not_is_named(self) -> None:
        error = self.error(self.call("POST", "/api/sip-clients", CLIENT | {"persona": "nobody"}), 409)
        assert error["fields"][0]["field"] == "persona"

    def test_what_was_done_is_in_the_audit_log(self) -> None:
        self.add()
        entry = self.api.store.audit_log()[0]
        assert (entry.actor, entry.action, entry.target) == ("owner", "add", "sip-client reception")

    def test_the_password_is_told_to_nobody_but_the_phone(self) -> None:
        with self.assertLogs(level=logging.DEBUG) as logs:
            logging.getLogger("test").debug("assertLogs wants a line")
            answers = [
                self.call("POST", "/api/sip-clients", CLIENT),
                self.call("POST", "/api/sip-clients", CLIENT),
                self.call("POST", "/api/sip-clients", CLIENT | {"username": "1002"}),
                self.call("POST", "/api/sip-clients", CLIENT | {"client_id": "b", "password": "s3cret\n"}),
                self.call("POST", "/api/sip-clients/reception/start"),
                self.call("PUT", "/api/sip-clients/reception", CLIENT | {"greeting": "Hello."}),
                self.call("POST", "/api/sip-clients/reception/stop"),
                self.call("GET", "/api/dashboard"),
                self.call("DELETE", "/api/sip-clients/reception"),
            ]
        assert [answer.code for answer in answers] == [201, 200, 409, 422, 200, 200, 200, 200, 204]
        told = [answer.body.decode() for answer in answers] + logs.output
        told += [f"{entry.target} {entry.detail}" for entry in self.api.store.audit_log()]
        assert [text for text in told if "s3cret" in text] == []


class TestPersonas(ApiCase):
    def test_a_persona_is_made_changed_and_removed(self) -> None:
        response = self.call("POST", "/api/personas", {"name": "sales", "bot_name": "Ada"})
        assert response.code == 201
        made = self.json("GET", "/api/personas/sales")
        assert (made["bot_name"], made["patience"], made["is_default"]) == ("Ada", 0.9, False)
        tag = response.headers["ETag"]
        changed = self.call("PUT", "/api/personas/sales", made | {"patience": 1.5}, {"If-Match": tag})
        assert changed.code == 200
        assert self.api.store.persona("sales").patience == 1.5
        self.error(self.call("PUT", "/api/personas/sales", made, {"If-Match": tag}), 412)
        assert self.call("DELETE", "/api/personas/sales").code == 204
        assert self.control.changes == ["personas"] * 3

    def test_the_same_again_changes_nothing(self) -> None:
        self.json("POST", "/api/personas", {"name": "sales"})
        assert self.call("POST", "/api/personas", {"name": "sales"}).code == 200
        self.error(self.call("POST", "/api/personas", {"name": "sales", "bot_name": "Ada"}), 409)

    def test_what_it_may_do_is_checked_and_kept(self) -> None:
        assert self.json("GET", "/api/personas/default")["actions"] == []
        body = {"name": "desk", "actions": ["transfer", "hang up"], "transfers": ["sales = sip:sales@192.0.2.7"]}
        made = self.json("POST", "/api/personas", body)
        assert (made["actions"], made["transfers"]) == (body["actions"], body["transfers"])
        assert self.call("POST", "/api/personas", body).code == 200
        persona = self.api.store.persona("desk").persona()
        assert persona.transfers == (("sales", "sip:sales@192.0.2.7"),)
        for wrong, field in (
            ({"actions": ["dance"]}, "actions"),
            ({"transfers": []}, "transfers"),
            ({"transfers": ["sales"]}, "transfers"),
            ({"transfers": ["sales = http://example.com"]}, "transfers"),
            ({"transfers": ["Sales = sip:a@b"]}, "transfers"),
            ({"nobody_there": ""}, "nobody_there"),
        ):
            error = self.error(self.call("POST", "/api/personas", body | {"name": "x"} | wrong), 422)
            assert [problem["field"] for problem in error["fields"]] == [field], wrong

    def test_what_it_expects_and_where_it_stops_is_kept(self) -> None:
        body = {"name": "desk", "vocabulary": "Siobhan, Zyrtec", "stop": ["###", "User:"], "speed": 1.2}
        made = self.json("POST", "/api/personas", body)
        assert (made["vocabulary"], made["stop"]) == (body["vocabulary"], body["stop"])
        persona = self.api.store.persona("desk").persona()
        assert (persona.vocabulary, persona.stop) == ("Siobhan, Zyrtec", ("###", "User:"))
        assert persona.voice_name() == "@1.2"
        for stop in ([""], ["x" * 65], ["a"] * 9, "a"):
            error = self.error(self.call("POST", "/api/personas", {"name": "x", "stop": stop}), 422)
            assert error["fields"][0]["field"] == "stop"

    def test_the_default_one_stays(self) -> None:
        default = self.json("GET", "/api/personas")["personas"][0]
        assert default["is_default"]
        self.error(self.call("DELETE", f"/api/personas/{default['name']}"), 409)

    def test_limits_are_checked(self) -> None:
        error = self.error(self.call("POST", "/api/personas", {"name": "a", "patience": 99, "temperature": "hot"}), 422)
        assert [(p["field"], p["problem"]) for p in error["fields"]] == [
            ("temperature", "is text"),
            ("patience", "is 99"),
        ]
