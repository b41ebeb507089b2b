"""The prior over code maps: each test states a claim; leaks, blind spots and samplers that disagree are the usual faults."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hw2lib import pixelcnn
from hw2lib.evaluation.metrics import mean_and_error
from hw2lib.pixelcnn import CodesError, GatedPixelCNN, PixelCNNConfig
from hw2lib.studies.receptive_fields import gated, leaks_and_gaps

SMALL = {"num_codes": 11, "height": 4, "width": 5, "embedding": 6, "channels": 8, "layers": 4}
both = pytest.mark.parametrize("classes", [0, 3], ids=["unconditional", "conditional"])


def opinionated(**options):
    """A prior whose random weights are so large that all it sees matters; at first they are small, or 0."""
    model = GatedPixelCNN(PixelCNNConfig(**SMALL | options)).eval()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim == 4 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 2 / math.sqrt(fan_in))
    return model


def random_codes(n, model, seed=0):
    config, random = model.config, torch.Generator().manual_seed(seed)
    return torch.randint(config.num_codes, (n, config.height, config.width), generator=random)


def labels_for(n, model):
    return torch.arange(n) % model.config.classes if model.config.classes else None


# ---- what sees what


@both
@pytest.mark.parametrize(("kernel", "layers"), [(3, 7), (5, 4), (7, 3)])
def test_a_code_sees_all_before_it_and_nothing_else(classes, kernel, layers):
    """On 8 x 8 maps, by gradients between all pairs of places: 0 leaks, and 0 of 2016 past places unseen."""
    model = opinionated(height=8, width=8, layers=layers, kernel=kernel, classes=classes)
    assert leaks_and_gaps({"it": gated(model)}) == {"it": {"leaks": 0, "gaps": 0}}


def test_the_defaults_see_everything():
    """The default prior is deep enough for its map; one layer less than needed is not."""
    config = PixelCNNConfig()
    assert config.layers * (config.kernel // 2) >= max(config.height, config.width) - 1
    found = leaks_and_gaps({"it": gated(opinionated(height=8, width=8, layers=6))})["it"]
    assert found["leaks"] == 0 < found["gaps"]


@both
def test_changing_a_code_changes_logits_after_it_only(classes):
    """A code put at any place moves the logits of each later place and none up to its own, in the integers' own path."""
    model = opinionated(classes=classes, layers=5)
    codes = random_codes(1, model)
    places = codes.numel()
    changed = codes.repeat(places, 1, 1).flatten(1)
    changed[range(places), range(places)] = (changed.diagonal() + 1) % model.config.num_codes
    label = torch.ones(1, dtype=torch.long) if classes else None
    with torch.no_grad():
        was = model(codes, label)
        now = model(changed.view(-1, *codes.shape[1:]), None if label is None else label.expand(places))
    moved = (now - was).abs().amax(1).flatten(1) > 1e-5  # (changed place, place)
    assert leaks_and_gaps({"it": moved.T}) == {"it": {"leaks": 0, "gaps": 0}}


def test_the_class_matters_everywhere():
    """Another label moves the logits of every place, and of no other map in the batch."""
    model = opinionated(classes=3)
    codes = random_codes(1, model).expand(2, -1, -1)
    one, other = model(codes, torch.tensor([0, 1])), model(codes, torch.tensor([0, 2]))
    assert torch.equal(one[0], other[0])
    assert ((one[1] - other[1]).abs().amax(0) > 1e-4).all()


# ---- numbers


@both
def test_nll_is_the_cross_entropy_of_numpy(classes):
    """nll is, map by map, the mean of -log softmax at the codes, recomputed in float64, in batches of any size."""
    model = opinionated(classes=classes)
    codes, labels = random_codes(7, model), labels_for(7, model)
    logits = model(codes, labels).detach().double().numpy()
    assert logits.shape == (7, 11, 4, 5)
    costs = np.log(np.exp(logits).sum(1)) - np.take_along_axis(logits, codes.numpy()[:, None], 1)[:, 0]
    for size in (3, 7, 500):
        assert model.nll(codes, labels, size).numpy() == pytest.approx(costs.mean((1, 2)), rel=1e-5)
    assert costs.std() > 0.5


