"""Checked parameters in, a trained run out: what notebooks and the command line call.

Here models, data, training and evaluation are joined. Where `asked.experiments` is "published", the runs behind the
written answers (the other CycleGANs and VQ-VAEs, the prior) are loaded from results/ and weights/, not trained.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch.autograd.graph import saved_tensors_hooks

from hw2lib import files, processes
from hw2lib.cyclegan import CycleGAN, CycleGANConfig, translation_losses
from hw2lib.data import Batches, CodeBatches, CodeSets, Domains, Pairs, Pictures, domains, load
from hw2lib.evaluation import likelihoods
from hw2lib.evaluation.codec import code_sets, codebook_checksum, evaluate_vqvae
from hw2lib.evaluation.judge import Judge
from hw2lib.evaluation.translations import Examiner
from hw2lib.parameters import CycleGANParameters, ParameterError, Parameters, VQVAEParameters, make
from hw2lib.pixelcnn import CodesError, GatedPixelCNN, PixelCNNConfig
from hw2lib.training import Run, fit, machine, require_devices, runs_folder, weights
from hw2lib.training.devices import memory_there, run_apart
from hw2lib.vqvae import VQVAE, VQVAEConfig

# With a rate of 6e-3 better, at equal work, than 128 with 4e-3 or 8e-3 (700 short updates, held-out maps).
PRIOR_BATCH_SIZE = 64
# What is printed after each epoch, and the words for it; CycleGAN's scores are those of the generators that are judged.
LOSSES_SHOWN = {"cycle_a": "error there and back from A", "cycle_b": "from B"}
SCORES_SHOWN = {"zebra_ab": "called zebra", "kd_ab": "kernel distance to B", "truth_ab": "difference to the truth in B"}
VQVAE_SHOWN = {"test_nmse": "share of the variance lost", "test_psnr": "PSNR in dB", "test_codes_used": "codes used"}
PRIOR_SHOWN = {"train_nll": "nats per code on maps seen", "held_out_nll": "on maps held out"}

# ---- several processes


@contextmanager
def _first_process_first(asked: Parameters) -> Iterator[None]:
    """What the first process fetches or makes in this block, the others find. Raises TrainingError for too many."""
    require_devices(asked.device, asked.devices)
    if processes.launched():
        machine(asked.device, asked.precision)  # makes the group
        processes.told()  # and, while all are there, the one in which they wait
    with processes.first_one_first():
        yield


def _start(name: str, asked: Parameters) -> Callable[[], None] | None:
    """What trains the run of this name in `asked.devices` processes, if there are to be several and this is none of them."""
    if asked.devices == 1 or processes.launched():
        return None
    changes = [word for field, value in asked.model_dump().items() for word in ("-p", f"{field}={value}")]
    return partial(run_apart, ["train", name, *changes])


# ---- what is known before any work


def require_memory(kind: type, config, batch_size: int, asked: Parameters, cure: str) -> None:
    """Raise ParameterError, ending in `cure`, if a training step of this model cannot fit into this machine.

    The step is taken with tensors that have a shape and no content. Counted are weights (learnt ones with gradient and
    Adam's two averages), what autograd keeps of a picture, half of it in bf16, times the batch, and the pools. On a CPU
    the process grew by 1.9 to 2.5 times what autograd keeps, for each model and precision: twice that is counted there.
    """
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.device("meta"), saved_tensors_hooks(keep, lambda tensor: tensor):
        model = kind(config)
        if isinstance(model, GatedPixelCNN):
            result = model(torch.zeros(1, config.height, config.width, dtype=torch.long))
        else:
            x = torch.zeros(1, 3, config.size, config.size)
            result = (
                translation_losses(config, x, x, model.g_ab, model.g_ba, model.d_b)
                if isinstance(model, CycleGAN)
                else model.decoder(model.encoder(x))
            )
    del result  # autograd kept its tensors, and so their addresses, up to here
    own = [*model.parameters(), *model.buffers()]
    for part in own:
        kept.pop(part.untyped_storage()._cdata, None)
    weights = sum(part.nbytes * (4 if part.requires_grad else 1) for part in own)
    cuda = asked.device in ("auto", "cuda") and torch.cuda.is_available()
    batch_size /= max(asked.devices, int(os.environ.get("WORLD_SIZE", 1))) if cuda else 1  # a GPU's share
    activations = sum(kept.values()) * batch_size / (1 if asked.precision == "32" else 2) * (1 if cuda else 2)
    pools = 2 * getattr(config, "pool_size", 0) * 12 * getattr(config, "size", 0) ** 2
    needed, there = weights + activations + pools, memory_there(cuda)
    if needed > there:
        raise ParameterError(
            f"a training step of {kind.__name__} takes about {needed / 1e9:,.1f} GB of memory, and here are "
            f"{there / 1e9:,.1f}: lower {cure}"
        )


def _require_runs(asked: Parameters) -> None:
    """Raise Problem if the folder of the runs is no folder and cannot become one."""
    folder = runs_folder(asked.runs)
    if not folder.is_dir():
        files.require_writable(folder / "run")


# ---- CycleGAN


def cyclegan_setup(asked: CycleGANParameters) -> tuple[CycleGANConfig, Domains]:
    """The config of the networks and the pictures. What is wrong with the config is said before they load."""
    config = make(CycleGANConfig, asked.model_dump(include=set(CycleGANConfig.model_fields)))
    _require_runs(asked)
    require_memory(CycleGAN, config, asked.batch_size, asked, "size, base_channels, batch_size or pool_size")
    with _first_process_first(asked):
        return config, domains(asked.dataset, config.size, asked.data_root)


def judge_for(pictures: Domains, asked: CycleGANParameters) -> Judge | None:
    """The judge of photographs; of drawn pictures the truth is known. Raises JudgeError if it is not installed."""
    return None if pictures.aligned else judge_on(asked)


def judge_on(asked: Parameters) -> Judge:
    """The judge, on the device of the training. Raises JudgeError if it is not installed."""
    return Judge(machine(asked.device, asked.precision).device)


def pairs(pictures: Domains, asked: CycleGANParameters, seed: int | None = None) -> Pairs:
    """The batches of the training; of one with another seed, where that is given."""
    seed = asked.seed if seed is None else seed
    return Pairs(pictures.train_a, pictures.train_b, pictures.size, seed, asked.batch_size)


def train_cyclegan(model: CycleGAN, pictures: Domains, judge: Judge | None, asked: CycleGANParameters) -> Run:
    """The run that the report is about; `model` is then trained."""
    return _fit_cyclegan(model, pictures, judge, asked, name="cyclegan", epochs=asked.epochs)


def cyclegan_with_identity(
    config: CycleGANConfig, pictures: Domains, judge: Judge | None, asked: CycleGANParameters
) -> Run | None:
    """`asked.identity_epochs` epochs with the identity loss of the paper's section 5.2, at the same learning rates."""
    epochs = asked.identity_epochs
    decay = config.decay_share if epochs == asked.epochs else 0.0
    changed = config.model_copy(update={"identity_weight": 0.5, "decay_share": decay})
    return _other_cyclegan("cyclegan-identity", epochs, changed, pictures, judge, asked)


def cyclegan_again(
    config: CycleGANConfig, pictures: Domains, judge: Judge | None, asked: CycleGANParameters
) -> Run | None:
    """The training of the report once more with the next seed, where `asked.again`: what differs is chance."""
    changed = config.model_copy(update={"seed": config.seed + 1})
    return _other_cyclegan("cyclegan-again", asked.epochs * asked.again, changed, pictures, judge, asked)


def cyclegan_longer(
    config: CycleGANConfig, pictures: Domains, judge: Judge | None, asked: CycleGANParameters
) -> Run | None:
    """The training of the report once more with twice the epochs and a schedule as long, where `asked.again`."""
    return _other_cyclegan("cyclegan-double", 2 * asked.epochs * asked.again, config, pictures, judge, asked)


def _other_cyclegan(
    name: str, epochs: int, config: CycleGANConfig, pictures: Domains, judge: Judge | None, asked: CycleGANParameters
) -> Run | None:
    """A training to compare with the report's, whose numbers are enough: loaded where published ones are asked for."""
    if asked.experiments == "published":
        return Run.published(name)
    if not epochs:
        return None
    return _fit_cyclegan(CycleGAN(config), pictures, judge, asked, name=name, epochs=epochs, numbers_only=True)


def _fit_cyclegan(model: CycleGAN, pictures: Domains, judge: Judge | None, asked: CycleGANParameters, **more) -> Run:
    kind = "average" if model.config.ema_decay else "last"
    return fit(
        model,
        pairs(pictures, asked, model.config.seed),
        evaluate=Examiner(model, pictures, judge),
        shown=LOSSES_SHOWN | {f"{kind}_{score}": words for score, words in SCORES_SHOWN.items()},
        data=pictures.description,
        noted={"passed_over": pictures.passed_over},
        start=_start(more["name"], asked),
        **more,
        **asked.machine,
    )


# ---- VQ-VAE


def vqvae_setup(asked: VQVAEParameters) -> tuple[VQVAEConfig, Pictures]:
    """The config of a network for the pictures, and these. What is wrong with the config is said before they load."""
    fields = set(VQVAEConfig.model_fields) - {"data_variance"}
    config = make(VQVAEConfig, asked.model_dump(include=fields))
    _require_runs(asked)
    require_memory(VQVAE, config, asked.batch_size, asked, "size, batch_size, num_codes or code_dim")
    if asked.experiments == "run":
        maps = _maps(config, asked)
        cure = "size, num_codes or prior_channels"
        require_memory(GatedPixelCNN, PixelCNNConfig(**maps), PRIOR_BATCH_SIZE, asked, cure)
    with _first_process_first(asked):
        pictures = load(asked.dataset, asked.size, asked.data_root)
    return make(VQVAEConfig, config.model_dump() | {"data_variance": pictures.variance}), pictures


def train_vqvae(model: VQVAE, pictures: Pictures, asked: VQVAEParameters) -> Run:
    """The run that the report is about; `model` is then trained."""
    return fit_vqvae(model, pictures, asked, asked.batch_size, name="vqvae", epochs=asked.epochs)


def vqvae_as_others(config: VQVAEConfig, pictures: Pictures, asked: VQVAEParameters) -> Run | None:
    """`asked.comparison_updates` updates as other notebooks print them: batch 32, constant rate 3e-4."""
    if asked.experiments == "published":
        return Run.published("vqvae-short")
    if not asked.comparison_updates:
        return None
    model = VQVAE(config.model_copy(update={"learning_rate": 3e-4, "schedule": "constant"}))
    name, updates = "vqvae-short", asked.comparison_updates
    return fit_vqvae(model, pictures, asked, 32, name=name, updates=updates, numbers_only=True)


def fit_vqvae(
    model: VQVAE,
    pictures: Pictures,
    asked: VQVAEParameters,
    batch_size: int,
    held_out: torch.Tensor | None = None,
    **more,
) -> Run:
    """A run of training.fit, to which `more` goes, scored on the test pictures and on those held out, if any."""

    def scores(folder: Path, epoch: int) -> dict[str, float]:
        found = evaluate_vqvae(model, pictures.test)
        others = {} if held_out is None else evaluate_vqvae(model, held_out)
        return found | {score.replace("test", "held_out"): value for score, value in others.items()}

    return fit(
        model,
        Batches(pictures.train, batch_size, asked.seed),
        evaluate=scores,
        shown=VQVAE_SHOWN,
        data=pictures.description,
        noted={"passed_over": pictures.passed_over},
        start=_start(more["name"], asked),
        **more,
        **asked.machine,
    )


# ---- the prior over the codes


class Prior(NamedTuple):
    """A trained prior, the VQ-VAE on whose codes it was trained, and its run.

    `sets` and `pictures` are what it was trained and measured on, None where it is the published one and they are not
    at hand.
    """

    network: GatedPixelCNN
    codec: VQVAE
    run: Run
    sets: CodeSets | None = None
    pictures: Pictures | None = None


def prior(codec: VQVAE, pictures: Pictures, run: Run, asked: VQVAEParameters) -> Prior:
    """A prior over the codes of `codec`, the network of `run`; or the published one, with the published codec."""
    if asked.experiments == "published":
        published = Run.published("pixelcnn")
        codec = VQVAE.load(Run.published("vqvae").kept_weights)
        return Prior(GatedPixelCNN.load(published.kept_weights), codec, published)
    sets = code_sets(codec, pictures, run)
    network = GatedPixelCNN(prior_config(codec, pictures, asked))
    return Prior(network, codec, train_prior(network, sets, asked), sets, pictures)


def train_prior(network: GatedPixelCNN, sets: CodeSets, asked: VQVAEParameters) -> Run:
    """`asked.prior_epochs` epochs; `network` then has the weights of the best of them by the held-out maps."""
    run = fit(
        network,
        CodeBatches(sets.train, sets.train_labels, PRIOR_BATCH_SIZE, asked.seed, sets.origin),
        name="pixelcnn",
        epochs=asked.prior_epochs,
        evaluate=partial(likelihoods.examine, network, sets),
        shown=PRIOR_SHOWN,
        data={"name": "codes", "train": len(sets.train), "test": len(sets.test), **sets.origin},
        start=_start("pixelcnn", asked),
        **asked.machine,
    )
    weights.load_into(network, run.kept_weights)
    return run


def prior_config(codec: VQVAE, pictures: Pictures, asked: VQVAEParameters) -> PixelCNNConfig:
    """A prior for the maps of `codec`, told the class of a picture if the pictures have classes."""
    return PixelCNNConfig(
        classes=len(pictures.classes),
        class_names=pictures.classes,
        codebook=codebook_checksum(codec),
        seed=asked.seed,
        **_maps(codec.config, asked),
    )


def _maps(codec: VQVAEConfig, asked: VQVAEParameters) -> dict[str, int]:
    """What the size of a prior depends on. Maps of more than 11 x 11 codes get more layers than usual, so that each code
    can depend on all before it."""
    side = codec.size // 4
    sizes = {"num_codes": codec.num_codes, "channels": asked.prior_channels, "layers": max(10, side - 1)}
    return {"height": side, "width": side, **sizes}


def require_match(network: GatedPixelCNN, codec: VQVAE) -> None:
    """Raise CodesError unless the prior was trained on codes of `codec`."""
    ours, side = network.config, codec.config.size // 4
    if (ours.num_codes, ours.height, ours.width) != (codec.config.num_codes, side, side):
        raise CodesError(
            f"this prior is for maps of {ours.height} x {ours.width} codes of {ours.num_codes}, the VQ-VAE has "
            f"{side} x {side} of {codec.config.num_codes}: take a prior that was trained on its codes"
        )
    if ours.codebook and ours.codebook != codebook_checksum(codec):
        raise CodesError(
            "this prior was trained on the codes of another VQ-VAE, to which they mean something else: take one that "
            "was trained on this one's"
        )
