"""Work timed in processes of its own, in turn: memory, threads and caches are a process's, and noise meets all alike."""

import importlib
import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import NamedTuple


class Times(NamedTuple):
    seconds: float  # of the quickest counted piece of work: what disturbs it only makes it slower
    memory: float  # peak, in GiB
    value: object  # what the last piece gave


def contest(sides: list[tuple[str, str, dict]], turns: int, pieces: int = 1, warm_up: int = 2) -> list[Times]:
    """Times of the sides, each (module, function, options): its function gives an iterator whose `next` does a piece.

    While one side works the others wait. A turn has `pieces` counted pieces; where there are more than one, another comes
    before them: after a pause the caches are cold, and a training does not pause. Raises RuntimeError if a side fails.
    """
    context = multiprocessing.get_context("spawn")
    lines, processes, times = [], [], [[] for _ in sides]
    try:
        for side in sides:
            line, end = context.Pipe()
            processes.append(context.Process(target=_work, args=(*side, end)))
            processes[-1].start()
            end.close()  # so that the end of the process is the end of the line
            lines.append(line)
        for turn in range(turns + 1):
            for line, its in zip(lines, times, strict=True):
                line.send(warm_up if turn == 0 else pieces + (pieces > 1))
                seconds = line.recv()
                its.extend(seconds[pieces > 1 :] if turn else [])
        for line in lines:
            line.send(0)
        return [Times(min(its), *line.recv()) for its, line in zip(times, lines, strict=True)]
    except (EOFError, ConnectionError):
        raise RuntimeError("one of the sides failed, as is said above") from None
    finally:
        for process, line in zip(processes, lines, strict=False):
            line.close()
            process.join()


def _work(module: str, function: str, options: dict, orders) -> None:
    """Does as many pieces as it is told to and answers with their seconds; at the end, with memory and the last value."""
    if module == "ours":
        importlib.import_module("hw2lib")  # before torch, whose threads it tells how to wait, as in a training
    try:
        work, value = getattr(importlib.import_module(module), function)(**options), None
        while count := orders.recv():
            seconds = []
            for _ in range(count):
                began = time.perf_counter()
                value = next(work)
                seconds.append(time.perf_counter() - began)
            orders.send(seconds)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        orders.send((memory, value if isinstance(value, (int, float, dict)) else None))
    except (EOFError, ConnectionError):
        pass  # another side failed, or the user stopped it


class Others:
    """The share of the cores that other programs had meanwhile, or None where the system does not tell."""

    def __enter__(self):
        self.before = self._used()
        return self

    def __exit__(self, *error):
        everybody, ours, seconds = (now - then for now, then in zip(self._used(), self.before, strict=True))
        self.share = max(0.0, everybody - ours) / (seconds * os.cpu_count()) if everybody else None

    @staticmethod
    def _used() -> tuple[float, float, float]:
        """Seconds of the cores that all programs used, and that this one and its children did; seconds on the clock."""
        stat = Path("/proc/stat")
        user, nice, system = map(int, stat.read_text().split()[1:4]) if stat.exists() else (0, 0, 0)
        ours = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        mine = sum(its.ru_utime + its.ru_stime for its in ours)
        return (user + nice + system) / os.sysconf("SC_CLK_TCK"), mine, time.monotonic()
