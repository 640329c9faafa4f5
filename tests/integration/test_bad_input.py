"""Whatever is wrong is said in one sentence with its cure, and the exit code tells the kind."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import command, environment, models, run_command

from aiphone.cli.main import main
from aiphone.models.resolve import resolve_llm, resolve_onnx, resolve_whisper

pytestmark = pytest.mark.integration

CONFIG, MODEL, NETWORK, SPEECH, STORAGE = 2, 3, 4, 7, 9
NOBODY = 65_534


def one_sentence(text: str) -> str:
    """The error in what was written to standard error, which is one line.

    Lines of progress are indented; pjsip logs some of what goes wrong itself, with a time in front.
    """
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line and not line.startswith("  ")]
    lines = [line for line in lines if " WARNING aiphone.sip.pjsip: " not in line]
    assert len(lines) == 1, text
    assert lines[0].startswith("whisper-talk-llama: ")
    return lines[0].removeprefix("whisper-talk-llama: ")


def refused(*flags: str, code: int, data_dir: Path, user: int | None = None) -> str:
    """Start the server with ``flags``, which must fail with ``code``; its sentence."""
    ports = [] if "-hp" in flags else ["-hp", "0"]
    ports += [] if "--sip-port" in flags else ["--sip-port", "0"]
    where = [] if "--data-dir" in flags else ["--data-dir", str(data_dir)]
    done = run_command(*ports, *where, *flags, user=user)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    return one_sentence(done.stderr)


# ------------------------------------------------------------------ flags and files that settings come from


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--frobnicate"], "there is no flag --frobnicate"),
        (["--greetin", "Hi"], r"there is no flag --greetin; did you mean --greeting\?"),
        (["-c", "1"], "-c does not apply here .*; leave it out"),
        (["serve"], "'serve' is not a command; see"),
        (["--temp", "9"], r"--temp is 9\.0; it takes a value from 0 to 5"),
        (["-t", "0"], "--threads is 0; it takes a value from 1 to 256"),
        (["-hp", "70000"], "--http-port is 70000; it takes a value from 0 to 65535"),
        (["-t", "many"], "-t/--threads: invalid int value: 'many'; see"),
        (["--greeting"], "--greeting: expected one argument; see"),
        (["--rtp-ports", "9"], "--rtp-ports is '9'; it takes two ports"),
        (["--rtp-ports", "11000-10000"], "--rtp-ports is '11000-10000'; .* the smaller port first"),
        (["--log-level", "loud"], "--log-level is 'loud'; it takes debug, info, warning or error"),
        (["-bn", " "], "--bot-name is empty; give"),
        (["--config", "/nowhere.toml"], "no configuration file /nowhere.toml; check the path given with --config"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_flags(flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == CONFIG
    assert re.search(sentence, one_sentence(capsys.readouterr().err))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("greting = 'Hi'", "unknown key 'greting'; did you mean 'greeting'"),
        ("max_calls = 'ten'", "max_calls in .* is the text 'ten'; it takes a whole number"),
        ("max-calls = true", "max-calls in .* is true; it takes a whole number"),
        ("temp = 9", "temp in .*; it takes a value from 0 to 5"),
        ("[[lines]]\nclient_id = 'a'\nusername = 'u'\nserver_ip = 's'\npasword = 'p'", "did you mean 'password'"),
        ("[[lines]]\nclient_id = 'a'\nusername = 'u'", "has no server_ip; add server_ip"),
        ("lines = 3", r"write each SIP account under a \[\[lines\]\] heading"),
        ("greeting = Hello", "is not valid TOML: "),
    ],
)
def test_wrong_configuration_files(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "phone.toml"
    config.write_text(text, encoding="utf-8")
    assert main(["--config", str(config)]) == CONFIG
    told = one_sentence(capsys.readouterr().err)
    assert re.search(sentence, told)
    assert str(config) in told


def test_the_real_command_says_it_the_same_way() -> None:
    done = run_command("--temp", "9")
    assert done.returncode == CONFIG
    assert one_sentence(done.stderr) == "--temp is 9.0; it takes a value from 0 to 5"


# ------------------------------------------------------------------ models


def whisper() -> Path:
    return resolve_whisper("tiny.en", models())


def llama() -> Path:
    return resolve_llm("smollm2-135m-instruct", models())


def silero() -> Path:
    return resolve_onnx("silero", "vad", models())


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of files that no model should be."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "empty").touch()
    (folder / "page").write_text("<!DOCTYPE html><html>not found</html>", encoding="utf-8")
    (folder / "folder").mkdir()
    for name, path in (("whisper", whisper()), ("llama", llama())):
        with path.open("rb") as file:
            (folder / f"short-{name}").write_bytes(file.read(2_000_000))
    return folder


@pytest.mark.parametrize(
    ("flag", "file", "sentence"),
    [
        ("-mw", "nothing", "there is no file .*nothing.*; check the path, or see `whisper-talk-llama models list`"),
        ("-mw", "empty", "is empty; download it again"),
        ("-mw", "page", "is not a Whisper model but a web page .*; download the file itself again"),
        ("-mw", "folder", "is a directory without a model.bin in it; give a ggml file or a faster-whisper directory"),
        ("-mw", "short-whisper", "is cut short .*; download it again"),
        ("-mw", "LLAMA", "is not a Whisper model but a GGUF language model; give it with -ml"),
        ("-ml", "nothing", "there is no file .*nothing.*; check the path, or see `whisper-talk-llama models list`"),
        ("-ml", "empty", "is empty; download it again"),
        ("-ml", "page", "is not a language model but a web page .*; download the file itself again"),
        ("-ml", "folder", "is a directory, not a language model; give the file in it"),
        ("-ml", "short-llama", "is cut short .*; download it again"),
        ("-ml", "WHISPER", "is not a language model but a whisper.cpp ggml model; give it with -mw"),
        ("--voice", "page", "is not a Piper voice but a web page"),
        ("--voice", "SILERO", "json"),
    ],
)
def test_files_that_are_not_the_model(flag: str, file: str, sentence: str, broken: Path, tmp_path: Path) -> None:
    special = {"LLAMA": llama, "WHISPER": whisper, "SILERO": silero}
    path = special[file]() if file in special else broken / file
    told = refused(flag, str(path), code=MODEL, data_dir=tmp_path)
    assert str(path) in told
    assert re.search(sentence, told)


@pytest.mark.parametrize(("flag", "what"), [("-mw", "Whisper"), ("-ml", "language")])
def test_a_model_without_permission(flag: str, what: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.write_bytes((whisper() if flag == "-mw" else llama()).read_bytes()[:4096])
    model.chmod(0)
    told = without_privileges(lambda user: said_by_resolver(flag, model, user), tmp_path)
    assert re.search(rf"the {what} model {model} may not be read by this user; change its permissions", told)


def said_by_resolver(flag: str, model: Path, user: int | None) -> str:
    """What resolving the model says. Not the whole server: another user may have no way to this checkout."""
    resolver = "resolve_whisper" if flag == "-mw" else "resolve_llm"
    # Imported before the rights are given up.
    code = f"""
