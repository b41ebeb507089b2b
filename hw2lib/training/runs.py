"""A run folder: what one training leaves behind, and what it needs to go on after it was killed.

    runs/<name>-<hash of the config>/
        config.json           what was asked for; another config is another folder
        history.csv           a row each step: losses as the training saw them
        epochs.csv            a row each epoch: the evaluation on the test pictures
        checkpoint/           the last two checkpoints, each with a checksum of the tables as they then were
        weights.safetensors   the trained network, once finished
        metrics.json          numbers measured afterwards, by whoever measured them
        SHA256SUMS            of what the training left, once finished; `sha256sum -c` reads it, too
        translations/         CycleGAN: test pictures translated after each epoch
        codes.npz             VQ-VAE: the codes of all pictures, for its prior
        published.safetensors the network in the form that is published, if that is another
        provenance.json       commit, versions, machine, precision, seed, data, times

Files appear whole or not at all. What was lost or changed afterwards is noticed: in a checkpoint by its own checksums, in
a table by those in the checkpoint, in a finished run by SHA256SUMS.
"""

import csv
import fcntl
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hw2lib import HOME, ROOT, Problem, did_you_mean, files, in_one_line, processes
from hw2lib.training.devices import now, surroundings

CHECKPOINTS_KEPT = 2
SUMS = "SHA256SUMS"
# What does not change once a training is finished: others add to metrics and provenance.
SUMMED = ("config.json", "epochs.csv", "history.csv", "*.safetensors", "translations/*.webp")


class RunError(Problem):
    """A run folder that cannot be read or written, or that another process is using."""


def runs_folder(folder: str | Path | None = None) -> Path:
    """Where run folders live: the argument if it says anything, else $HW2_RUNS, else `runs` in the repository."""
    return files.user_path(folder or os.environ.get("HW2_RUNS") or HOME / "runs", RunError)


write_whole = partial(files.write_whole, error=RunError)


class Table:
    """A CSV file that grows row by row and can be cut back to what a checkpoint knew."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, rows: list[dict]) -> None:
        """Add rows; the first ever row gives the columns. Raises RunError for others, or if they cannot be written."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        begun = ""
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open() as file:
                begun = file.readline()
        if not begun:
            writer.writeheader()
        elif begun != ",".join(rows[0]) + "\n":
            cure = "go on with the version that began it, or delete the folder to train anew"
            raise RunError(f"{self.path} has other columns than this version of hw2lib writes: {cure}")
        for row in rows:
            writer.writerow({k: f"{v:.7g}" if isinstance(v, float) else v for k, v in row.items()})
        with files.writing(self.path, RunError), self.path.open("a", newline="") as file:
            file.write(text.getvalue())

    def mark(self) -> tuple[int, str]:
        """Length in bytes and checksum, of rows that are on the disk: a checkpoint must never be newer than its tables."""
        if not self.path.exists():
            return 0, _checksum(b"")
        with files.writing(self.path, RunError), self.path.open("rb") as file:
            os.fsync(file.fileno())
            content = file.read()
        return len(content), _checksum(content)

    def cut(self, length: int) -> None:
        """Keep the first `length` bytes; takes no room on a full disk."""
        if self.path.exists():
            with files.writing(self.path, RunError):
                os.truncate(self.path, length)

    def require(self, mark: tuple[int, str]) -> None:
        """Raise RunError unless the table begins as it was when it was marked."""
        length, checksum = mark
        content = self.path.read_bytes()[:length] if self.path.exists() else b""
        if _checksum(content) != checksum:
            raise RunError(f"{self.path.name} has {'lost rows' if len(content) < length else 'been changed'} since")

    def read(self) -> dict[str, np.ndarray]:
        """The columns, float64 each; {} while there is no row. Raises RunError if the file is damaged."""
        if not self.path.exists():
            return {}
        try:
            with self.path.open(newline="") as file:
                header, *rows = list(csv.reader(file)) or [[]]
            values = np.array(rows, dtype=float).reshape(len(rows), len(header))
        except (OSError, ValueError, csv.Error) as error:
            raise RunError(f"{self.path} cannot be read ({in_one_line(error)}): delete {self.path.parent}") from None
        return {name: values[:, column] for column, name in enumerate(header)}


