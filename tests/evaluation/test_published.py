"""What is published was measured with the published weights, is not measured anew, and comes out again."""

import pytest

from hw2lib.cyclegan import CycleGAN
from hw2lib.data import cifar10, domains, root_folder
from hw2lib.data.pictures import CIFAR10_FOLDER
from hw2lib.evaluation import Judge, codec, metrics, scorecards
from hw2lib.evaluation.translations import translate
from hw2lib.pixelcnn import GatedPixelCNN
from hw2lib.report.publish import restore
from hw2lib.training import Run
from hw2lib.vqvae import VQVAE


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    restore(runs=runs)
    return runs


@pytest.mark.parametrize("name", ["cyclegan", "cyclegan-identity", "vqvae", "pixelcnn"])
def test_a_restored_run_measures_nothing_anew(restored, name):
    """Every published number bears the stamp of the published weights, so that a restored run takes it as measured."""
    run = Run(name, Run.published(name).config, restored)
    found = run.metrics
    stamps = found.pop("measured_with")
    assert set(stamps) == set(found)
    for key, stamp in stamps.items():
        assert run.measured(key, lambda key=key: pytest.fail(f"{key} measured anew"), stamp["version"]) == found[key]


# ---- on the real test pictures


@pytest.mark.slow
@pytest.mark.real_data
def test_published_translators_give_the_published_numbers():
    """The averaged generators score what results/ says, and rank the pictures nearly so (skipped where there are none)."""
    if not (root_folder() / "horse2zebra").is_dir():
        pytest.skip("no folder horse2zebra in the data root")
    run, judge = Run.published("cyclegan"), Judge()
    model = CycleGAN.load(run.kept_weights)
    ours, said = domains("horse2zebra", model.config.size), run.metrics
    fake = translate(model.generators(averaged=True)[0], ours.test_a)
    for name, row in scorecards.card(ours, judge, "b", {"average": fake}).items():
        assert row["zebra"] == pytest.approx(said["cards"]["b"][name]["zebra"], abs=0.02), name
        assert row["kd"] == pytest.approx(said["cards"]["b"][name]["kd"], abs=0.003), name
    order = scorecards.by_merit(ours, judge, "b", fake).tolist()
    for end in (slice(8), slice(-8, None)):
        assert len({*order[end]} & {*said["merit"]["ab"][end]}) >= 6


@pytest.fixture(scope="module")
def pictures():
    """The real pictures of CIFAR-10; the test is skipped where they are not."""
    if not (root_folder() / CIFAR10_FOLDER).is_dir():
        pytest.skip(f"no folder {CIFAR10_FOLDER} in the data root")
    return cifar10()


@pytest.mark.slow
@pytest.mark.real_data
def test_the_published_codec_and_prior_give_the_published_numbers(pictures):
    """Errors, use and cost of the codes, and the simple codecs beside, are what results/ says."""
    run, prior_run = Run.published("vqvae"), Run.published("pixelcnn")
    model, said = VQVAE.load(run.kept_weights), run.metrics
    found = codec.evaluate_vqvae(model, pictures.test)
    assert found == pytest.approx({name: said["reconstruction"][name] for name in found}, rel=2e-3)
    codecs = metrics.simple_codecs(pictures.train, pictures.test)
    assert codecs == pytest.approx(said["reconstruction"]["codecs"], rel=1e-6)
    errors = codec.squared_error_by_picture(model, pictures.test) / pictures.variance
    assert float(errors.median()) == pytest.approx(said["by_picture"]["median"], rel=2e-3)
    rough = metrics.correlation(errors, metrics.roughness(pictures.test))
    assert rough == pytest.approx(said["by_picture"]["roughness"], rel=2e-3)
    codes = codec.encode_pictures(model, pictures.test)
    by_batch = metrics.perplexity_by_batch(codes, model.config.num_codes, [8, 1024])
    assert by_batch == pytest.approx(
        {size: said["use"]["perplexity_by_batch"][str(size)] for size in (8, 1024)}, rel=2e-3
    )
    costs = GatedPixelCNN.load(prior_run.kept_weights).nll(codes, pictures.test_labels)
    assert float(costs.double().mean()) == pytest.approx(
        prior_run.metrics["likelihood"]["rows"]["told"]["nats"], abs=2e-3
    )
