"""Scores stand between doing nothing and real pictures; a run's translations are measured once for its weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hw2lib.cyclegan import CycleGAN
from hw2lib.data import toy_domains
from hw2lib.evaluation import scorecards, translations
from hw2lib.evaluation.judge import HOOFED, ZEBRA, Looks, between, kernel_distance
from hw2lib.evaluation.scorecards import measure_translations
from hw2lib.evaluation.translations import difference, translate
from hw2lib.training import Run, Table


@pytest.fixture(params=["photographs", "zebras"])
def photographs(toy, request):
    """The toy pictures, as if nobody knew the counterparts."""
    return replace(toy, aligned=False, masks=None, zebras=request.param == "zebras")


class Herd:
    """A judge to whom all is a zebra as far as it is blue, an ox as far as it is red, and a lion as far as it is green."""

    def look(self, pictures):
        features = pictures.double().mean((2, 3)) / 255
        probabilities = torch.zeros(len(pictures), 1000)
        probabilities[:, [HOOFED[1], 291, ZEBRA]] = (features / features.sum(1, keepdim=True)).float()
        return Looks(features, probabilities)

    def features(self, pictures):
        return self.look(pictures).features


def painted(*colours):
    """A picture of each colour (red, green, blue), uint8 (N, 3, 32, 32)."""
    return torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 32, 32)


# ---- cards


@pytest.mark.parametrize("to", ["a", "b"])
def test_a_card_stands_between_doing_nothing_and_real_pictures(photographs, eye, to):
    """A copy of either end closes nothing or all of the gap; distances and shares are those of the pictures themselves."""
    source, target = (photographs.test_a, photographs.test_b) if to == "b" else (photographs.test_b, photographs.test_a)
    real = scorecards.real_sample(photographs, to)
    fakes = {"last": source.clone(), "average": real.clone()}
    rows = scorecards.card(photographs, eye, to, fakes)
    assert list(rows) == ["doing_nothing", "last", "average", "real_pictures"]
    assert rows["last"]["kd"] == kernel_distance(eye.features(source), eye.features(target))
    assert (rows["last"]["kd_closed"], rows["last"]["fd_closed"]) == pytest.approx((0, 0))
    assert (rows["average"]["kd_closed"], rows["average"]["fd_closed"]) == pytest.approx((1, 1))
    gap = abs(rows["doing_nothing"]["kd"] - rows["real_pictures"]["kd"])
    assert rows["last"]["kd_closed_error"] == pytest.approx(rows["last"]["kd_error"] / gap)
    assert not any(score.endswith("closed") for end in ("doing_nothing", "real_pictures") for score in rows[end])
    for name, pictures in {"doing_nothing": source, **fakes, "real_pictures": real}.items():
        zebras = (eye.look(pictures).probabilities.argmax(1) == ZEBRA).double().mean()
        assert rows[name].get("zebra") == (zebras if photographs.zebras else None)


def test_a_zebra_that_became_a_lion_is_no_horse(toy):
    """Into horses a card counts other hoofed animals beside what is still a zebra, and a lion is neither; into zebras not."""
    zebras = replace(toy, aligned=False, masks=None, zebras=True)
    fakes = {"last": painted(*[(200, 9, 0)] * 3, *[(0, 200, 9)] * 2, (0, 9, 200))}
    row = scorecards.card(zebras, Herd(), "a", fakes)["last"]
    assert (row["hoofed"], row["zebra"]) == (1 / 2, 1 / 6)
    assert "hoofed" not in scorecards.card(zebras, Herd(), "b", fakes)["last"]


def test_real_pictures_are_evenly_spaced_and_of_the_test_size(toy):
    """As many as are translated, or all there are, from the first to the last; what is scaled is not cut."""
    many = replace(toy, train_b=torch.arange(0, 250, 10, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 36, 36))
    assert scorecards.real_sample(many, "b")[:, 0, 0, 0].tolist() == [0, 40, 90, 140, 190, 240]
    assert scorecards.real_sample(many, "b").shape == (6, 3, 32, 32)
    assert len(scorecards.real_sample(toy, "a")) == 3


def test_drawn_pictures_are_compared_with_the_truth(toy):
    """True counterparts have no difference to the truth, doing nothing leaves the background alone."""
    rows = scorecards.card(toy, None, "a", {"last": torch.zeros_like(toy.test_a)})
    assert list(rows) == ["doing_nothing", "last", "true_counterparts"]
    assert rows["doing_nothing"] == {"truth": difference(toy.test_b, toy.test_a), "background": 0}
    assert rows["true_counterparts"] == {"truth": 0, "background": 0}
    assert rows["last"]["truth"] == difference(torch.zeros_like(toy.test_a), toy.test_a) > 0
    assert rows["last"]["background"] == difference(torch.zeros_like(toy.test_b), toy.test_b, ~toy.masks) > 0


# ---- the best and the worst


def test_merit_is_what_it_is_said_to_be(toy, eye):
    """Drawn pictures rank by nearness to the truth, zebras by what they gained, others by their kernel to both domains."""
    fake = torch.cat([toy.test_b[:3], toy.test_a[3:]])
    assert scorecards.merit_by(toy, "b") == "truth"
    order = scorecards.by_merit(toy, None, "b", fake).tolist()
    assert set(order[:3]) == {0, 1, 2}
    zebras = replace(toy, aligned=False, masks=None, zebras=True)
    assert [scorecards.merit_by(zebras, to) for to in ("b", "a")] == ["zebra_gain", "hoofed_gain"]
    # Bluest is the third, but it was blue before.
    before = painted((100, 100, 0), (100, 100, 0), (0, 20, 100), (100, 0, 100))
    after = painted((50, 50, 20), (10, 10, 100), (0, 5, 100), (100, 0, 100))
    ours = replace(zebras, test_a=before, test_b=before)
    assert scorecards.by_merit(ours, Herd(), "b", after).tolist() == [1, 0, 2, 3]
    own = replace(zebras, zebras=False)
    assert scorecards.merit_by(own, "b") == "features"
    ranks = [scorecards.by_merit(own, eye, to, fake).tolist() for to in ("a", "b")]
    assert ranks[0] == ranks[1][::-1]


def test_horses_rank_by_what_is_hoofed_among_inputs_that_were_zebras(toy):
    """A zebra that became a lion gained nothing, one that became an ox did; what was no zebra before comes last."""
    zebra, no_zebra = (9, 0, 100), (90, 0, 80)
    zebras = replace(toy, aligned=False, zebras=True, test_b=painted(no_zebra, zebra, zebra, zebra))
    ox, lion, half = (100, 0, 9), (9, 100, 9), (50, 9, 50)
    assert scorecards.by_merit(zebras, Herd(), "a", painted(ox, lion, ox, half)).tolist() == [2, 3, 1, 0]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 24, 120])
def test_the_best_the_typical_and_the_worst(count):
    """They are the ends and the middle of the order, eight each where there are enough, and never overlap from three on."""
    parts = scorecards.best_typical_worst(list(range(count)), 8)
    each = max(1, min(8, count // 3))
    assert parts["best"] == list(range(each))
    assert parts["worst"] == list(range(count - each, count))
    assert len(parts["typical"]) == each
    assert abs(np.mean(parts["typical"]) - (count - 1) / 2) <= 0.5
    if count >= 3:
        assert len({*parts["best"], *parts["typical"], *parts["worst"]}) == 3 * each


def test_what_is_ranked_stands_above_its_translation(translator, toy):
    """Inputs are those of the order's places, and below them is what the judged weights of that direction make of them."""
    rows = scorecards.ranked(translator, toy.test_b, "ba", [3, 1, 0, 2, 5, 4], each=2)
    assert list(rows) == ["best", "best_translated", "typical", "typical_translated", "worst", "worst_translated"]
    places = scorecards.best_typical_worst([3, 1, 0, 2, 5, 4], 2)
    for part in places:
        assert torch.equal(rows[part], toy.test_b[places[part]])
        assert torch.equal(rows[f"{part}_translated"], translate(translator.average_ba, rows[part]))


