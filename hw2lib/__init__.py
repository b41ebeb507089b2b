"""CycleGAN and VQ-VAE, reproduced small: the module behind the notebooks of the report."""

import difflib
import importlib
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).resolve().parent
IN_REPOSITORY = (_PACKAGE.parent / "notebooks").is_dir()
# Where weights, notebooks and presets are. In the repository they lie beside the package, with results and figures; where
# pip has installed the package without it, inside.
ROOT = _PACKAGE.parent if IN_REPOSITORY else _PACKAGE
# Where data, runs and reports go, unless another folder is named.
HOME = ROOT if IN_REPOSITORY else Path.cwd()

# Threads that spin while they wait take the cores from everybody else: on a busy machine a training took seven times as
# long. OpenMP reads this when torch starts its threads, so it is set before; what the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")


def _find_cache_folders() -> None:
    """Numba refuses and matplotlib complains where they can write no cache: the user of a container often has no home.

    Both look when they are imported, so a folder for them is named before; what the user has set stays.
    """
    usual = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    for variable, name in (("NUMBA_CACHE_DIR", "numba"), ("MPLCONFIGDIR", "matplotlib")):
        there = next(filter(os.path.exists, (usual / name, usual, *usual.parents)))
        if not usual.is_absolute() or not os.access(there, os.W_OK | os.X_OK):
            with suppress(OSError):  # with nowhere to write at all they will say so
                own = Path(tempfile.gettempdir(), f"hw2lib-{os.getuid()}")
                own.mkdir(mode=0o700, exist_ok=True)
                if own.is_symlink() or own.stat().st_uid != os.getuid():  # what numba reads runs as code
                    own = Path(tempfile.mkdtemp(prefix="hw2lib-"))
                os.environ.setdefault(variable, str(own / name))


_find_cache_folders()


def printable(text: str) -> str:
    """The text on one line: names of files may hold line breaks and bytes that no encoding has, shown as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def torchrun_rank() -> int | None:
    """The number of this process among those that torchrun has started, 0 for the first; None if it was started otherwise.

    Without torch, for what is said at start-up. A job script may set RANK by itself, so that alone says nothing.
    """
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


class Problem(Exception):
    """Something the user can put right: the message is one line that says what was wrong and what would be right."""

    def __init__(self, message: str):
        """What was given may be 5,000 letters long: the middle is left out."""
        if len(message) > 1000:
            message = f"{message[:500]} ... {message[-400:]}"
        super().__init__(printable(message))

    def _render_traceback_(self) -> list[str]:
        """Jupyter shows this instead of a traceback, which would bury the one line that matters."""
        return [f"{type(self).__name__}: {self}"]


def in_one_line(error: BaseException | str) -> str:
    """What an error says, for the inside of a Problem's message: some say nothing, some say it over many lines."""
    return " ".join(str(error).split()) or type(error).__name__


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'did you mean epochs?', the nearest of the known names, or 'there are a, b, c' where none is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"


def optional(module: str, package: str, error: type[Problem], install: str = "hw2lib[eval]") -> ModuleType:
    """A module of a package that not everybody has. Raises `error` with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as reason:
        raise error(f"{package} cannot be imported ({in_one_line(reason)}): pip install '{install}'") from None