def test_number_of_parameters():
    """As many as equations and figure 2 add up to: the causal kernels are as small as what they may see."""
    codes, places, inputs, channels, classes, side, kernel, layers = 512, 8 * 8, 64, 48, 10, 2, 5, 3
    first = 2 * channels * (inputs * side * kernel + 1 + inputs * side + 1)
    later = 2 * channels * (channels * (side + 1) * kernel + 1 + channels * (side + 1) + 1)
    each = 2 * channels * (2 * channels + 1) + channels * (channels + 1) + 2 * classes * 2 * channels
    head = 2 * channels * (channels + 1) + codes * (2 * channels + 1)
    expected = codes * inputs + channels * places + first + (layers - 1) * later + layers * each + head
    model = GatedPixelCNN(PixelCNNConfig(channels=channels, classes=classes, kernel=kernel, layers=layers))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_dropout_is_for_training_only():
    """In training two passes differ; nll and samples are without dropout even then, and leave the mode as it was."""
    model = opinionated(dropout=0.5)
    codes = random_codes(4, model)
    nll, maps = model.nll(codes), model.sample(4)
    assert torch.equal(model(codes), model(codes))
    model.train()
    assert not torch.equal(model(codes), model(codes))
    assert torch.equal(model.nll(codes), nll)
    assert torch.equal(model.sample(4), maps)
    assert model.training
    assert model.layers[0].dropout.training


# ---- sampling


def plain_sample(model, n, labels=None, temperature=1.0, top_k=0, seed=0, given=None, known=None):
    """The usual loop, a pass over the whole map for each place, with the random numbers of `sample`; also its logits."""
    config = model.config
    shape = (n, config.height, config.width)
    luck = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).numpy()
    canvas = torch.zeros(shape, dtype=torch.long) if given is None else torch.where(known, given, 0)
    known = torch.zeros(shape, dtype=torch.bool) if known is None else known.expand(shape)
    seen = torch.zeros(n, config.num_codes, *shape[1:])
    for row in range(config.height):
        for column in range(config.width):
            with torch.no_grad():
                logits = model(canvas, labels)[:, :, row, column]
            seen[:, :, row, column] = logits
            for i in range(n):
                if known[i, row, column]:
                    continue
                values = logits[i].double().numpy() / temperature
                if top_k:
                    values[values < np.sort(values)[-top_k]] = -np.inf
                chances = np.exp(values - values.max())
                reached = np.cumsum(chances / chances.sum())
                canvas[i, row, column] = int(np.searchsorted(reached, luck[i, row, column] * reached[-1]))
    return canvas, seen


@both
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"top_k": 3}, {"seed": 5}], ids=str)
def test_samples_are_those_of_the_plain_loop(classes, options):
    """With the same random numbers the sampler draws the very codes of the loop over whole maps."""
    model = opinionated(classes=classes)
    labels = labels_for(8, model)
    maps = model.sample(8, labels, **options)
    assert maps.dtype == torch.long
    assert torch.equal(maps, plain_sample(model, 8, labels, **options)[0])


@pytest.mark.parametrize("kernel", [3, 5])
def test_logits_of_the_sampler_are_those_of_a_whole_pass(monkeypatch, kernel):
    """What each code is drawn from agrees, to 1e-5 of the logits' spread, with one pass over the finished maps."""
    model = opinionated(classes=3, kernel=kernel, height=8, width=8)
    taken, draw = [], pixelcnn.draw

    def listening(logits, *others):
        taken.append(logits)
        return draw(logits, *others)

    monkeypatch.setattr(pixelcnn, "draw", listening)
    labels = labels_for(4, model)
    whole = model(model.sample(4, labels), labels).detach()
    assert len(taken) == 64
    error = (torch.stack(taken, 2).view_as(whole) - whole).abs().max()
    assert error < 1e-5 * whole.std()


@pytest.mark.parametrize("mask", ["upper half", "scattered"])
def test_known_codes_stay(mask):
    """Known codes are kept and the rest is what the plain loop fills in."""
    model = opinionated(classes=3)
    given, labels = random_codes(6, model, seed=9), labels_for(6, model)
    known = torch.rand(4, 5, generator=torch.Generator().manual_seed(2)) < 0.5
    if mask == "upper half":
        known = torch.arange(20).view(4, 5) < 10
    maps = model.sample(6, labels, given=given, known=known)
    assert torch.equal(maps[known.expand(6, 4, 5)], given[known.expand(6, 4, 5)])
    assert torch.equal(maps, plain_sample(model, 6, labels, given=given, known=known)[0])
    everything = torch.ones(4, 5, dtype=torch.bool)
    assert torch.equal(model.sample(6, labels, given=given, known=everything), given)


