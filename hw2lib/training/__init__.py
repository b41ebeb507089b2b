"""The one training loop and what a training leaves behind: machine, run folder, progress, weights.

Knows no model, no data and no evaluation: it trains whatever has the methods that `loop` lists. Importing it is quick:
lightning_fabric, which takes seconds, is imported where a training begins.
"""

from hw2lib.training import weights
from hw2lib.training.devices import TrainingError, keep_freed_memory, machine, now, require_devices
from hw2lib.training.loop import Stopped, fit
from hw2lib.training.progress import Progress, duration
from hw2lib.training.runs import Run, RunError, Table, runs_folder, write_whole
from hw2lib.training.weights import WeightsError

__all__ = [
    "Progress",
    "Run",
    "RunError",
    "Stopped",
    "Table",
    "TrainingError",
    "WeightsError",
    "duration",
    "fit",
    "keep_freed_memory",
    "machine",
    "now",
    "require_devices",
    "runs_folder",
    "weights",
    "write_whole",
]
