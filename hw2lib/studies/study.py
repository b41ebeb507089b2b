"""A study: many small trainings, one for each case, side by side, whose numbers are the results. Measured ones are kept.

Its numbers are read by `by_case` (summed up over seeds), `values` (each seed's) and the comparisons of entries below.
"""

import json
import statistics
import time
from collections.abc import Callable
from itertools import chain, count

import torch
from joblib import Parallel, delayed
from torch import Tensor

from hw2lib.training import Run, keep_freed_memory, machine, now
from hw2lib.training.devices import device_name
from hw2lib.training.progress import left

# What names a case, such as {"variant": "no_cycle_loss", "seed": 0}; all cases of a study have the same names.
Case = dict[str, str | int | float]


def study(
    name: str,
    settings: dict,
    cases: list[Case],
    measure: Callable[[Case], dict[str, float]],
    runs=None,
    options: dict[str, dict] | None = None,
    n_jobs: int = 1,
) -> Run:
    """Measure every case that is not measured yet, `n_jobs` side by side; `rows` of the run gives the numbers.

    `measure(case)` returns the numbers of a case and must depend on the case, `settings` and `options` alone. Settings
    are the identity of the run: with more cases it is the same run, and what is finished is kept. `options` say what
    values of a case stand for, {"variant": {"full": {...}}}; a row whose options changed is measured anew.

    On the CPU, one thread a case, bit for bit the same with any n_jobs; joblib.parallel_config gives other backends than
    joblib's processes. Raises RunError, as when another process is measuring the same study.
    """
    run = Run(name, {"settings": settings}, runs)
    options = json.loads(json.dumps(options or {}))
    kept, missing = _look(run, cases, options)
    if not missing and "ended" in run.provenance:
        print(f"{name}: finished on {run.provenance['ended']}, loaded from {run.folder.name}", flush=True)
        return run
    with run.begin():
        # Anew: another process may have measured until now.
        kept, missing = _look(run, cases, options)
        cpu = device_name(torch.device("cpu"))
        run.note_start({"rows": len(kept)} if kept else None, device=cpu, threads=1, seconds=0.0)
        run.add_metrics("varied", list(cases[0]))
        # Before the options: a kill between the two must leave no row that was measured with others.
        run.add_metrics("rows", kept)
        known = run.metrics.get("options", {})
        run.add_metrics("options", {key: known.get(key, {}) | options.get(key, {}) for key in known | options})
        began, before = time.monotonic(), run.provenance["seconds"]
        parallel = Parallel(n_jobs, return_as="generator_unordered", pre_dispatch="n_jobs")
        results = parallel(delayed(_measure_alone)(measure, case) for case in missing)
        for done, row in enumerate(results, 1):
            kept = _in_order([*kept, row], cases)
            run.add_metrics("rows", kept)
            spent = time.monotonic() - began
            run.note(seconds=round(before + spent, 1))
            place = f"case {len(cases) - len(missing) + done} of {len(cases)}"
            words = ", ".join(f"{name} {row[name]}" for name in cases[0])
            print(f"{name}: {place}: {words}; {left(spent / done * (len(missing) - done), run.folder)}", flush=True)
        run.note(ended=now())
    return run


def _look(run: Run, cases: list[Case], options: dict[str, dict]) -> tuple[list[dict], list[Case]]:
    """The rows that still hold, and the cases that none of them is of."""
    known = run.metrics.get("options", {})
    kept = [row for row in run.metrics.get("rows", []) if not _changed(row, known, options)]
    return kept, [case for case in cases if not any(_is(case, row) for row in kept)]


def _changed(row: dict, known: dict[str, dict], options: dict[str, dict]) -> bool:
    """Whether a value of the row stands for something else in `options` than in those that are known of it."""
    return any(
        row[name] in its and known.get(name, {}).get(row[name]) != its[row[name]] for name, its in options.items()
    )


def _is(case: Case, row: dict) -> bool:
    return all(row[name] == value for name, value in case.items())


def _in_order(rows: list[dict], cases: list[Case]) -> list[dict]:
    """Rows of the cases that are asked for in their order, those of others behind."""
    places = [next((place for place, case in enumerate(cases) if _is(case, row)), len(cases)) for row in rows]
    return [row for _, row in sorted(zip(places, rows, strict=True), key=lambda pair: pair[0])]


def _measure_alone(measure: Callable[[Case], dict[str, float]], case: Case) -> dict:
    """The row of a case, on one thread: sums over threads depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return case | measure(case)
    finally:
        torch.set_num_threads(threads)


def train_briefly(model, batches, steps: int, seed: int, before_step: Callable | None = None) -> dict[str, Tensor]:
    """Train on the CPU in float32, and leave in eval mode: what `step` returned at each step, (steps,) each.

    `batches(epoch)` deals an epoch; `seed` is that of the chance in steps, which is not torch's own. `before_step(stream)`
    may take further batches from the stream that the step takes one from.
    """
    keep_freed_memory()
    model.setup(machine("cpu", "32"), steps)
    stream = chain.from_iterable(batches(epoch) for epoch in count())
    model.train()
    history = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(steps):
            if before_step:
                before_step(stream)
            history.append(model.step(next(stream)))
    model.eval()
    return {name: torch.stack([found[name] for found in history]) for name in history[0]}


def at_the_end(history: dict[str, Tensor]) -> dict[str, float]:
    """Means over the last tenth of the steps, one at least, of what `train_briefly` returns."""
    return {name: float(losses[-max(1, len(losses) // 10) :].mean()) for name, losses in history.items()}


def rows(run: Run) -> list[dict]:
    """The measured cases of a study: the case's values and its numbers."""
    return run.metrics["rows"]


def seeds(run: Run) -> int:
    """How many seeds each case has been measured with."""
    return len({row["seed"] for row in rows(run)})


def by_case(run: Run) -> dict:
    """Each number over the seeds of a case: an entry {"mean", "deviation", "min", "max", "count"}.

    Found by the case's values, one inside the other: by_case(terms)["gradient"]["codebook"]["test_nmse"]["mean"]. In the
    order of the rows. The deviation is that of a sample, 0 for one seed. Numbers that only some seeds have are left out.
    """
    names = [name for name in run.metrics["varied"] if name != "seed"]
    groups: dict[tuple, list[dict]] = {}
    for row in rows(run):
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    found: dict = {}
    for (*outer, last), group in groups.items():
        place = found
        for value in outer:
            place = place.setdefault(value, {})
        scores = [name for name in group[0] if name not in (*names, "seed") and all(name in row for row in group)]
        place[last] = {name: _entry([row[name] for row in group]) for name in scores}
    return found


def _entry(numbers: list[float]) -> dict[str, float]:
    return {
        "mean": statistics.fmean(numbers),
        "deviation": statistics.stdev(numbers) if len(numbers) > 1 else 0.0,
        "min": min(numbers),
        "max": max(numbers),
        "count": len(numbers),
    }


def values(run: Run, over: str, score: str, **fixed) -> dict[str | float, list[float]]:
    """Value of `over` -> `score` of each seed, of the cases in which `fixed` holds."""
    found: dict[str | float, list[float]] = {}
    for row in rows(run):
        if _is(fixed, row):
            found.setdefault(row[over], []).append(row[score])
    return found


def above(one: dict[str, float], other: dict[str, float]) -> bool:
    """Whether of two entries every seed of one is greater than every seed of the other."""
    return one["min"] > other["max"]


def differ(one: dict[str, float], other: dict[str, float]) -> bool:
    """Whether of two entries all seeds of one lie on the same side of all seeds of the other."""
    return above(one, other) or above(other, one)
