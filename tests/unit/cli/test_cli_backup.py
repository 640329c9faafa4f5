import argparse

import pytest

from aiphone.cli import backup
from aiphone.errors import StorageError
from aiphone.store.records import SipClient
from aiphone.store.store import DATABASE, KEY, Store


def call(*arguments):
    parser = argparse.ArgumentParser()
    backup.add_arguments(parser.add_subparsers(required=True))
    return backup.run(parser.parse_args(["backup", *map(str, arguments)]))


def test_a_copy_is_made_while_a_server_runs_and_names_the_key(tmp_path, capsys):
    store = Store(tmp_path / DATABASE, tmp_path / KEY)
    store.add_sip_client(SipClient("pbx", "100", "192.0.2.1"), "pw")
    live = store.begin_call(line_id="pbx", caller="x")
    assert call(tmp_path / "copy.db", "--data-dir", tmp_path) == 0
    out = capsys.readouterr().out
    assert "copy.db" in out
    assert str(tmp_path / KEY) in out
    assert store.call(live).ended is None, "the server's calls go on"
    store.close()
    copy = Store(tmp_path / "copy.db", tmp_path / KEY)
    assert copy.sip_password("pbx") == "pw"
    copy.close()


def test_without_a_database_it_says_where_it_looked(tmp_path):
    with pytest.raises(StorageError, match=f"no database {tmp_path / DATABASE}.*--data-dir"):
        call(tmp_path / "copy.db", "--data-dir", tmp_path)
    assert list(tmp_path.iterdir()) == []
