"""Atomic writes, locks, and the error that ends in one line."""

import os
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock, Timeout

PLOTS = Path("plots")  # what the user's own runs draw


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


def markers(name: str) -> tuple[str, str]:
    """Return the lines of a README between which the table of that name stands."""
    return f"<!-- {name}: written by a script -->", f"<!-- end of {name} -->"


def with_table(path: Path, name: str, table: str) -> bytes:
    """Return a README's content with the table between its markers of that name."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    first, last = markers(name)
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise UserError(f"{path}: the lines {first} and {last} are missing; put them back")
    return f"{before}{begin}\n{table}\n{end}{after}".encode()


def acquire_lock(folder: Path, timeout: float = 0) -> FileLock | None:
    """Return a lock held on a run's folder, or None while another process trains there.

    The folder is made if need be. The lock ends with the process, however that ends. Another
    process is waited for up to timeout seconds, or without limit for -1.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=timeout)
    except Timeout:
        return None
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); make the folder writable"
        ) from error
    return lock
