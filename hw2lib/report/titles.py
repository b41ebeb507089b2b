"""What a reader sees in place of identifiers, entries of a study, paces and seeds."""

from hw2lib.studies.study import seeds
from hw2lib.training.runs import Run

# An identifier that is not here is shown as it is, with spaces for underscores.
TITLES = {
    # weights of translators, and rows of pictures
    "back": "and back",
    "best_translated": "translated",
    "typical_translated": "translated",
    "worst_translated": "translated",
    "average": "averaged",
    "without": "without identity loss",
    "with_identity": "with identity loss",
    # by what translations are ranked
    "truth": "nearness to the true counterpart",
    "zebra_gain": "the gain in the judge's probability of a zebra",
    "hoofed_gain": "the gain in the judge's probability of a hoofed animal that is no zebra",
    "zebra": "the judge's probability of a zebra",
    "features": "nearness to the target domain in the judge's features",
    # what a training step logs
    "g_ab": "adversarial loss of the generator from A to B",
    "g_ba": "adversarial loss of the generator from B to A",
    "cycle_a": "cycle loss, A to B to A",
    "cycle_b": "cycle loss, B to A to B",
    "identity_a": "identity loss of the generator into A",
    "identity_b": "identity loss of the generator into B",
    **{
        f"d_{domain}{kind}": f"{what} the discriminator of {domain.upper()}{on}"
        for domain in "ab"
        for kind, what, on in (
            ("", "loss of", ""),
            ("_real", "mean output of", " on real pictures"),
            ("_fake", "mean output of", " on translations"),
            ("_fresh", "mean output of", " on the newest translations"),
        )
    },
    "vq": "VQ loss",
    # variants of the ablations
    "one_colour": "all animals in one colour",
    "unet_generator": "U-Net generator",
    "whole_picture_discriminator": "whole-picture discriminator",
    "three_discriminator_steps": "3 discriminator steps",
    "resting_discriminators": "discriminator every 3rd step",
    "siamese_for_cycle_loss": "siamese in place of the cycle loss",
    # variants of the plane
    "overlapping": "overlapping domains",
    "overlapping_with_identity_loss": "overlapping, with identity loss",
    **{
        f"{objective}_{rate}": f"{objective.replace('_', ' ')}, rate {rate}"
        for objective in ("least_squares", "cross_entropy")
        for rate in ("0.001", "0.003", "0.01", "0.03")
    },
    # disturbances of a translation
    **{f"noise_{deviation}": f"noise, {deviation} grey levels" for deviation in (3, 10)},
    **{f"luma_{by}": f"brightness at 1/{by} of the resolution" for by in (2, 4)},
    **{f"chroma_{by}": f"colours at 1/{by} of the resolution" for by in (2, 4, 8)},
    "exchanged": "the finest colours of another picture",
    **{f"jpeg_{quality}_444": f"JPEG {quality}, all colours (4:4:4)" for quality in (95, 75)},
    **{f"jpeg_{quality}": f"JPEG {quality}, colours at 1/2 (4:2:0)" for quality in (95, 75)},
    # whole trainings of a VQ-VAE
    "vqvae": "as above",
    "vqvae-half": "half as long",
    "vqvae-double": "twice as long",
    "vqvae-usual": "usual settings, a tenth held out",
    "vqvae-held-out": "as above, a tenth held out",
    # setups of the ring
    "plain": "rate 0.001",
    "smaller_rate": "rate 0.0003",
    "packed": "two at once",
    # codebooks and quantisers
    "gradient": "learnt by its loss",
    "ema": "of moving averages",
    "kmeans_start": "k-means start",
    "restarts": "restart of dead codes",
    "noise_averages": "averages of noise",
    "fsq": "FSQ",
    "simvq": "SimVQ",
    # what is known of a code beforehand
    "uniform": "nothing (uniform)",
    "frequency": "frequencies of the codes",
    "place": "frequencies at each place",
    "seen": "all codes before it",
    "told": "all codes before it, and the class",
    # kernels of a prior
    "gated": "gated, two stacks",
    "masked": "masked kernels",
    # other pictures and codecs
    "new_pictures_cooler": "new pictures, T = 0.9",
    "thumbnail_4": "4 x 4 thumbnail",
    "thumbnail_8": "8 x 8 thumbnail",
}
# Beside a row of pictures there is less room.
SHORT_TITLES = {
    **{word: word for word in ("truth", "zebra", "features")},
    "without": "without",
    "with_identity": "with",
    "no_adversarial_loss": "no adversary",
    "overlapping": "overlapping",
    "overlapping_with_identity_loss": "overlapping + identity",
    "with_identity_loss": "+ identity",
    "unet_generator": "U-Net",
    "whole_picture_discriminator": "whole picture",
    "contrastive_discriminator": "contrastive",
    "siamese_for_cycle_loss": "siamese",
    "coarser_colours": "colours 1/2",
    "taken_away": "taken, x 8",
    "back_without": "back, 1/2",
}

# An entry of study.by_case: mean, deviation, min, max, count.
Entry = dict[str, float]


def title(identifier: str) -> str:
    """What a reader sees in place of an identifier of the results."""
    return TITLES.get(identifier, identifier.replace("_", " "))


def short_title(identifier: str) -> str:
    """The same where there is less room."""
    return SHORT_TITLES.get(identifier) or title(identifier)


def plus_minus(entry: Entry, digits: int) -> str:
    """'0.12 ± 0.01', mean and standard deviation of an entry of study.by_case; of one seed the mean alone."""
    mean = f"{entry['mean']:.{digits}f}"
    return mean if entry["count"] == 1 else f"{mean} ± {entry['deviation']:.{digits}f}"


def size(entry: Entry) -> str:
    """A mean over many orders of magnitude: three digits, and least to greatest where these are far apart."""
    alike = entry["count"] == 1 or entry["max"] < 2 * entry["min"]
    return " to ".join(f"{float(f'{entry[end]:.3g}'):,.9g}" for end in (["mean"] if alike else ["min", "max"]))


def pace(ratio: float) -> str:
    """'1 update of D in 5 steps' for 0.2, '1 a step' and '5 a step' for 1 and 5: updates of D an update of G."""
    return f"1 update of D in {1 / ratio:g} steps" if ratio < 1 else f"{ratio:g} a step"


def seeds_in_words(run: Run) -> str:
    """'3 seeds each' or 'one seed each', of a study."""
    count = seeds(run)
    return "one seed each" if count == 1 else f"{count} seeds each"
