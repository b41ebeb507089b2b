"""How a long job shows that it lives: a bar where somebody watches, a line an epoch where a log is kept."""

import json
import os
import sys
import time
from pathlib import Path

from tqdm.auto import tqdm

FIRST_ESTIMATE = 20  # steps; the very first ones are slow


def duration(seconds: float) -> str:
    """3700 -> '1 h 02 min', 130 -> '2 min 10 s', 7.2 -> '7 s'."""
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"


def somebody_watches() -> bool:
    """True on a terminal and in live Jupyter; False in logs, pipes and notebooks that are run headless."""
    if os.environ.get("HW2_PROGRESS"):
        return os.environ["HW2_PROGRESS"] == "bar"
    if "ipykernel" not in sys.modules:
        return sys.stderr.isatty()
    try:
        import psutil  # comes with ipykernel

        started_by = " ".join(psutil.Process().parent().cmdline())
    except Exception:  # no such package, or a process that may not be looked at
        return False
    return not any(name in started_by for name in ("papermill", "nbconvert", "pytest"))


def left(seconds: float, run: Path | None = None) -> str:
    """'5 min 02 s left'; in a report of this part, and, where times of its runs are on record, about as much of the whole.

    A run that has not ended beside this one, whose folder is `run`, counts as long as it took on record.
    """
    part, recorded = os.environ.get("HW2_PART"), json.loads(os.environ.get("HW2_RECORDED", "{}"))
    said = f"{duration(seconds)} left" + (f" of this part of {part}" if part else "")
    if run is None or run.name not in recorded:
        return said
    ended = {file.parent.name for file in run.parent.glob("*/provenance.json") if '"ended"' in file.read_text()}
    others = sum(recorded[name] for name in recorded.keys() - ended - {run.name})
    return f"{said}, about {duration(seconds + others)} of the report"


class Progress:
    """Counts the steps of a job, `done` of which were done before; `quiet` says nothing at all; `run` is as in `left`."""

    def __init__(self, name: str, total: int, done: int = 0, quiet: bool = False, run: Path | None = None):
        self.name, self.total, self.done, self.quiet, self.run = name, total, done, quiet, run
        self.before, self.began = done, time.monotonic()
        watched = somebody_watches() and not quiet
        self.bar = tqdm(total=total, initial=done, desc=name, unit="step") if watched else None

    def left(self) -> str:
        """By the mean speed since this process began."""
        speed = (time.monotonic() - self.began) / max(1, self.done - self.before)
        return left(speed * (self.total - self.done), self.run)

    def step(self) -> None:
        self.done += 1
        if self.bar is not None:
            self.bar.update()
        elif self.done - self.before == FIRST_ESTIMATE:
            self.say(f"{self.total - self.done} steps to go, about {self.left()}")

    def epoch(self, epoch: int, epochs: int, scores: dict[str, float]) -> None:
        """One line for a finished epoch, with numbers under the words that they are given under."""
        numbers = ", ".join(f"{name} {value:{'.3g' if value < 1000 else '.0f'}}" for name, value in scores.items())
        ending = self.left() if self.done < self.total else "done"
        self.say(f"epoch {epoch} of {epochs}: {numbers}; {duration(time.monotonic() - self.began)} so far, {ending}")

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(f"{self.name}: {text}")
        elif not self.quiet:
            print(f"{self.name}: {text}", flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
