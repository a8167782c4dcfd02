"""What the scripts share: files written whole, run folders, errors that end in one line."""

import argparse
import os
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NoReturn

from filelock import FileLock, Timeout


class UserError(Exception):
    """Something the user can mend; its text is the one line they see: what, where, what to do."""

    exit_code = 2


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are UserErrors: one line instead of a page of usage."""

    def __init__(self, **options) -> None:
        # No abbreviations: compare.py would take --seed for --seeds.
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message} (--help lists the flags)")


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file so that at every moment the old or the new content is there, never a part.

    The content goes to a temporary file beside the target, is flushed to disk, then renamed.

    Raises:
        UserError: if the place is full, read-only or no folder; an earlier file stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}): "
            "free some space there or make the folder writable, then run again"
        ) from error


def claim(folder: Path, timeout: float = 0) -> FileLock | None:
    """Return a lock held on a run's folder, or None while another process trains there.

    The folder is made if need be. The lock ends with the process, however that ends. Another
    process is waited for up to timeout seconds, or for ever with -1.
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


def new_run(runs: Path, model_type: str, name: str | None) -> tuple[Path, FileLock]:
    """Claim the folder of a new run: NAME, else MODEL, MODEL-2, MODEL-3 and so on.

    Returns:
        The folder, in which there is no checkpoint yet, and the lock on it.

    Raises:
        UserError: if NAME is taken, or the folder can't be made.
    """
    for number in count(1):
        folder = runs / (name or (model_type if number == 1 else f"{model_type}-{number}"))
        if not (folder / "checkpoint.pt").exists():
            lock = claim(folder)
            # Looked at again, as another process may have trained here until now.
            if lock and not (folder / "checkpoint.pt").exists():
                return folder, lock
        if name:
            raise UserError(
                f"{folder}: taken by another run; choose another --name, or go on with that run: "
                f"--resume --name {name}"
            )
    raise AssertionError("count() never ends")


def command(main: Callable[[], None]) -> NoReturn:
    """Run a script's main(): a UserError ends in one line on stderr and its exit code.

    Of the processes of torchrun, which all meet the same error, number 0 alone prints it.
    """
    code, line = 0, ""
    try:
        main()
    except UserError as error:
        code, line = error.exit_code, str(error)
    except KeyboardInterrupt as error:
        code, line = 130, str(error) or "stopped"
    if line and os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr)
    sys.exit(code)