# ---- one call a section


def test_what_is_measured_is_of_the_published_networks(translator, toy, tmp_path):
    """Cards, cycle errors and the order of merit are those of both kinds of weights, written out, and kept in the run."""
    run = Run("cyclegan", {}, tmp_path)
    model = translations.as_published(translator, run)
    found = measure_translations(run, model, toy, None)
    assert {name: run.metrics[name] for name in found} == found
    assert list(found) == ["cards", "cycle_error", "merit"]
    for kind in ("last", "average"):
        g_ab, g_ba = model.generators(kind == "average")
        fake_b, fake_a = translate(g_ab, toy.test_a), translate(g_ba, toy.test_b)
        assert found["cards"]["b"][kind]["truth"] == difference(fake_b, toy.test_b)
        assert found["cards"]["a"][kind]["truth"] == difference(fake_a, toy.test_a)
        assert found["cycle_error"][kind]["aba"] == difference(translate(g_ba, fake_b), toy.test_a)
        assert found["cycle_error"][kind]["bab"] == difference(translate(g_ab, fake_a), toy.test_b)
    # Of the averages, which came last.
    assert found["merit"]["ab"] == scorecards.by_merit(toy, None, "b", fake_b).tolist()
    assert found["merit"]["ba"] == scorecards.by_merit(toy, None, "a", fake_a).tolist()


