"""A study: one small experiment, measured on several cases, such as variants times seeds.

It is kept in a run folder (see hw2lib.training.runs), where metrics.json has a row for each case that is done. Asked for again, a
finished study is read, and one that was killed goes on with the cases that are missing.
"""

import statistics
import time
from collections.abc import Callable

import torch

from hw2lib.training import devices
from hw2lib.training.progress import duration
from hw2lib.training.runs import Run, now, surroundings

Case = dict[str, str | int | float]


def study(name: str, settings: dict, cases: list[Case], measure: Callable[[Case], dict[str, float]], runs=None) -> Run:
    """Measure every case that is not measured yet; `rows` of the run gives the numbers.

    A case is named by its values, such as {"variant": "no cycle loss", "seed": 0}, all cases by the same names;
    `measure(case)` returns its numbers and must depend on the case and on `settings` alone, which with the cases are the
    identity of the run. Computed on the CPU. Raises RunError, as when another process is measuring the same study.
    """
    run = Run(name, {"settings": settings, "cases": cases}, runs)
    if "ended" in run.provenance:
        print(f"{name}: finished on {run.provenance['ended']}, loaded from {run.folder.name}", flush=True)
        return run
    with run.begin():
        done = run.metrics.get("rows", [])
        if not done:
            machine = {
                "device": devices.device_name(torch.device("cpu")),
                "threads": torch.get_num_threads(),
            }
            run.note(**surroundings(), **machine, started=now(), seconds=0.0)
        measured = [{name: row[name] for name in cases[0]} for row in done]
        missing = [case for case in cases if case not in measured]
        began = time.monotonic()
        for count, case in enumerate(missing, 1):
            start = time.monotonic()
            done.append(case | measure(case))
            run.add_metrics("rows", done)
            run.note(seconds=round(run.provenance["seconds"] + time.monotonic() - start, 1))
            left = (time.monotonic() - began) / count * (len(missing) - count)
            words = ", ".join(f"{value}" for value in case.values())
            print(f"{name} {len(done)}/{len(cases)}: {words}  ({duration(left)} left)", flush=True)
        run.note(ended=now())
    return run


def rows(run: Run) -> list[dict]:
    """The measured cases of a study: the case's values and its numbers."""
    return run.metrics["rows"]


def by_case(run: Run, without: str = "seed") -> dict[tuple, dict[str, dict[str, float]]]:
    """Mean, standard deviation, least and greatest of each number over the cases that differ in `without` alone.

    {("no cycle loss",): {"truth": {"mean": .1, "deviation": .02, "min": .08, "max": .12, "count": 3}}}, in the order
    of the cases; the keys are the values of the cases but for `without`. The deviation is that of a sample, 0 for one.
    """
    names = [name for name in run.config["cases"][0] if name != without]
    groups: dict[tuple, list[dict]] = {}
    for row in rows(run):
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return {
        key: {
            name: {
                "mean": statistics.fmean(values),
                "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
                "min": min(values),
                "max": max(values),
                "count": len(values),
            }
            for name in group[0]  # not every case has every number
            if name not in (*names, without)
            for values in [[row[name] for row in group]]
        }
        for key, group in groups.items()
    }


def by_value(run: Run) -> dict[str | float, dict[str, dict[str, float]]]:
    """`by_case` of a study that varies one thing beside the seed, by the values of that thing."""
    return {value: found for (value,), found in by_case(run).items()}


def values(run: Run, over: str, score: str, **fixed) -> dict[str | float, list[float]]:
    """Value of `over` -> `score` of each seed, of the cases in which `fixed` holds."""
    found: dict[str | float, list[float]] = {}
    for row in rows(run):
        if all(row[name] == value for name, value in fixed.items()):
            found.setdefault(row[over], []).append(row[score])
    return found


def differ(one: dict[str, float], other: dict[str, float]) -> bool:
    """Whether of two entries of `by_case` all seeds of one lie on the same side of all seeds of the other."""
    return one["max"] < other["min"] or other["max"] < one["min"]


def spread(found: dict[str, float], digits: int = 3) -> str:
    """'0.123 ± 0.003', mean and standard deviation of an entry of `by_case`; only the number where it is of one run."""
    mean = f"{found['mean']:.{digits}f}"
    return mean if found["count"] == 1 else f"{mean} ± {found['deviation']:.{digits}f}"


def seeds_in_words(run: Run) -> str:
    """'3 seeds each' or 'one seed each', of a study whose cases have seeds."""
    count = len({case["seed"] for case in run.config["cases"]})
    return "one seed each" if count == 1 else f"{count} seeds each"
