"""Atomic writes, locks, and the error that ends in one line."""

import errno
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

PLOTS = Path("plots")  # what the user's own runs draw
NO_LOCKS = (errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS)  # of network drives without locks


class UserError(Exception):
    """Something the user can fix; its text is the one line they see: what, where, what to do."""


def atomic_write(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file so that at every moment the old or the new content is there, never a part.

    Raises:
        UserError: if the disk is full or the folder can't be written; an earlier file stays.
    """
    write_all({Path(path): content})


def write_all(files: Mapping[Path, bytes | memoryview]) -> None:
    """Write files that belong together: on an error none of them is renewed.

    Each content goes to a temporary file beside its target and is flushed to disk; once all are
    there, they are renamed.

    Raises:
        UserError: if the disk is full or a folder can't be written; earlier files stay.
    """
    staged = {path: path.parent / f".{path.name}.{os.getpid()}.tmp" for path in files}
    try:
        try:
            for path, content in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(staged[path], "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            for path in files:
                os.replace(staged[path], path)
        except BaseException:
            for temporary in staged.values():
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}): "
            "free some space there or make the folder writable, then run again"
        ) from error


def acquire_lock(folder: Path, timeout: float = 0) -> BaseFileLock | None:
    """Return a lock held on a folder, or None while another process holds it.

    The folder is made if need be. The lock ends with the process, however that ends. Another
    process is waited for up to timeout seconds, or without limit for -1. On a network drive that
    has no locks a file marks the folder as taken, as well as that can be done there.

    Raises:
        UserError: if the folder can't be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return _acquire(FileLock(folder / ".lock"), timeout)
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            print(f"note: {folder} is on a drive without locks; a file stands in", file=sys.stderr)
            return _acquire(SoftFileLock(folder / ".soft_lock"), timeout)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); make the folder writable"
        ) from error


def _acquire(lock: BaseFileLock, timeout: float) -> BaseFileLock | None:
    try:
        with warnings.catch_warnings(action="ignore"):  # filelock's own about drives without locks
            lock.acquire(timeout=timeout)
    except Timeout:
        return None
    return lock
