"""The parameters of the notebooks: checked in their second cell, before any work."""

import ast
import difflib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hw2lib import Problem


class ParameterError(Problem):
    """A notebook parameter with a wrong name, type or value."""


class MachineParameters(BaseModel):
    """Where things are computed and kept; no number in a report depends on these but through rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_root: str = ""
    runs: str = ""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "32", "bf16"] = "auto"


class CycleGANParameters(MachineParameters):
    """Parameters of 01_cyclegan.ipynb; what reaches the networks is checked again by CycleGANConfig."""

    dataset: str = Field("toy", min_length=1)
    size: int = 64
    epochs: int = Field(3, ge=1)
    batch_size: int = Field(1, ge=1)
    base_channels: int = 16
    generator: str = "resnet"
    discriminator: str = "patch"
    objective: str = "least_squares"
    cycle_weight: float = 10.0
    identity_weight: float = 0.0
    pool_size: int = 50
    learning_rate: float = 2e-4
    ema_decay: float = 0.999
    identity_epochs: int = Field(0, ge=0)
    standard_fid: bool = False
    answer_steps: int = Field(30, ge=1)
    answer_seeds: int = Field(1, ge=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _comparable(self):
        """Two runs can be compared at equal steps where their learning rates were equal up to there."""
        if self.identity_epochs not in (self.epochs, *range(self.epochs // 2 + 1)):
            raise ValueError(f"identity_epochs must be epochs, {self.epochs}, or at most half of it")
        if self.identity_epochs and self.identity_weight:
            raise ValueError("identity_epochs is for a second run beside one with identity_weight 0")
        return self


class VQVAEParameters(MachineParameters):
    """Parameters of 02_vqvae.ipynb; what reaches the network is checked again by VQVAEConfig."""

    dataset: str = Field("toy", min_length=1)
    size: int = 32
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = 2e-3
    num_codes: int = Field(512, ge=8, le=65536)  # fewer cannot be mapped by UMAP, more not kept as 16 bits
    code_dim: int = 64
    commitment: float = 0.25
    codebook: str = "ema"
    kmeans_init: bool = True
    restart_dead: bool = True
    comparison_updates: int = Field(0, ge=0)
    prior_epochs: int = Field(4, ge=1)
    prior_channels: int = Field(32, ge=1)
    judged_pictures: int = Field(256, ge=16)
    answer_updates: int = Field(30, ge=1)
    answer_steps: int = Field(200, ge=1)
    answer_seeds: int = Field(1, ge=1)
    seed: int = Field(0, ge=0)


def one_line(error: ValidationError) -> str:
    """What pydantic found, as one line: the names, what is wrong with each, and what was given."""
    return "; ".join(
        f"{'.'.join(map(str, found['loc'])) or 'config'}: {found['msg'][0].lower()}{found['msg'][1:]}, "
        f"not {found['input']!r}"
        for found in error.errors()
    )


def unknown(name: str, known) -> str:
    """One line for a parameter that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"no parameter {name}" + (f": did you mean {near[0]}?" if near else f": there are {', '.join(known)}")


def check(kind: type[BaseModel], namespace: dict) -> BaseModel:
    """The notebook's parameters, read from its namespace (`globals()`) as `kind`, with strings made numbers.

    Raises ParameterError for a value that does not fit and for a name that papermill injected but no parameter has:
    papermill itself only warns, and would go on with the default.
    """
    known = list(kind.model_fields)
    for source in namespace.get("In", []):
        if source.startswith("# Parameters\n"):  # so papermill begins the cell it injects
            targets = [t.id for node in ast.parse(source).body if isinstance(node, ast.Assign) for t in node.targets]
            for name in targets:
                if name not in known:
                    raise ParameterError(unknown(name, known))
    return make(kind, {name: namespace[name] for name in known if name in namespace})


def make(kind: type[BaseModel], values: dict) -> BaseModel:
    """`kind(**values)`, with what is wrong said in one line. Raises ParameterError."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise ParameterError(one_line(error)) from None


def given(kind: type[BaseModel], values: dict, changes: tuple[str, ...] = ()) -> BaseModel:
    """`kind` from a preset's values and from changes like "epochs=3". Raises ParameterError."""
    values = dict(values)
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise ParameterError(f"{change} must look like epochs=3")
        values[name] = value
    for name in values:
        if name not in kind.model_fields:
            raise ParameterError(unknown(name, list(kind.model_fields)))
    return make(kind, values)
