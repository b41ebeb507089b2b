"""Tables"""

TITLES = {}


def title(identifier: str) -> str:
    return TITLES[identifier]


def plus_minus(entry: dict[str, float], digits: int) -> str:
    """'0.12 ± 0.01', mean and standard deviation of an entry of study.by_value; of one seed the number alone."""
    mean = f"{entry['mean']:.{digits}f}"
    return mean if entry["count"] == 1 else f"{mean} ± {entry['deviation']:.{digits}f}"


def seeds(run) -> str:
    """'3 seeds each' or 'one seed each', of a study."""
    count = len({row["seed"] for row in run.metrics["rows"]})
    return "one seed each" if count == 1 else f"{count} seeds each"