import os, sys
from pathlib import Path
from aiphone.errors import AiphoneError
from aiphone.models.resolve import {resolver}
from aiphone.models.store import ModelStore
store = ModelStore(Path(sys.argv[2]))
if sys.argv[3] != "None":
    os.setgroups([])
    os.setgid(int(sys.argv[3]))
    os.setuid(int(sys.argv[3]))
try:
    {resolver}(sys.argv[1], store)
except AiphoneError as error:
    print(error)
    sys.exit(error.exit_code)
"""
    python = command()[0]
    done = subprocess.run(
        [python, "-c", code, str(model), str(models().directory), str(user)],
        capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == MODEL, done.stderr
    assert not done.stderr
    return done.stdout


def without_privileges(act, folder: Path) -> str:  # type: ignore[no-untyped-def]
    """``act(user)`` with a user who is not root: None when we are none already."""
    if os.geteuid() != 0:
        return str(act(None))
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & stat.S_IXOTH:
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH)  # pytest's own folders are closed to others
    return str(act(NOBODY))


# ------------------------------------------------------------------ ports, commands, directories


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder


def test_the_web_port_is_in_use(taken: socket.socket, tmp_path: Path) -> None:
    port = taken.getsockname()[1]
    told = refused("-hp", str(port), code=NETWORK, data_dir=tmp_path)
    assert (
        told == f"port {port} on 127.0.0.1 is in use by another program; choose another with -hp, as in -hp {port + 1}"
    )


def test_the_sip_port_is_in_use(taken: socket.socket, tmp_path: Path) -> None:
    port = taken.getsockname()[1]
    told = refused("--sip-port", str(port), code=NETWORK, data_dir=tmp_path)
    assert re.search(rf"SIP port {port} \(TCP\) is in use by another program; .*--sip-port", told)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        told = refused("--sip-port", str(port), code=NETWORK, data_dir=tmp_path)
        assert re.search(rf"SIP port {port} \(UDP\) is in use by another program; .*--sip-port", told)


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    told = refused("--sip-host", "192.0.2.1", code=NETWORK, data_dir=tmp_path)
    assert re.search(r"192\.0\.2\.1 is not an address of this machine; .*--sip-host", told)


def test_a_page_for_other_machines_needs_a_password_first(tmp_path: Path) -> None:
    told = refused("--host", "192.0.2.1", code=CONFIG, data_dir=tmp_path)
    assert re.search(r"--host 192\.0\.2\.1 .* no password; set one with: whisper-talk-llama passwd", told)


def test_a_speech_command_that_does_not_exist(tmp_path: Path) -> None:
    told = refused("-s", "no-such-program --fast", code=SPEECH, data_dir=tmp_path)
    assert re.search("the speech command 'no-such-program' does not exist; give its full path or install it", told)


def test_a_prompt_file_that_is_no_text(tmp_path: Path) -> None:
    assert re.search("check --prompt-file", refused("--prompt-file", "/nowhere", code=CONFIG, data_dir=tmp_path))
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.touch()
    binary.write_bytes(b"\xff\xfe\x00")
    assert "is empty; write" in refused("--prompt-file", str(empty), code=CONFIG, data_dir=tmp_path)
    assert "cannot be read as UTF-8" in refused("--prompt-file", str(binary), code=CONFIG, data_dir=tmp_path)


@pytest.mark.parametrize("flag", ["--data-dir", "-f", "--session"])
def test_files_that_cannot_be_written(flag: str, tmp_path: Path) -> None:
    # Below a file nothing can be made, whoever asks.
    (tmp_path / "file").touch()
    told = refused(flag, str(tmp_path / "file" / "x"), code=STORAGE, data_dir=tmp_path)
    assert str(tmp_path / "file" / "x") in told


def test_a_data_directory_without_permission(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom aiphone.cli.serve import make_directory\n"
        "from aiphone.errors import AiphoneError\n"
        "if sys.argv[2] != 'None': os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))\n"
        "try:\n    make_directory(Path(sys.argv[1]))\n"
        "except AiphoneError as error:\n    print(error); sys.exit(error.exit_code)\n"
    )

    def act(user: int | None) -> str:
        results = []
        for directory in (closed / "new", closed):
            done = subprocess.run(
                [command()[0], "-c", code, str(directory), str(user)],
                capture_output=True, text=True, env=environment(), check=False,
            )  # fmt: skip
            assert done.returncode == STORAGE, done.stderr
            results.append(done.stdout)
        return "".join(results)

    told = without_privileges(act, tmp_path)
    assert f"{closed}/new cannot be made" in told
    assert f"{closed} cannot be written" in told
