"""Atomic writes, locks, and the error that ends in one line."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

PLOTS = Path("plots")  # what the user's own runs draw


class UserError(Exception):
    """Something the user can fix; its text is the one line they see: what, where, what to do."""


def named(path: Path) -> Path:
    """Return a path whose last part is a name, which "." and ".." are not."""
    return path.resolve() if path.name in ("", "..") else path


def atomic_write(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file so that at every moment the old or the new content is there, never a part.

    Raises:
        UserError: if the disk is full or the folder can't be written; an earlier file stays. Or if
            the path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the name of a file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}): "
            "free some space there, make the folder writable, or close what has the file open"
        ) from error
    finally:
        with suppress(OSError):  # os.replace() has given it its name
            temporary.unlink()


def write_all(files: Mapping[Path, bytes | memoryview]) -> None:
    """Write every file atomically; UserError for the first that can't be."""
    for path, content in files.items():
        atomic_write(path, content)


def acquire_lock(folder: Path, timeout: float = 0) -> AcquireReturnProxy | None:
    """Return a lock held on a folder, for a with statement; None while another process holds it.

    The folder is made if need be. The lock ends with the process, however that ends. Another
    process is waited for up to timeout seconds, or without limit for -1.

    Raises:
        UserError: if the folder can't be made or locked.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / ".lock").acquire(timeout=timeout)
    except Timeout:
        return None
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written or locked ({error.strerror}); make the folder writable, "
            "remove what is in its place, or work on another disk"
        ) from error
