"""Weights on disk: safetensors, which runs no code on load, with the model's config in the metadata."""

import json
import os
from pathlib import Path

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hw2lib import Problem, in_one_line

KEY = "hw2lib"


class WeightsError(Problem):
    """A weights file that is missing, damaged, or made for another model."""


def save(model, path: str | Path) -> None:
    """Write model.state_dict() and model.config; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    about = {"model": type(model).__name__, "config": model.config.model_dump(mode="json")}
    save_file(
        tensors, part, metadata={KEY: json.dumps(about)}
    )  # one key: safetensors keeps no order of several
    os.replace(part, path)


def load(path: str | Path, model_class: type, config_class: type[BaseModel]):
    """The model of a file written by `save`, in eval mode on the CPU. Raises WeightsError."""
    name = model_class.__name__
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(KEY, "{}"))
            if about.get("model") != name:
                raise WeightsError(f"{path} holds {about.get('model', 'an unknown model')}, not {name}")
            model = model_class(config_class.model_validate(about["config"]))
            names = file.keys()
            model.load_state_dict({key: file.get_tensor(key) for key in names})
    except FileNotFoundError:
        raise WeightsError(
            f"{path} is missing: {name}.load needs a weights file, such as a run leaves"
        ) from None
    except (SafetensorError, OSError, KeyError, ValueError, ValidationError, RuntimeError) as error:
        raise WeightsError(f"{path} is no readable weights file of {name}: {in_one_line(error)}") from None
    return model.eval()
