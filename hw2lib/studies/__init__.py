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

    study, length = {
        "ablations": (cyclegan_parts.ablate, "answer_steps"),
        "plane": (plane.plane, "answer_steps"),
        "linear-vae": (posterior_collapse.linear_vae, None),
        "decoder-power": (posterior_collapse.decoder_power, "answer_steps"),
        "ring": (mode_collapse.ring, "answer_steps"),
        "codebook-terms": (codebooks.terms, "answer_updates"),
        "codebook-starts": (codebooks.starts, "answer_updates"),
        "codebook-quantizers": (codebooks.other_quantizers, "answer_updates"),
    }[name]
    seeds = asked.plane_seeds if name == "plane" else asked.answer_seeds
    if length:
        given[length.partition("_")[2]] = getattr(asked, length)
    return study(runs=asked.runs, seeds=range(seeds), n_jobs=asked.jobs, **given)
