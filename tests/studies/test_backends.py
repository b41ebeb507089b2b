"""A study on other backends of joblib than its own processes."""

import joblib
import pytest

from hw2lib.parameters import VQVAEParameters, given, preset
from hw2lib.studies import load_or_run, study

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'hw2lib[test]'")


@pytest.mark.slow
def test_dask_workers_measure_the_same(tmp_path):
    """Two local workers of Dask give the rows that one process gives, to the bit."""
    changes = ("answer_steps=3", "answer_seeds=1", "device=cpu")
    here, there = (
        given(VQVAEParameters, preset("smoke", "02_vqvae"), (*changes, f"runs={tmp_path / name}", f"n_jobs={jobs}"))
        for name, jobs in (("here", 1), ("there", 2))
    )
    expected = study.rows(load_or_run("ring", here))
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config("dask"),
    ):
        assert study.rows(load_or_run("ring", there)) == expected
    assert len(expected) > 2
