"""Numbers: metrics, the judge, score cards of translations, codec, prior and new pictures, maps of the codebook.

Models and tensors in, numbers out; imports models, data and training, is imported by recipes, studies, report and notebooks.
Keys are identifiers, titles the report's. What is called `measure_...` keeps what it measures in the run's metrics.json; the judge's
packages and UMAP are imported when they are first needed.
"""

from hw2lib.evaluation.judge import Judge, JudgeError

__all__ = ["Judge", "JudgeError"]