def test_known_codes_influence_later_places_only():
    """Before the first known code the maps are as without it; after it they are not. Codes not known do not matter."""
    model = opinionated()
    free = model.sample(16).flatten(1)
    known = torch.zeros(4, 5, dtype=torch.bool)
    known[2, 1] = True  # place 11 of 20
    given = (free.view(16, 4, 5) + 1) % 11
    maps = model.sample(16, given=given, known=known).flatten(1)
    assert torch.equal(maps[:, :11], free[:, :11])
    assert torch.equal(maps[:, 11], given.flatten(1)[:, 11])
    assert not torch.equal(maps[:, 12:], free[:, 12:])
    garbage = torch.where(known, given, 10**6)
    assert torch.equal(model.sample(16, given=garbage, known=known).flatten(1), maps)


def test_cold_samples_are_the_likeliest_codes():
    """A temperature near 0 and top_k=1 both take, at each place, the code with the largest logit."""
    model = opinionated()
    greedy = model.sample(4, top_k=1)
    assert torch.equal(model.sample(4, temperature=1e-6), greedy)
    assert torch.equal(model(greedy).argmax(1), greedy)
    assert torch.equal(model.sample(4, top_k=11), model.sample(4))


def test_samples_are_seeded():
    """A seed is a set of maps, whatever the global random state, which is left alone; another seed is another set."""
    model = opinionated()
    torch.manual_seed(1)
    one, after = model.sample(4, seed=3), torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(torch.rand(()), after)
    assert torch.equal(model.sample(4, seed=3), one)
    assert not torch.equal(model.sample(4, seed=4), one)
    assert len(one.unique(dim=0)) == 4


def test_draws_have_the_frequencies_of_the_softmax():
    """Over 4000 draws at temperature 2 each code comes as often as it should, within 4 standard errors."""
    logits = torch.tensor([0.0, 1.0, -1.0, 3.0])
    luck = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(pixelcnn.draw(logits.expand(4000, 4), luck, temperature=2), minlength=4)
    chances = torch.softmax(logits.double() / 2, 0)
    assert ((counts / 4000 - chances).abs() < 4 * (chances * (1 - chances) / 4000).sqrt()).all()
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert pixelcnn.draw(logits.expand(2, 4), ends).tolist() == [0, 3]


@both
def test_samples_cost_what_the_prior_expects(classes):
    """The nll of own samples is, within 4 standard errors, the entropy met on the way; of cooler samples it is less."""
    model = opinionated(classes=classes)
    labels = labels_for(400, model)
    for temperature in (1.0, 0.5):
        maps = model.sample(400, labels, temperature)
        with torch.no_grad():
            logs = F.log_softmax(model(maps, labels), 1)
        entropy = -(logs.exp() * logs).sum(1).mean((1, 2))
        mean, error = mean_and_error(model.nll(maps, labels) - entropy)
        assert error < 0.05
        assert (abs(mean) < 4 * error) if temperature == 1 else (mean < -4 * error)


# ---- one step


@pytest.fixture
def ready(machine):
    """ready(precision, steps, **options) is a small prior before its first step."""

    def make(precision="32", steps=60, **options):
        model = GatedPixelCNN(PixelCNNConfig(**SMALL | options))
        model.setup(machine(precision), steps)
        return model.train()

    return make


def test_a_step_reports_and_learns(ready):
    """Nats, bits and accuracy fit together and to the logits before the update; repeated steps lower the loss."""
    model = ready(classes=3, dropout=0, learning_rate=0.01)
    codes, labels = random_codes(8, model), labels_for(8, model)
    right = (model(codes, labels).argmax(1) == codes).float().mean()
    nll = model.nll(codes, labels).mean()
    found = [model.step((codes.to(torch.int32), labels)) for _ in range(20)]
    torch.testing.assert_close(found[0]["nll"], nll)
    torch.testing.assert_close(found[0]["bits"], nll / math.log(2))
    torch.testing.assert_close(found[0]["accuracy"], right)
    assert found[-1]["nll"] < found[0]["nll"] - 0.1


