"""The look of all figures. It holds while one is drawn or saved; importing this changes nothing."""

from matplotlib import pyplot

STYLE = {
    "figure.dpi": 100,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
# Decorates a function that draws.
styled = pyplot.rc_context(STYLE)

# Told apart in grey print by line style and marker as well.
TRAIN, TEST, OTHER = "#3b6fb6", "#d1495b", "#777777"
LINES = (
    (TRAIN, "o-"),
    (TEST, "s--"),
    (OTHER, "^:"),
    ("#2a9d8f", "D-."),
    ("#8a5a9e", "v-"),
    ("#c77d26", "P--"),
)
