"""Passwords of SIP accounts at rest: encrypted with a key that is not in the database.

Fernet (AES-128-CBC with HMAC-SHA256, from the ``cryptography`` package). The key file is made with the first password,
readable by its owner alone. Whoever has the database, or a backup of it, has no passwords without the key file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from aiphone.errors import StorageError

log = logging.getLogger(__name__)


class Secrets:
    """Encrypts and decrypts. Any thread. Its text form names the key file, never the key."""

    def __init__(self, key_path: Path) -> None:
        self.key_path = key_path
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Secrets({str(self.key_path)!r})"

    def encrypt(self, password: str) -> bytes:
        """A token that only ``decrypt`` with this key can read. Makes the key file when there is none.

        Raises ``StorageError`` when the key file cannot be read or written.
        """
        return (self._load() or self._create()).encrypt(password.encode("utf-8"))

    def decrypt(self, token: bytes, owner: str) -> str:
        """The password in a token. Raises ``StorageError``, naming ``owner``, without the key it was made with."""
        fernet = self._load()
        cure = f"put back the key file that belongs to this database, or enter the password of {owner} again"
        if fernet is None:
            raise StorageError(
                f"The password of {owner} cannot be read because there is no key file {self.key_path}: {cure}."
            )
        try:
            return fernet.decrypt(token).decode("utf-8")
        except InvalidToken:
            raise StorageError(
                f"The password of {owner} was encrypted with another key than the one in {self.key_path}: {cure}."
            ) from None

    def _load(self) -> Fernet | None:
        try:
            descriptor = os.open(self.key_path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused("read", error) from None
        with os.fdopen(descriptor, "rb") as file:
            if os.fstat(descriptor).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                log.warning("The key file %s could be read by others: made private.", self.key_path)
                with contextlib.suppress(OSError):
                    os.fchmod(descriptor, 0o600)
            try:
                return Fernet(file.read(1024).strip())
            except OSError as error:
                raise self._refused("read", error) from None
            except ValueError:
                # Not chained: the text of the cause might quote the file.
                raise StorageError(
                    f"{self.key_path} is not a key file: put back the one that belongs to this database, "
                    "or move it away and enter the passwords again."
                ) from None

    def _create(self) -> Fernet:
        """Write a new key, whole or not at all: a password encrypted with half a key would be lost."""
        with self._lock:
            existing = self._load()
            if existing is not None:
                return existing
            key = Fernet.generate_key()
            temporary = self.key_path.with_name(f".{self.key_path.name}.{os.getpid()}")
            try:
                self.key_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                try:
                    with os.fdopen(descriptor, "wb") as file:
                        file.write(key + b"\n")
                        file.flush()
                        os.fsync(descriptor)
                    temporary.rename(self.key_path)
                finally:
                    temporary.unlink(missing_ok=True)
                _sync_directory(self.key_path.parent)
            except OSError as error:
                raise self._refused("write", error) from None
            return Fernet(key)

    def _refused(self, verb: str, error: OSError) -> StorageError:
        return StorageError(
            f"Could not {verb} the key file {self.key_path} ({error.strerror}): check its permissions and the disk."
        )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