@pytest.mark.parametrize("classes", [0, 4])
def test_four_maps_are_learnt_by_heart_and_no_better(classes, ready):
    """4 random maps are learnt to the log 4 nats that tell them apart; a label of its own for each map saves those."""
    model = ready(classes=classes, dropout=0, learning_rate=0.02, channels=16, steps=150, weight_decay=0)
    codes = random_codes(4, model)
    labels = torch.arange(4) if classes else None
    for _ in range(150):
        model.step((codes, labels))
    total = float(model.nll(codes, labels).mean()) * 20
    assert total < 0.3 if classes else math.log(4) - 1e-3 < total < math.log(4) + 0.3


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_gradients_of_the_path_in_use_are_those_of_float64(precision, ready):
    """Channels-last, fused and in bf16 where told, a step's gradients agree with plain float64."""
    model = ready(precision, classes=3, dropout=0, steps=1)
    plain = GatedPixelCNN(model.config)
    plain.load_state_dict(model.state_dict())
    plain.double()
    codes, labels = random_codes(8, model), labels_for(8, model)
    F.cross_entropy(plain(codes, labels), codes).backward()
    model.step((codes, labels))
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        error = (ours.grad.double() - theirs.grad).norm() / (theirs.grad.norm() + 1e-12)
        assert error < (1e-3 if precision == "32" else 0.2), (name, error)


def test_only_kernels_decay(ready):
    """Weight decay is for kernels, not for biases and tables; the optimiser has all weights."""
    model = ready(weight_decay=0.3)
    kernels, others = model.optimizers["network"].param_groups
    assert (kernels["weight_decay"], others["weight_decay"]) == (0.3, 0)
    assert all(parameter.ndim == 4 for parameter in kernels["params"])
    assert len(kernels["params"]) + len(others["params"]) == len(list(model.parameters()))


# ---- what is refused


CODES, KNOWN, LABEL = torch.zeros(1, 4, 5).int(), torch.ones(4, 5).bool(), torch.zeros(1).int()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(CODES + 11), "codes must lie in 0 to 10, not 11 to 11"),
        (lambda m: m.nll(CODES - 1), "codes must lie in 0 to 10, not -1 to -1"),
        (lambda m: m(CODES.mT), r"codes must be whole numbers \(B, 4, 5\), not int32 \(1, 5, 4\)"),
        (lambda m: m(CODES.float()), r"not float32 \(1, 4, 5\)"),
        (lambda m: m(CODES, LABEL), "labels are given, and this prior knows no classes"),
        (lambda m: m.sample(1, labels=LABEL), "knows no classes"),
        (lambda m: m.sample(1, temperature=0), "temperature 0: give 1e-6 to 1e6"),
        (lambda m: m.sample(1, temperature=math.nan), "temperature nan"),
        (lambda m: m.sample(1, top_k=12), "top_k 12: give 1 to 11, or 0 for all codes"),
        (lambda m: m.sample(1, top_k=-1), "top_k -1"),
        (lambda m: m.sample(1, given=CODES), "given and known belong together"),
        (
            lambda m: m.sample(1, given=CODES, known=KNOWN.float()),
            r"bool \(4, 5\), not float32 \(4, 5\)",
        ),
        (lambda m: m.sample(2, given=CODES, known=KNOWN), r"given must be codes \(2, 4, 5\), not int32 \(1, 4, 5\)"),
        (lambda m: m.sample(1, given=CODES + 30, known=KNOWN), "codes must lie in 0 to 10, not 30 to 30"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(call, message):
    """Codes, labels and wishes that a prior cannot take are refused with what was found and what would be right."""
    with pytest.raises(CodesError, match=message) as caught:
        call(GatedPixelCNN(PixelCNNConfig(**SMALL)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "trained with 3 classes: give a label for each map"),
        (torch.tensor([3, 0]), "labels must lie in 0 to 2, not 0 to 3"),
        (torch.tensor([0]), r"labels must be whole numbers \(2,\), not int64 \(1,\)"),
        (torch.zeros(2), r"not float32 \(2,\)"),
    ],
)
def test_wrong_labels_are_refused(labels, message):
    """A conditional prior says what is wrong with labels, whatever it is asked to do."""
    model = GatedPixelCNN(PixelCNNConfig(**SMALL, classes=3))
    codes = random_codes(2, model)
    for call in (
        lambda: model(codes, labels),
        lambda: model.nll(codes, labels),
        lambda: model.sample(2, labels),
    ):
        with pytest.raises(CodesError, match=message):
            call()
