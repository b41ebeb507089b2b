"""What the tests of pictures share: a data root of their own, folders of pictures, and errors of one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hw2lib.data import DataError, folders


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """No test reads or writes the data sets and caches of whoever runs it."""
    (tmp_path / "root").mkdir()
    monkeypatch.setenv("HW2_DATA", str(tmp_path / "root"))
    monkeypatch.setenv("HW2_PROGRESS", "lines")
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "root"


@pytest.fixture
def refused():
    """What a call is refused with, which must be one line."""

    def message(call, *args, **kwargs) -> str:
        with pytest.raises(DataError) as error:
            call(*args, **kwargs)
        assert str(error.value) and "\n" not in str(error.value)
        return str(error.value)

    return message


@pytest.fixture
def album():
    """Makes a folder of different PNG pictures."""

    def make(path: Path, count: int, size: int = 16) -> Path:
        path.mkdir(parents=True)
        for number, pixels in enumerate(noise(count, size, size, 3)):
            Image.fromarray(pixels).save(path / f"{number:03}.png")
        return path

    return make


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def unread(monkeypatch):
    """No picture may be read: what is wrong has to be found before."""
    monkeypatch.setattr(folders, "read_picture", lambda path: pytest.fail(f"{path} was read"))