def test_training_pictures_have_cards_too(translator, eye, tmp_path):
    """Every training picture of both domains is translated by the averages, and two halves of the target are the end."""
    drawn = toy_domains(32, train=9, test=3)
    scenes = replace(drawn, aligned=False, masks=None, zebras=True)
    run = Run("cyclegan", {}, tmp_path)
    found = scorecards.measure_on_training(run, translator, scenes, eye)
    assert found == run.metrics["cards_train"] and list(found) == ["b", "a"]
    a, b = (translations.some_scaled(train, 32, 9) for train in (scenes.train_a, scenes.train_b))
    for to, source, target, there in (("b", a, b, translator.average_ab), ("a", b, a, translator.average_ba)):
        rows, wanted = found[to], eye.features(target)
        assert list(rows) == ["doing_nothing", "average", "real_pictures"]
        assert rows["doing_nothing"]["kd"] == kernel_distance(eye.features(source), wanted)
        assert rows["average"]["kd"] == kernel_distance(eye.features(translate(there, source)), wanted)
        assert rows["real_pictures"]["kd"] == kernel_distance(wanted[::2], wanted[1::2])
        assert rows["real_pictures"]["zebra"] == (eye.look(target).probabilities.argmax(1) == ZEBRA).double().mean()
        ends = (rows[end]["fd"] for end in ("real_pictures", "doing_nothing"))
        assert rows["average"]["fd_closed"] == between(rows["average"]["fd"], *ends)
    few = replace(scenes, train_b=scenes.train_b[:5])
    assert scorecards.measure_on_training(Run("few", {}, tmp_path), translator, few, eye) == {}


def test_the_second_judge_is_asked_about_all_test_pictures(translator, toy, tmp_path, monkeypatch):
    """Its shares are those of inputs, translations by all weights and real test pictures; its accuracy is of both domains."""

    class Second:
        def __init__(self, domains):
            assert domains is toy

        def share_of_b(self, pictures):
            return float(pictures.double().mean() / 255)

    monkeypatch.setattr(scorecards, "SecondJudge", Second)
    run = Run("cyclegan", {}, tmp_path)
    found = scorecards.measure_second_judge(run, translator, toy)
    assert found == run.metrics["second_judge"]
    share_a, share_b = (Second(toy).share_of_b(real) for real in (toy.test_a, toy.test_b))
    assert {name: row["second_b"] for name, row in found["b"].items()} == {
        "doing_nothing": share_a,
        "last": Second(toy).share_of_b(translate(translator.g_ab, toy.test_a)),
        "average": Second(toy).share_of_b(translate(translator.average_ab, toy.test_a)),
        "real_pictures": share_b,
    }
    assert (found["a"]["doing_nothing"]["second_b"], found["a"]["real_pictures"]["second_b"]) == (share_b, share_a)
    assert found["accuracy"] == pytest.approx((1 - share_a + share_b) / 2)


def test_translations_are_measured_once_for_their_weights(translator, toy, tmp_path, monkeypatch):
    """A second call reads what is kept; other weights are measured anew."""
    run = Run("cyclegan", {}, tmp_path)
    found = measure_translations(run, translations.as_published(translator, run), toy, None)
    with monkeypatch.context() as patch:
        patch.setattr(scorecards, "translate", lambda *_: pytest.fail("translated again"))
        assert measure_translations(run, translations.as_published(translator, run), toy, None) == found
    with torch.no_grad():
        next(translator.average_ab.parameters()).neg_()
    again = measure_translations(run, translations.as_published(translator, run), toy, None)
    assert again["cards"]["b"]["average"] != found["cards"]["b"]["average"]
    assert again["cards"]["a"] == found["cards"]["a"]


