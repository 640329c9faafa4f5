"""Every error this package raises on purpose, in one small tree.

    AiphoneError                 exit code 1
    ├── ConfigError              2   a flag, a configuration file, a value out of range
    ├── ModelError               3   a model file that is missing, damaged or of another kind
    ├── NetworkError             4   a port in use, an address that is not ours, a server out of reach
    ├── MediaError               5   the media engine or a codec
    ├── SipError                 6   pjsua2, a line, a call
    ├── SpeechError              7   a speech command that fails or hangs, a voice that cannot be loaded
    ├── InferenceError           8   whisper.cpp or llama.cpp refused to work
    └── StorageError             9   a full disk, a damaged session file, a data directory we may not write

The text of each is one sentence that names the thing, says what is wrong with it and what to do next.
It is shown to people as it is, so it never carries a password, a key or a token.
"""

from __future__ import annotations


class AiphoneError(Exception):
    """Base of the tree. ``exit_code`` is the status the console command ends with."""

    exit_code: int = 1


class ConfigError(AiphoneError):
    """A wrong flag, a wrong key or a value out of range."""

    exit_code = 2


class ModelError(AiphoneError):
    """A model file that is missing, truncated, of another kind, or that we may not read."""

    exit_code = 3


class NetworkError(AiphoneError):
    """A port in use, an address that is not this machine's, a server that does not answer."""

    exit_code = 4


class MediaError(AiphoneError):
    """The media engine was asked for something it cannot do."""

    exit_code = 5


class SipError(AiphoneError):
    """pjsua2 refused an operation."""

    exit_code = 6


class SpeechError(AiphoneError):
    """A voice or a speech command failed."""

    exit_code = 7


class InferenceError(AiphoneError):
    """whisper.cpp or llama.cpp failed, or its library does not match what we were built for."""

    exit_code = 8


class StorageError(AiphoneError):
    """A file could not be written or read back."""

    exit_code = 9
