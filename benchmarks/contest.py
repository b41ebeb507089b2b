"""Two ways to do one step, timed in turn, each in a process of its own: memory settings are a process's."""

import multiprocessing
import resource
import statistics
import time


def contest(steps_of, options: dict, warm_up: int = 3) -> None:
    """Print medians, ratio and peak memory of `options["steps"]` steps of "plain" and "ours", after `warm_up` more.

    steps_of(name, options) is a module's function that returns an iterator: each `next` does a step. While one steps the
    other waits for its turn, so that both meet the same machine.
    """
    context = multiprocessing.get_context("spawn")
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    lines, processes = {}, []
    for name in times:
        lines[name], end = context.Pipe()
        process = context.Process(target=_contestant, args=(steps_of, name, options, end), daemon=True)
        process.start()
        processes.append(process)
    for turn in range(warm_up + options["steps"]):
        for name, line in lines.items():
            line.send(True)
            seconds = line.recv()
            if turn >= warm_up:
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        lines[name].send(False)
        print(
            f"{name:6} median {medians[name]:.3f} s  (min {min(values):.3f}, max {max(values):.3f})  "
            f"peak memory {lines[name].recv():.2f} GiB"
        )
    print(f"ratio  {medians['plain'] / medians['ours']:.2f}")


def _contestant(steps_of, name: str, options: dict, orders) -> None:
    """Takes a step whenever it is told to, and answers with its seconds; at the end, with its memory."""
    steps = steps_of(name, options)
    while orders.recv():
        began = time.perf_counter()
        next(steps)
        orders.send(time.perf_counter() - began)
    orders.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