def test_the_published_translations_are_read(monkeypatch):
    """Of the published run nothing is measured, and every picture has its place in the order of merit."""
    monkeypatch.setattr(scorecards, "translate", lambda *_: pytest.fail("translated"))
    run = Run.published("cyclegan")
    found = measure_translations(run, CycleGAN.load(run.kept_weights), None, None)
    assert found == {name: run.metrics[name] for name in ("cards", "cycle_error", "merit")}
    assert {way: sorted(order) for way, order in found["merit"].items()} == {
        "ab": list(range(120)),
        "ba": list(range(140)),
    }
    row, ends = found["cards"]["b"]["average"], (found["cards"]["b"][end] for end in ("real_pictures", "doing_nothing"))
    assert row["kd_closed"] == pytest.approx(between(row["kd"], *(end["kd"] for end in ends)))


# ---- reading a run


def test_ends_of_the_training_are_means_of_a_tenth():
    """Of 40 steps the first four and the last four; of three, one each."""
    first, last = scorecards.first_and_last_tenth({"step": np.arange(40.0), "loss": np.arange(40.0) ** 2})
    assert (first["loss"], last["loss"]) == (3.5, np.mean([36**2, 37**2, 38**2, 39**2]))
    first, last = scorecards.first_and_last_tenth({"step": np.arange(3.0)})
    assert (first["step"], last["step"]) == (0, 2)


def test_levels_are_the_ends_of_the_cards():
    """Each score drawn has doing nothing and real pictures of its direction; drawn ones have no real pictures."""
    kd = {
        "doing_nothing": {"kd": 3.0, "fd": 9.0},
        "last": {"kd": 2.0, "fd": 5.0},
        "real_pictures": {"kd": 0.5, "fd": 1.0},
    }
    found = scorecards.references({"b": kd, "a": {name: {"kd": row["kd"] + 1} for name, row in kd.items()}})
    assert found["kd_ab"] == {"doing_nothing": 3.0, "real_pictures": 0.5}
    assert found["kd_ba"] == {"doing_nothing": 4.0, "real_pictures": 1.5}
    drawn = {"doing_nothing": {"truth": 0.4}, "true_counterparts": {"truth": 0.0}}
    assert scorecards.references({"b": drawn, "a": drawn})["truth_ab"] == {"doing_nothing": 0.4}
    epochs = {"last_truth_ba": 0, "last_truth_ab": 0, "last_change_ab": 0, "average_kd_ab": 0}
    assert scorecards.drawn_scores(epochs) == ["truth_ab", "truth_ba"]


@pytest.mark.parametrize("kind", ["last", "average"])
def test_two_runs_are_compared_after_the_same_epoch(tmp_path, kind):
    """Scores are of that epoch by the judged weights, the cycle loss is the mean of its steps and of both directions."""
    runs = []
    for number in (0, 1):
        run = Run("cyclegan", {"number": number}, tmp_path)
        run.folder.mkdir()
        Table(run.folder / "history.csv").append(
            [{"epoch": 1 + step // 2, "cycle_a": step / 10 + number, "cycle_b": step / 10} for step in range(6)]
        )
        for epoch in (1, 2, 3):
            row = {f"{kind}_change_ab": 9, f"{kind}_kd_ab": epoch + number / 4, f"{kind}_shift_ba": epoch / 8}
            Table(run.folder / "epochs.csv").append([{"epoch": epoch, "last_kd_ab": 7} | row])
        runs.append(run)
    found = scorecards.measure_identity(runs[1], runs[0], epoch=2)
    assert found == runs[1].metrics["beside"]
    assert found["without"] == pytest.approx({"kd_ab": 2, "shift_ba": 0.25, "cycle": 0.25})
    assert found["with_identity"] == pytest.approx({"kd_ab": 2.25, "shift_ba": 0.25, "cycle": 0.75})


def test_the_published_comparison_is_that_of_the_published_runs():
    """What results/ says of both runs is what their own tables say after the tenth epoch."""
    second = Run.published("cyclegan-identity")
    found = scorecards.compare(Run.published("cyclegan"), second, 10)
    for name, row in second.metrics["beside"].items():
        assert found[name] == pytest.approx(row, rel=1e-9)
