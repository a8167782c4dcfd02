"""Atomic writes, and errors that end in one line."""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

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


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a script's main() and exit: after a UserError with its line on stderr and code 2."""
    # Scripts let Ctrl-C end their imports at once; from here on it may leave a message.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        rank = os.environ.get("RANK", "0")  # of torchrun's processes; most errors all of them meet
        print(error if rank == "0" else f"rank {rank}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # as in main.py | head -1; at exit Python would try to write again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(0)
