"""The one training loop. It knows no model: it drives anything with

    config                        a pydantic model: what is learnt
    setup(fabric, total_steps)    moves to the device, makes `optimizers` and `schedules` (dicts)
    step(batch) -> {name: scalar} one update; the scalars stay on the device
    state_dict, load_state_dict
    networks                      what a step spends its time in: for `compiled` alone

and batches, of tensors or tuples of them, that can start at any step: `batches(epoch, skip, device, rank, world_size)`.

A run that is killed at any moment and started again ends with the same bits as one that was not (on a CPU, with the
same number of threads): checkpoints hold weights, optimisers and schedules, tables are cut back to the checkpoint,
and all chance in a step comes from the seed and the step's number.
"""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import torch

from hw2lib import processes
from hw2lib.training import devices, weights
from hw2lib.training.devices import TrainingError, machine, now, precision_of
from hw2lib.training.progress import Progress, duration
from hw2lib.training.runs import Run, RunError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def fit(
    model,
    batches,
    *,
    name: str,
    epochs: int | None = None,
    updates: int | None = None,
    evaluate: Callable[[Path, int], dict[str, float]] | None = None,
    shown: dict[str, str] | None = None,
    numbers_only: bool = False,
    data: dict | None = None,
    noted: dict | None = None,
    device: str = "auto",
    precision: str = "auto",
    runs=None,
    checkpoint_minutes: float = 5.0,
    compiled: bool = False,
    start: Callable[[], None] | None = None,
) -> Run:
    """Train `model` for `epochs` epochs, or for `updates` steps, and return its run; `model` is then trained, in eval mode.

    The run's folder depends on name, model.config, batches.description, `data` and the length. A finished run is
    loaded, a half-done one goes on. `evaluate(folder, epoch)` is called in eval mode, without gradients, after each epoch
    (the first is 1); it returns its scores, and may leave files in the run's folder. `shown` names the losses and scores
    that are printed then, and the words for them; without it all are. With `numbers_only` a finished run whose network
    was not kept is good enough: `model` then stays untrained, and only the run is of use. `noted` is kept in the
    provenance, and changes nothing.

    With `compiled`, `model.networks` are compiled for the steps: other roundings, and faster where kernels are small.
    `start`, if given, trains this very run in other processes; what they leave is loaded.

    Raises TrainingError (a loss that is not finite, another precision than the run began with), RunError (the folder)
    and Stopped (SIGINT or SIGTERM, after the step in progress and a checkpoint).
    """
    if (epochs is None) == (updates is None) or (updates if epochs is None else epochs) < 1:
        raise TrainingError(f"say either epochs or updates, 1 or more, not epochs={epochs} and updates={updates}")
    total = epochs * len(batches) if epochs else updates
    epochs = epochs or -(-updates // len(batches))
    config = {"model": model.config.model_dump(mode="json"), "batches": batches.description, "data": data or {}}
    run = Run(name, config | {"steps": total}, runs)
    if (run.finished or (numbers_only and "ended" in run.provenance)) and _is_whole(run):
        return _loaded(model, run, device, precision)
    if start:
        start()
        if not run.finished:
            raise TrainingError(f"{run.folder} was not trained: several processes train what the parameters say alone")
        return _loaded(model, run, device, precision)
    fabric = _machine_for(run, device, precision)
    with processes.first_one_only(run.begin()), _signals() as caught, ExitStack() as stack:
        if noted and fabric.is_global_zero:
            run.note(**noted)
        model.setup(fabric, total)
        if compiled:
            stack.enter_context(devices.compiled(model.networks))
        session = _Session(model, run, fabric, caught, total, epochs, checkpoint_minutes)
        model.train()
        while session.step < total:
            epoch, skip = divmod(session.step, len(batches))
            for batch in batches(epoch, skip, fabric.device, fabric.global_rank, fabric.world_size):
                _seed(model.config.seed, session.step)
                session.record(epoch, batch, model.step(batch))  # the model owns its optimisers: a GAN has two
                if session.step in (total, (epoch + 1) * len(batches)):
                    break  # no checkpoint before the evaluation: a run killed between the two would lack its row
                session.between_steps()
            session.rows.flush()
            session.end_epoch(epoch, _evaluate(model, evaluate, run.folder, epoch + 1, compiled), shown)
        session.finish()
        processes.told()  # the first has written all
    # As a network lies in memory that was loaded: with another layout the last bits of all that follows would differ.
    model.eval().to(memory_format=torch.contiguous_format)
    return run


class Stopped(KeyboardInterrupt):
    """The user stopped the training; it is checkpointed and goes on when started again."""

    def __init__(self, message: str, signal_number: int = signal.SIGINT):
        super().__init__(message)
        self.signal_number = signal_number

    def _render_traceback_(self) -> list[str]:
        return [f"Stopped: {self}"]


def _is_whole(run: Run) -> bool:
    """Whether a finished run is as its training left it; False, aloud, if its network can be made again.

    Raises RunError for other damage.
    """
    damaged = run.damaged()
    if damaged == [run.weights.name] and run.has_checkpoint:
        if not processes.rank():
            print(f"{run.weights} has been changed: it is made again from the last checkpoint", flush=True)
    elif damaged:
        what = f"{', '.join(damaged)} in {run.folder} was changed or lost after the training ended"
        raise RunError(f"{what}: put back what was there, or delete the folder to train anew")
    return not damaged


def _loaded(model, run: Run, device: str, precision: str) -> Run:
    """A finished run, its network in `model` if it was kept."""
    if run.weights.exists():
        weights.load_into(model, run.weights)
        model.to(machine(device, precision).device).eval()
    if not processes.rank():
        print(f"{run.name}: finished on {run.provenance['ended']}, loaded from {run.folder.name}", flush=True)
    return run


def _machine_for(run: Run, device: str, precision: str) -> "Fabric":
    """The machine, in the precision in which the run was begun, if it was. Raises TrainingError if another is asked for."""
    devices.keep_freed_memory()
    begun_in = run.provenance.get("precision") if run.has_checkpoint else None
    fabric = machine(device, begun_in or precision if precision == "auto" else precision)
    if begun_in and begun_in != precision_of(fabric):
        raise TrainingError(
            f"{run.folder} was begun in precision {begun_in}: go on in that, not in {precision_of(fabric)}"
        )
    return fabric


class _Session:
    """What goes on around the steps: rows, checkpoints, progress, and a stop when a signal has come."""

    def __init__(self, model, run: Run, fabric: "Fabric", caught: list[int], total: int, epochs: int, minutes: float):
        self.model, self.run, self.fabric, self.caught = model, run, fabric, caught
        self.total, self.epochs, self.minutes = total, epochs, minutes  # between checkpoints
        self.step, self.seconds_before = _resume(model, run, fabric)
        self.progress = Progress(run.name, total, self.step, not fabric.is_global_zero, run.folder)
        self.rows = _Recorder(run, fabric)
        self.began = self.saved = time.monotonic()

    def record(self, epoch: int, batch, losses: dict[str, torch.Tensor]) -> None:
        share = len(batch[0] if isinstance(batch, tuple) else batch)
        self.rows.waiting.append((epoch, self.step, share, losses))
        self.step += 1
        self.progress.step()

    def between_steps(self) -> None:
        if len(self.rows.waiting) >= self.rows.every:
            self.rows.flush()  # stops here at the first loss that is not finite
            self.stop_if_asked()
            if time.monotonic() - self.saved > 60 * self.minutes:
                self.checkpoint()

    def end_epoch(self, epoch: int, scores: dict[str, float], shown: dict[str, str] | None) -> None:
        if self.fabric.is_global_zero:
            self.run.evaluations.append([{"epoch": epoch + 1, "step": self.step, **scores}])
        values = self.rows.means_of_epoch() | scores
        words = shown or {name: name for name in values}
        numbers = {said: values[name] for name, said in words.items() if name in values}
        self.progress.epoch(epoch + 1, self.epochs, numbers)
        self.checkpoint()
        self.stop_if_asked()

    def finish(self) -> None:
        self.progress.close()
        if self.fabric.is_global_zero:
            weights.save(self.model, self.run.weights)
            self.run.seal()
            self.run.note(ended=now(), seconds=round(self.seconds(), 1))

    def seconds(self) -> float:
        """Of training, in this process and in those before it."""
        return self.seconds_before + time.monotonic() - self.began

    def checkpoint(self) -> None:
        self.saved = time.monotonic()
        if self.fabric.is_global_zero:
            self.run.save_checkpoint(self.step, {"step": self.step, "seconds": self.seconds(), **_state(self.model)})

    def stop_if_asked(self) -> None:
        stop = max(processes.of_all(self.caught[0]))
        if stop and self.step < self.total:
            self.checkpoint()
            self.progress.close()
            where = f"after step {self.step} of {self.total}, with a checkpoint in {self.run.folder}"
            raise Stopped(f"{where}: the same command goes on from there", stop)


def _state(model) -> dict:
    kinds = {"optimizers": model.optimizers, "schedules": model.schedules}
    states = {kind: {key: part.state_dict() for key, part in parts.items()} for kind, parts in kinds.items()}
    return {"model": model.state_dict()} | states


def _resume(model, run: Run, fabric: "Fabric") -> tuple[int, float]:
    """Bring model and tables to the last checkpoint; returns its step and the seconds trained so far, or 0, 0."""

    def restore(state: dict) -> None:
        model.load_state_dict(state["model"])
        for kind in ("optimizers", "schedules"):
            for key, part in getattr(model, kind).items():
                part.load_state_dict(state[kind][key])

    state = run.load_checkpoint(restore)
    step, seconds = (state["step"], state["seconds"]) if state else (0, 0.0)
    if len(set(processes.of_all(step))) > 1:
        raise TrainingError(f"{run.folder} is not one for all processes: choose a runs folder that all machines share")
    if fabric.is_global_zero:
        for table in (run.steps, run.evaluations):
            table.cut(state["tables"][table.path.name][0] if state else 0)
        run.note_start(
            {"step": step, "processes": fabric.world_size} if step else None,
            device=devices.device_name(fabric.device),
            processes=fabric.world_size,
            threads=torch.get_num_threads(),
            precision=precision_of(fabric),
            seed=model.config.seed,
            data=run.config["data"],
        )
        if step:
            print(f"{run.name}: goes on from step {step}, after {duration(seconds)} of training", flush=True)
    return step, seconds


def _seed(seed: int, step: int) -> None:
    """Every step has its own chance, so that there is no random state to keep: the step's number is enough.

    All processes have the same, and draw for the whole batch.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, step, 0)).generate_state(1, np.uint64)[0] >> 1))


def _evaluate(model, evaluate, folder: Path, epoch: int, compiled: bool) -> dict[str, float]:
    if evaluate is None:
        return {}
    scores = None
    if not processes.rank():
        model.eval()
        with torch.no_grad(), torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            scores = evaluate(folder, epoch)
        model.train()
    return processes.told(scores)


class _Recorder:
    """Rows of the history, fetched from the device a few at a time: asking for each at once would make it wait."""

    def __init__(self, run: Run, fabric: "Fabric"):
        self.run, self.fabric = run, fabric
        self.every = 1 if fabric.device.type == "cpu" else 50
        # Epoch, step, this process's share of the batch in pictures, and the losses, which are means over that share.
        self.waiting: list[tuple[int, int, int, dict[str, torch.Tensor]]] = []
        self.of_epoch: list[dict[str, float]] = []

    def flush(self) -> None:
        """Write the waiting rows. Raises TrainingError at the first number that is not finite."""
        if not self.waiting:
            return
        names = list(self.waiting[0][-1])
        values = torch.stack([torch.stack([row[name].float() for name in names]) for *_, row in self.waiting])
        if self.fabric.world_size > 1:
            shares = torch.tensor([share for *_, share, _ in self.waiting], device=values.device)[:, None]
            values = processes.summed(values * shares) / processes.summed(shares)
        rows = []
        for (epoch, step, *_), numbers in zip(self.waiting, values.tolist(), strict=True):
            row = dict(zip(names, numbers, strict=True))
            bad = next((name for name in names if not np.isfinite(row[name])), None)
            if bad:
                raise TrainingError(
                    f"{bad} is {row[bad]} at step {step + 1} (epoch {epoch + 1}): lower the learning rate, or train in "
                    f"precision 32; the last good checkpoint stays in {self.run.folder / 'checkpoint'}"
                )
            self.of_epoch.append(row)
            rows.append({"epoch": epoch + 1, "step": step + 1, **row})
        if self.fabric.is_global_zero:
            self.run.steps.append(rows)
        self.waiting.clear()

    def means_of_epoch(self) -> dict[str, float]:
        """The means over the steps since the last call, after the epoch before or the start of this process."""
        rows, self.of_epoch = self.of_epoch, []
        return {name: fmean(row[name] for row in rows) for name in rows[0]}


@contextmanager
def _signals():
    """SIGINT and SIGTERM become a mark, [0] -> [number], that the loop looks at between steps; a second one acts at once.

    Not in a group: torchrun passes on a signal that its processes may have had from the terminal, too.
    """
    caught = [0]
    if threading.current_thread() is not threading.main_thread():
        yield caught  # Python delivers signals to the main thread only
        return

    def mark(number, frame):
        caught[0] = number
        if processes.count() == 1:
            signal.signal(number, before[number])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, mark)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
