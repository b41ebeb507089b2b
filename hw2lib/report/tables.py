"""
Every table of the report: numbers in, rows out, a list of dicts of column -> cell for `show.table`.

    of a study (a run)       scores(run, variants)  plane(run, variants)  terms(run)  starts(run)  quantizers(run)
    of runs                  provenance(run)  schedules(runs)  trainings(runs, cards)
    of metrics (dicts)       card(rows)  beside(found)  hidden(found)  gradients(facts)  likelihoods(rows, places)
                             identities(found, places)  codecs(reconstruction)  comparison(found)  fids(found)
    of networks              layers(network, x)  losses(found)  count_weights(network)

Results are kept under identifiers; what a reader sees instead is in `titles`.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from hw2lib.evaluation.codec import CODEC_BITS
from hw2lib.evaluation.metrics import psnr
from hw2lib.report.markdown import escape
from hw2lib.report.titles import Entry, plus_minus, size, title
from hw2lib.studies.findings import lead
from hw2lib.studies.plane import outcomes
from hw2lib.studies.study import by_case, rows
from hw2lib.training.progress import duration
from hw2lib.training.runs import Run

# What the best-known notebooks of the same network print for their training batches after 1,000 updates of 32 pictures
# at learning rate 3e-4 with an EMA codebook: (NMSE, perplexity). The second prints errors on [-1, 1]; here divided by 4.
PRINTED_AT_1000 = {
    "google-deepmind/sonnet, vqvae_example.ipynb": (0.105, 71.8),
    "zalandoresearch/pytorch-vq-vae, 2018": (0.184, 17.2),
}
# Of a picture, a code of the VQ-VAE stands for 4 x 4 pixels of three colours.
NUMBERS_A_CODE = 4 * 4 * 3

Row = dict[str, str]


# ---- networks


def count_weights(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(weight.numel() for weight in network.parameters())


def layers(network: nn.Module, x: Tensor) -> list[Row]:
    """The layers that have weights, in the order in which a batch x (B, C, H, W) passes them, and what each makes of it."""
    passed: list[tuple[str, str, int]] = []

    def note(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        passed.append((_layer(layer), " x ".join(map(str, output.shape[1:])), count_weights(layer)))

    hooks = [layer.register_forward_hook(note) for layer in _parts(network)]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    times = {found: passed.count(found) for found in passed}
    return [
        {
            "layer": words if count == 1 else f"{words}, {count} times",
            "output, C x H x W": shape,
            "weights": f"{count * weights:,}",
        }
        for (words, shape, weights), count in times.items()
    ]


def _parts(network: nn.Module) -> Iterator[nn.Module]:
    """The layers with weights inside of plain sequences; a block that is more than that is one layer."""
    for layer in network.children():
        if type(layer) in (nn.Sequential, nn.ModuleList):
            yield from _parts(layer)
        elif count_weights(layer):
            yield layer


def _layer(layer: nn.Module) -> str:
    """'convolution 4 x 4, stride 2', 'residual block'."""
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(layer).__name__).lower()
    kind = "transposed convolution" if isinstance(layer, nn.ConvTranspose2d) else "convolution"
    stride = f", stride {layer.stride[0]}" if layer.stride[0] > 1 else ""
    return f"{kind} {layer.kernel_size[0]} x {layer.kernel_size[1]}{stride}"


def losses(found: Mapping[str, float | Tensor]) -> list[Row]:
    """What one training step returns."""
    return [
        {"in one step": title(name), "value": f"{torch.as_tensor(value).item():.4g}"} for name, value in found.items()
    ]


# ---- CycleGAN


def scores(run: Run, variants: Sequence[str]) -> list[Row]:
    """Variants of the ablations, from horse to zebra, between doing nothing, one colour for all, and the true counterparts.

    A variant without a way back has no scores of it: –.
    """
    columns = {
        "truth_ab": "to the truth",
        "animal_ab": "on the animal",
        "background_ab": "background",
        "stripes_ab": "stripes",
        "cycle_aba": "cycle error",
    }
    cases, ends = by_case(run), run.metrics["ends"]

    def end(name: str) -> Row:
        return {"case": title(name)} | {
            column: f"{ends[name][score]:.3f}" if score in ends[name] else "" for score, column in columns.items()
        }

    def variant(name: str) -> Row:
        found = cases[name]
        return {"case": title(name)} | {
            column: plus_minus(found[score], 3) if score in found else "–" for score, column in columns.items()
        }

    return [end("doing_nothing"), end("one_colour"), *map(variant, variants), end("true_counterparts")]


def plane(run: Run, variants: Sequence[str]) -> list[Row]:
    """Variants of CycleGAN in the plane (studies.plane), from a to b."""
    cases, found = by_case(run), outcomes(rows(run))
    return [
        {
            "case": title(name),
            "all modes hit": f"{found[name]['hit']} of {found[name]['trainings']}",
            "near a mode": f"{cases[name]['near_ab']['mean']:.2f}",
            "cycle error": f"{cases[name]['cycle_aba']['mean']:.4f}",
            "moved": f"{cases[name]['moved_ab']['mean']:.2f}",
            "kept, turned, mirrored": ", ".join(str(found[name][kind]) for kind in ("kept", "turned", "mirrored")),
            "loss of G": f"{cases[name]['g_ab']['mean']:.2f}",
            "lead of D": f"{lead(cases[name]):.2f}",
        }
        for name in variants
    ]


def card(rows: dict[str, dict[str, float]], second: dict[str, dict[str, float]] | None = None) -> list[Row]:
    """Sets of pictures between their two ends: translations into one domain, or new pictures (evaluation.scorecards).

    second: what the second judge says of the same sets, if that is to stand beside.
    """
    return [{"pictures": title(name)} | _distances(row | (second or {}).get(name, {})) for name, row in rows.items()]


def _distances(row: dict[str, float]) -> Row:
    if "truth" in row:
        return {
            "difference to the truth": f"{row['truth']:.3f}",
            "change of the background": f"{row['background']:.3f}",
        }
    shares = {
        "zebra": "called zebra",
        "hoofed": "called another hoofed animal",
        "second_b": "zebra to the second judge" if "zebra" in row else "B to the second judge",
    }
    return {words: f"{row[name]:.1%}" for name, words in shares.items() if name in row} | {
        "KD": f"{row['kd']:z.3f} ± {row['kd_error']:.3f}",
        "gap closed, KD": f"{row['kd_closed']:.0%} ± {row['kd_closed_error']:.0%}" if "kd_closed" in row else "",
        "FD": f"{row['fd']:.1f}",
        "gap closed, FD": f"{row['fd_closed']:.0%}" if "fd_closed" in row else "",
    }


def fids(found: dict[str, float]) -> list[Row]:
    """The standard FID of each set of pictures."""
    return [{"pictures": title(name), "FID": f"{value:.1f}"} for name, value in found.items()]


def beside(found: dict[str, dict[str, float]]) -> list[Row]:
    """Two runs side by side, with the identity loss and without it: a score a row."""
    scores = {
        "zebra_ab": "called zebra, A to B",
        "kd_ab": "KD, A to B",
        "kd_ba": "KD, B to A",
        "truth_ab": "difference to the truth, A to B",
        "background_ab": "change of the background, A to B",
        "shift_ab": "colour shift, A to B",
        "shift_ba": "colour shift, B to A",
        "cycle": "cycle loss of that epoch's steps",
    }
    measured = next(iter(found.values()))
    return [
        {"score": words} | {title(name): f"{row[score]:.3f}" for name, row in found.items()}
        for score, words in scores.items()
        if score in measured
    ]


def trainings(runs: Sequence[Run], cards: Mapping[str, dict]) -> list[Row]:
    """Trainings that differ by seed or length: KD after the last epoch, and its range over the last five. Of photographs."""
    found = []
    for to, way, direction in (("b", "ab", "A to B"), ("a", "ba", "B to A")):
        nothing, real = cards[to]["doing_nothing"]["kd"], cards[to]["real_pictures"]["kd"]
        for run in runs:
            course = run.epochs[f"average_kd_{way}"]
            last = course[-5:]
            found.append(
                {
                    "direction": direction,
                    "seed": str(run.config["model"]["seed"]),
                    "epochs": str(len(course)),
                    "KD": f"{course[-1]:.3f}",
                    "last five epochs": f"{last.min():.3f} to {last.max():.3f}",
                    "gap closed": f"{(nothing - course[-1]) / (nothing - real):.0%}",
                    "called zebra": f"{run.epochs[f'average_zebra_{way}'][-1]:.1%}",
                }
            )
    return found


def hidden(found: dict[str, dict[str, float]]) -> list[Row]:
    """What disturbing a translation does to the way back, and what it does to real pictures (studies.steganography)."""
    columns = {
        "change": "change of translations",
        "moved": "the way back moves",
        "real_change": "change of real pictures",
        "real_moved": "their translation moves",
    }
    return [
        {"disturbance": title(name)} | {words: f"{row[score]:.3f}" for score, words in columns.items()}
        for name, row in found.items()
        if name != "nothing"
    ]


# ---- VQ-VAE


def gradients(facts: dict[str, float]) -> list[Row]:
    """codebooks.gradient_facts: a term a row, a part of the network a column."""
    parts, terms = ("encoder", "codebook", "decoder"), ("reconstruction", "codebook", "commitment")
    return [
        {"gradient of the term": term} | {f"in the {part}": f"{facts[f'{term}_{part}']:.3g}" for part in parts}
        for term in terms
    ]


def _codec_scores(found: dict[str, Entry]) -> Row:
    """The columns that the tables of the codebook studies share."""
    return {
        "NMSE": plus_minus(found["test_nmse"], 3),
        "perplexity": plus_minus(found["test_perplexity"], 0),
        "codes used": plus_minus(found["test_codes_used"], 0),
    }


def terms(run: Run) -> list[Row]:
    """Each term of the loss removed in turn, with both codebooks."""
    return [
        {"codebook": title(codebook), "term removed": title(removed)}
        | _codec_scores(found)
        | {"size of z_e": size(found["encoder_rms"])}
        for codebook, cases in by_case(run).items()
        for removed, found in cases.items()
    ]


def starts(run: Run) -> list[Row]:
    """Starts of the codebook and restarts of its codes, with the perplexity on the way."""
    return [
        {"start": title(start)}
        | {
            f"perplexity at {at}": plus_minus(found[f"perplexity_at_{at}"], 1)
            for at in (100, 500)
            if f"perplexity_at_{at}" in found
        }
        | _codec_scores(found)
        for start, found in by_case(run).items()
    ]


def quantizers(run: Run) -> list[Row]:
    """Quantisers in the same network, the worst first."""
    ours = {"ema": "ours, moving averages", "gradient": "ours, learnt by its loss"}
    return [
        {"quantiser": ours.get(name, title(name))} | _codec_scores(found)
        for name, found in sorted(by_case(run).items(), key=lambda item: -item[1]["test_nmse"]["mean"])
    ]


def schedules(runs: Mapping[str, Run]) -> list[Row]:
    """Whole trainings of the VQ-VAE by name, the shortest first: scores of the test set after the last epoch."""
    return [
        {
            "training": title(name),
            "epochs": str(len(run.epochs["epoch"])),
            "NMSE": f"{run.epochs['test_nmse'][-1]:.4f}",
            "lowest (epoch)": f"{run.epochs['test_nmse'].min():.4f} ({run.epochs['test_nmse'].argmin() + 1})",
            "VQ loss": f"{run.epochs['test_vq'][-1]:.4f}",
            "perplexity": f"{run.epochs['test_perplexity'][-1]:.0f}",
            "codes used": f"{run.epochs['test_codes_used'][-1]:.0f}",
        }
        for name, run in sorted(runs.items(), key=lambda item: len(item[1].epochs["epoch"]))
    ]


def likelihoods(rows: dict[str, dict[str, float]], places: int) -> list[Row]:
    """Costs of a code by what is known of it beforehand, on maps of `places` codes (evaluation.likelihoods)."""
    return [
        {
            "known of a code": title(name),
            "nats": f"{row['nats']:.3f} ± {row['error']:.3f}" if row["error"] else f"{row['nats']:.3f}",
            "bits": f"{bits:.3f}",
            "bits a picture": f"{bits * places:.0f}",
            "bits per dimension": f"{bits / NUMBERS_A_CODE:.4f}",
        }
        for name, row in rows.items()
        for bits in [row["nats"] / math.log(2)]
    ]


def identities(found: dict[str, dict[str, float]], places: int) -> list[Row]:
    """Both sides of each identity of the KL divergence, for maps of `places` codes, in nats."""
    words = {
        "one_code": "posterior against the uniform prior, one code: log K",
        "one_picture": f"the same, a picture of {places} codes: {places} log K",
        "learnt_prior": "posterior against the learnt prior, a picture: its negative log-likelihood",
        "usage": "use of the codes on the test set against the uniform prior: log K - log perplexity",
    }
    return [
        {"identity": words[name], "KL, by its definition": f"{row['kl']:.6f}", "other side": f"{row['other_side']:.6f}"}
        for name, row in found.items()
    ]


def codecs(reconstruction: dict) -> list[Row]:
    """The VQ-VAE between codecs without any learning, the worst first (evaluation.codec)."""
    variance = reconstruction["test_mse"] / reconstruction["test_nmse"]
    found = {"VQ-VAE": (reconstruction["bits"], reconstruction["test_mse"])}
    found |= {name: (CODEC_BITS[name], mse) for name, mse in reconstruction["codecs"].items()}
    return [
        {
            "codec": title(name),
            "bits a picture": f"{bits:,.0f}",
            "NMSE": f"{mse / variance:.4f}",
            "MSE": f"{mse:.5f}",
            "PSNR, dB": f"{psnr(mse):.2f}",
        }
        for name, (bits, mse) in sorted(found.items(), key=lambda item: -item[1][1])
    ]


def comparison(found: dict[str, float]) -> list[Row]:
    """Training batches of the short run (evaluation.codec.comparison) beside what other notebooks print."""
    printed = {"this one": (found["nmse"], found["perplexity"])} | PRINTED_AT_1000
    return [
        {"notebook": name, "NMSE": f"{nmse:.3f}", "perplexity": f"{perplexity:.1f}"}
        for name, (nmse, perplexity) in printed.items()
    ]


# ---- where numbers come from


def provenance(run: Run) -> Row:
    """What a reader must know of a training or of a study to judge or repeat it: fact -> words."""
    made, settings = run.provenance, run.config.get("settings", run.config)
    rows, pictures = run.metrics.get("rows", []), made.get("data") or settings.get("data")
    trainings = [f"{len(rows)} trainings"] if rows else []
    processes = [f"{made['processes']} process"] if "processes" in made else []
    machine = [made["device"], *processes, f"threads: {made['threads']}", f"precision {made.get('precision', '32')}"]
    times = len(made.get("resumed", []))
    resumed = f", resumed {'once' if times == 1 else f'{times} times'}" if times else ""
    software = [f"Python {made['python']}", *(f"{name} {version}" for name, version in made["versions"].items())]
    return {
        "run": run.folder_name + (" (published run, loaded)" if run.is_published else ""),
        "commit": made["commit"][:12] + (", with uncommitted changes" if made["dirty"] else ""),
        "data": _data(pictures, made.get("passed_over", {})) if pictures else "drawn by the experiment",
        "seed": ", ".join(map(str, sorted({row["seed"] for row in rows}) or [made["seed"]])),
        "computed": ", ".join(trainings + machine),
        "time": f"{duration(made['seconds'])}{resumed}, until {made['ended'][:16].replace('T', ' ')} UTC",
        "software": ", ".join(software),
    }


def _data(pictures: dict, passed_over: dict[str, int]) -> str:
    checksums = [f"{name} {value}" for name, value in pictures.items() if isinstance(value, str) and name != "name"]
    told = [f"{count:,} {escape(why)}" for why, count in passed_over.items()]
    sizes = f"{pictures['train']:,} + {pictures['test']:,}"
    passed = [f"files passed over: {', '.join(told)}"] if told else []
    return ", ".join([escape(pictures["name"]), sizes, *checksums, *passed])
