"""Weights on disk: safetensors, which runs no code on load, with the model's config in the metadata."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors

from hw2lib import Problem, files, in_one_line

KEY = "hw2lib"


class WeightsError(Problem):
    """A weights file that is missing, damaged, made for another model, or cannot be written."""


def save(model, path: str | Path, without: tuple[str, ...] = (), dtype: torch.dtype | None = None) -> None:
    """Write model.state_dict() and model.config; the file appears whole or not at all. Raises WeightsError.

    Tensors whose names begin with one of `without` are left out; `load` accepts that of `model.optional_weights` only.
    `dtype`, if given, is the type in the file, such as torch.float16; a network that is loaded has its own again.
    """
    tensors = {
        name: tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(without)
    }
    about = {"model": type(model).__name__, "config": model.config.model_dump(mode="json")}
    content = safetensors.save(tensors, {KEY: json.dumps(about)})  # one key: safetensors keeps no order of several
    files.write_whole(Path(path), content, WeightsError)


def load(path: str | Path, model_class: type, config_class: type[BaseModel]):
    """The model of a file written by `save`, in eval mode on the CPU. Raises WeightsError."""
    with _open(path, model_class) as (file, config):
        model = model_class(config_class.model_validate(config))
        _fill(model, file)
    return model.eval()


def load_into(model, path: str | Path) -> None:
    """Give a model of the same config the weights of a file written by `save`. Raises WeightsError."""
    with _open(path, type(model)) as (file, _):
        _fill(model, file)


def _fill(model, file) -> None:
    """Load what the file holds; only what the model counts as `optional_weights` may be absent."""
    tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, the file is no dict
    missing, unknown = model.load_state_dict(tensors, strict=False)
    missing = [key for key in missing if not key.startswith(getattr(model, "optional_weights", ()))]
    if missing or unknown:
        raise ValueError(f"tensors missing: {missing[:3]}, tensors unknown: {unknown[:3]}")
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{key} is not finite")


@contextmanager
def _open(path: str | Path, model_class: type) -> Iterator[tuple]:
    """The file and the config in it; whatever is wrong with it in this block becomes a WeightsError of one line."""
    name = model_class.__name__
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(KEY, "{}"))
            model, config = (about.get(key) if isinstance(about, dict) else None for key in ("model", "config"))
            if model != name:
                raise WeightsError(f"{path} holds {model or 'an unknown model'}, not {name}: give another file")
            if not isinstance(config, dict):
                raise ValueError("it holds no config")
            yield file, config
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing: {name}.load needs a weights file, such as a run leaves") from None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = f"{in_one_line(error)}; give one as a run leaves it"
        raise WeightsError(f"{path} is no readable weights file of {name}: {reason}") from None
