"""CycleGAN and VQ-VAE, reproduced small: the module behind the notebooks of the report."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the repository: notebooks, results and figures lie beside the package


class Problem(Exception):
    """Something the user can put right: the message is one line that says what was wrong and what would be right."""

    def _render_traceback_(self) -> list[str]:
        """Jupyter shows this instead of a traceback, which would bury the one line that matters."""
        return [f"{type(self).__name__}: {self}"]


def in_one_line(error: BaseException | str) -> str:
    """What an error says, for the inside of a Problem's message: some say nothing, some say it over many lines."""
    return " ".join(str(error).split()) or type(error).__name__