class Run:
    """One run folder. `config` says what was trained: the same config finds the same folder again."""

    is_published = False

    def __init__(self, name: str, config: dict, runs: str | Path | None = None):
        digest = _checksum(json.dumps(config, sort_keys=True).encode())[:8]
        self.name, self.config = name, config
        self.folder_name = f"{name}-{digest}"
        self._look_into(runs_folder(runs) / self.folder_name)

    def _look_into(self, folder: Path) -> None:
        self.folder = folder
        self.steps = Table(folder / "history.csv")
        self.evaluations = Table(folder / "epochs.csv")
        self.weights = folder / "weights.safetensors"

    @staticmethod
    def published(name: str) -> "PublishedRun":
        """The run of this name that the repository holds, to be read. Raises RunError if there is none."""
        return PublishedRun(name)

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Column -> a value for each step."""
        return self.steps.read()

    @property
    def epochs(self) -> dict[str, np.ndarray]:
        """Column -> a value for each epoch's evaluation."""
        return self.evaluations.read()

    @property
    def provenance(self) -> dict:
        return self._read("provenance.json")

    @property
    def metrics(self) -> dict:
        return self._read("metrics.json")

    @property
    def finished(self) -> bool:
        return "ended" in self.provenance and self.weights.exists()

    @property
    def has_checkpoint(self) -> bool:
        return bool(self._checkpoints())

    @property
    def kept_weights(self) -> Path:
        """The network that is measured and published: in a form of its own, if it has one."""
        own = self.folder / "published.safetensors"
        return own if own.exists() else self.weights

    def add_metrics(self, name: str, values: dict) -> None:
        """Keep numbers measured on the finished run under `name` in metrics.json, replacing older ones."""
        self._write("metrics.json", self.metrics | {name: values})

    def measured(self, name: str, measure: Callable[[], dict], version: int | list = 1) -> dict:
        """metrics[name] if these weights were measured in this version of `measure`, else what it returns, kept there.

        Either way it is what JSON makes of it: keys are str, tuples lists. Where there are no weights, as in a study
        or a run restored without its network, the version alone decides. Raises RunError for a number that is not finite.
        """
        metrics, stamp = self.metrics, self.stamp(version)
        kept = metrics.get("measured_with", {}).get(name, {})
        if name in metrics and kept.get("version") == version and stamp["weights"] in ("", kept["weights"]):
            return metrics[name]
        values = measure()
        try:
            values = json.loads(json.dumps(values, allow_nan=False))
        except ValueError as error:
            raise RunError(f"{name} of {self.folder_name} cannot be kept: {in_one_line(error)}") from None
        metrics = self.metrics  # read anew: measuring may have kept more
        self._write(
            "metrics.json",
            metrics | {name: values, "measured_with": metrics.get("measured_with", {}) | {name: self.stamp(version)}},
        )
        return values

    def stamp(self, version: int | list = 1) -> dict:
        """What `measured` keeps beside its numbers: their version and a checksum of the weights, "" without any."""
        path = self.kept_weights
        digest = _checksum(path.read_bytes())[:16] if path.exists() else ""
        return {"version": version, "weights": digest}

    def _read(self, name: str) -> dict:
        path = self.folder / name
        try:
            values = json.loads(path.read_text()) if path.exists() else {}
            if not isinstance(values, dict):
                raise ValueError("it holds no names")
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} cannot be read ({error}): delete it or the whole folder") from None
        return values

    def _write(self, name: str, values: dict) -> None:
        write_whole(self.folder / name, (json.dumps(values, indent=2) + "\n").encode())

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Make the folder and hold it: two processes must not train the same run."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise RunError(f"cannot write in {self.folder} ({error.strerror}): choose another runs folder") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"{self.folder} is being trained by another process: wait for it or stop it") from None
            except OSError as error:  # such disks there are, on clusters
                print(f"{self.folder} cannot be locked ({error.strerror}): do not train it twice at once", flush=True)
            self._write("config.json", self.config)
            self._drop_old_checkpoints()  # a kill may have come between a new one and this
            if "ended" in (before := self.provenance):  # until it ends again it is half done
                self._write("provenance.json", {name: fact for name, fact in before.items() if name != "ended"})
            yield

    def note(self, **facts) -> None:
        """Add to the provenance."""
        self._write("provenance.json", self.provenance | facts)

    def note_start(self, goes_on: dict | None, **facts) -> None:
        """Add `facts` and surroundings to the provenance; of a run that goes on, that it does: when, and `goes_on`."""
        facts, before = surroundings() | facts, self.provenance
        if before and goes_on:
            here = goes_on | {"at": now(), "commit": facts["commit"]}
            self.note(resumed=[*before.get("resumed", []), here])
        else:
            self.note(**facts, started=now())

    def seal(self) -> None:
        """Write SHA256SUMS, when all that the training leaves is there; of the same files where it is written again."""
        left = self._sums() or {
            str(path.relative_to(self.folder)) for pattern in SUMMED for path in self.folder.glob(pattern)
        }
        write_whole(self.folder / SUMS, files.as_sums({name: self._sum(name) for name in sorted(left)}).encode())

    def damaged(self) -> list[str]:
        """Names of files that are not as `seal` found them. A network that is gone is not counted: numbers need none."""
        if not (self.folder / SUMS).exists():  # an older run
            return []
        names = [name or SUMS for name, known in self._sums().items() if self._sum(name) != known]
        return [name for name in names if name != self.weights.name or self.weights.exists()]

    def _sums(self) -> dict[str, str]:
        path = self.folder / SUMS
        return files.from_sums(path.read_text(errors="replace") or "\n") if path.exists() else {}

    def _sum(self, name: str) -> str | None:
        path = self.folder / name
        return _checksum(path.read_bytes()) if path.is_file() else None

    def save_checkpoint(self, step: int, state: dict) -> None:
        """Write a checkpoint after `step` steps and drop all but the last two."""
        tables = {table.path.name: table.mark() for table in (self.steps, self.evaluations)}
        content = io.BytesIO()
        torch.save(state | {"tables": tables}, content)
        write_whole(self.folder / "checkpoint" / f"step-{step:08d}.pt", content.getvalue())
        self._drop_old_checkpoints()

    def _drop_old_checkpoints(self) -> None:
        for old in self._checkpoints()[:-CHECKPOINTS_KEPT]:
            old.unlink()

    def load_checkpoint(self, restore: Callable[[dict], None]) -> dict | None:
        """The newest checkpoint that is whole, fits the tables and is taken by `restore`, or None if there are none.

        Says what is wrong with newer ones. Raises RunError if none of those that are there can be used.
        """
        checkpoints, why = self._checkpoints(), []
        for path in reversed(checkpoints):
            try:
                with zipfile.ZipFile(path) as file:  # torch writes checksums and does not look at them
                    if file.testzip():
                        raise ValueError("it has been changed")
                state = torch.load(path, map_location="cpu", weights_only=True)  # runs no code
                for table in (self.steps, self.evaluations):
                    table.require(state["tables"][table.path.name])
                restore(state)
                return state
            except Exception as error:  # a damaged file can raise nearly anything
                why.append(f"{type(error).__name__}: {in_one_line(error)}"[:300])
                if not processes.rank():
                    print(f"{path} cannot be used ({why[-1]}): trying the one before", flush=True)
        if checkpoints:
            raise RunError(
                f"no checkpoint in {checkpoints[0].parent} can be used ({why[0]}): delete {self.folder} to train anew"
            )
        return None

    def _checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoint").glob("step-*.pt"))


class PublishedRun(Run):
    """A run as the repository holds it, in results/<name> and weights/<name>.safetensors: to be read only."""

    is_published = True

    def __init__(self, name: str):
        folder = ROOT / "results" / name
        self._look_into(folder)
        config = self._read("config.json")
        if not config:
            raise RunError(f"there is no published run {name} in {folder.parent}: get the whole repository")
        super().__init__(name, config)
        self._look_into(folder)
        self.weights = ROOT / "weights" / f"{name}.safetensors"

    @property
    def kept_weights(self) -> Path:
        return self.weights

    def measured(self, name: str, measure: Callable[[], dict] | None = None, version: int | list = 1) -> dict:
        """metrics[name], whatever its version. Raises RunError if that was not published."""
        if name not in self.metrics:
            raise RunError(f"{name} was not published with {self.name}: {did_you_mean(name, self.metrics)}")
        return self.metrics[name]

    def begin(self):
        self._write("config.json", self.config)

    def _write(self, name: str, values: dict) -> None:
        raise RunError(f"{self.folder} is published and stays as it is: nothing is trained or measured there")


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
