"""How every command starts and ends. Commands import this before anything else."""

import atexit
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [ROOT / f"{name}.py" for name in ("dataset", "model", "main", "compare", "predict")]
STARTED = Path(getattr(sys.modules["__main__"], "__file__", "/")).resolve()
# And no notebook, no %run in one, no python -i, no debugger, no script of the user's own.
IS_COMMAND = (STARTED in SCRIPTS or STARTED.parent in (ROOT / "experiments", ROOT / "tests")) and (
    {"IPython", "bdb", "idlelib", "coverage"}.isdisjoint(sys.modules) and not sys.flags.interactive
)


def _explain_missing_package(kind: type, error: Any, traceback: Any) -> None:
    """Print a line in place of a traceback where the environment is another one."""
    name = error.name if kind is ModuleNotFoundError else None
    package = (name or "").partition(".")[0]
    ours = (ROOT / package).exists() or (ROOT / f"{package}.py").exists()
    if not package or ours:
        sys.__excepthook__(kind, error, traceback)
        return
    advice = "activate the environment, or run: pip install -r requirements.txt"
    print(f"{package}: not installed for {sys.executable}; {advice}", file=sys.stderr)
    os._exit(2)


if IS_COMMAND:
    sys.excepthook = _explain_missing_package
    if not sys.stderr:  # closed, as for a daemon: progress bars want one
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    # Ctrl-C ends the imports without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Plots are files: a window system that is set for other programs may be missing here.
    os.environ["MPLBACKEND"] = "agg"

from utils.files import UserError  # noqa: E402 - the first that needs a package

# What PyTorch's RuntimeErrors say where Python has a MemoryError.
OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory")


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a script's main() and exit.

    After a UserError, or what the system refuses, a line is on stderr and the code is 2.
    """
    # Commands let Ctrl-C end their imports at once; from here on it may leave a message.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the encoding lacks is escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    code = 0
    try:
        main()
        if sys.stdout:  # None if it is closed
            sys.stdout.flush()
    except UserError as error:
        print(error, file=sys.stderr)
        code = 2
    except BrokenPipeError:  # as in main.py | head -1
        code = 141
    except OSError as error:  # a name that is too long, a full disk behind stdout
        print(f"{error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        code = 2
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(t in str(error) for t in OUT_OF_MEMORY):
            raise
        advice = "a smaller --batch_size, fewer runs at once or fewer other programs may help"
        print(f"out of memory; {advice}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        code = 130
    if IS_COMMAND:
        # At once: to take down PyTorch, module by module, takes Python up to a second. What is
        # left for a closed or full stdout is not written again.
        atexit._run_exitfuncs()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
