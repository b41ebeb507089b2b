"""Studies: the experiments behind the written answers. Cases, seeds and rows of numbers; they know no prose.

They use all of the package but `report`, which, as the notebooks do, reads their results (`study`, `findings`).
Always computed on the CPU in float32, one thread a training, `n_jobs` trainings side by side.
"""

from hw2lib.training import Run


def load_or_run(name: str, asked, **given) -> Run:
    """A study by its name, published or made anew, as the notebook's parameters `asked` say.

    "ablations", "plane", "linear-vae", "decoder-power", "ring"; and "codebook-terms", "codebook-starts", "codebook-quantizers", which
    are given `pictures` and `config`. Raises KeyError for other names, and RunError.
    """
    if asked.experiments == "published":
        return Run.published(name)

    from hw2lib.studies import codebooks, cyclegan_parts, mode_collapse, plane, posterior_collapse

    shared = {"runs": asked.runs, "seeds": range(asked.answer_seeds), "n_jobs": asked.jobs}
    study, length = {
        "ablations": (cyclegan_parts.ablate, "steps"),
        "plane": (plane.plane, "steps"),
        "linear-vae": (posterior_collapse.linear_vae, None),
        "decoder-power": (posterior_collapse.decoder_power, "steps"),
        "ring": (mode_collapse.ring, "steps"),
        "codebook-terms": (codebooks.terms, "updates"),
        "codebook-starts": (codebooks.starts, "updates"),
        "codebook-quantizers": (codebooks.other_quantizers, "updates"),
    }[name]
    if length:
        shared[length] = getattr(asked, f"answer_{length}")
    return study(**shared, **given)
