"""The parameters of the notebooks: checked in their second cell, before any work."""

import ast
import os
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from hw2lib import ROOT, Problem, did_you_mean, in_one_line
from hw2lib.files import user_path

PRESETS = ROOT / "notebooks" / "presets"


class ParameterError(Problem):
    """A notebook parameter, or a preset, with a wrong name, type or value."""


def _a_path(text: str) -> str:
    """A name that may be a path: one that no system can have is refused before any work. Raises ParameterError."""
    user_path(text, ParameterError)
    return text


def _absolute(text: str) -> str:
    """A folder, from any kernel the same; "" is the usual one. Raises ParameterError."""
    return str(user_path(text, ParameterError)) if text else ""


Folder = Annotated[str, AfterValidator(_absolute)]
Dataset = Annotated[str, Field(min_length=1), AfterValidator(_a_path)]
# More would only be a slip of the hand: no machine ends with them.
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Steps = Annotated[int, Field(ge=1, le=10_000_000)]


class Parameters(BaseModel):
    """What both notebooks have. Of the machine are data_root, runs, device, precision, devices, compiled and n_jobs: no
    number in a report depends on these but through rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data_root: Folder = ""
    runs: Folder = ""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "32", "bf16"] = "auto"
    # Processes that train a network together, a GPU or some cores each.
    devices: int = Field(1, ge=1)
    # Whether torch.compile makes one kernel of many.
    compiled: bool = False
    # Trainings of a study that run side by side; 0: as many as there are cores.
    n_jobs: int = Field(0, ge=0, le=1024)
    # The experiments behind the written answers: loaded from results/, or made anew with the sizes below.
    experiments: Literal["published", "run"] = "published"
    answer_steps: Steps = 30
    answer_seeds: int = Field(1, ge=1, le=1000)
    seed: int = Field(0, ge=0, lt=2**31)  # UMAP and some of numpy take no larger ones

    @model_validator(mode="after")
    def _shares(self):
        if self.devices > 1 and self.devices > self.batch_size:
            raise ValueError(f"devices must be at most batch_size, {self.batch_size}, of which each takes a share")
        return self

    @property
    def jobs(self) -> int:
        """Trainings side by side, 1 or more."""
        return self.n_jobs or os.cpu_count() or 1

    @property
    def machine(self) -> dict[str, str | bool]:
        """What training.fit is told of the machine."""
        return {name: getattr(self, name) for name in ("device", "precision", "runs", "compiled")}


class CycleGANParameters(Parameters):
    """Parameters of 01_cyclegan.ipynb; what reaches the networks is checked again by CycleGANConfig."""

    dataset: Dataset = "toy"
    size: int = 64
    epochs: Epochs = 2
    batch_size: int = Field(1, ge=1, le=65536)
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
    again: bool = False
    plane_seeds: int = Field(1, ge=1, le=1000)
    standard_fid: bool = False

    @model_validator(mode="after")
    def _comparable(self):
        """Two runs can be compared at equal steps where their learning rates were equal up to there."""
        if self.identity_epochs not in (self.epochs, *range(self.epochs // 2 + 1)):
            raise ValueError(f"identity_epochs must be epochs, {self.epochs}, or at most half of it")
        if self.identity_epochs and self.identity_weight:
            raise ValueError("identity_epochs is for a second run beside one with identity_weight 0")
        return self


class VQVAEParameters(Parameters):
    """Parameters of 02_vqvae.ipynb; what reaches the network is checked again by VQVAEConfig."""

    dataset: Dataset = "toy"
    size: int = 32
    epochs: Epochs = 15
    batch_size: int = Field(64, ge=1, le=65536)
    learning_rate: float = 2e-3
    # Fewer cannot be mapped by UMAP, more not kept as 16 bits.
    num_codes: int = Field(512, ge=8, le=65536)
    code_dim: int = 64
    commitment: float = 0.25
    codebook: str = "ema"
    kmeans_init: bool = True
    restart_dead: bool = True
    comparison_updates: int = Field(0, ge=0, le=10_000_000)
    longer_runs: bool = False
    prior_epochs: Epochs = 4
    prior_channels: int = Field(32, ge=1, le=4096)
    judged_pictures: int = Field(256, ge=16, le=1_000_000)
    answer_updates: Steps = 30
    answer_steps: Steps = 200


def preset(name: str, stem: str) -> dict:
    """The values in notebooks/presets/<name>/<stem>.yaml, for the notebook of that stem. Raises ParameterError."""
    known = sorted(path.parent.name for path in PRESETS.glob(f"*/{stem}.yaml"))
    if name not in known:
        raise ParameterError(f"no preset {name!r} for {stem}: {did_you_mean(name, known)}")
    path = PRESETS / name / f"{stem}.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, OSError, ValueError) as error:  # bytes that are no text
        raise ParameterError(f"{path} must be readable YAML: {in_one_line(error)}") from None
    if not isinstance(values, dict):
        raise ParameterError(f"{path} must hold lines like `epochs: 40`")
    return values


def check(kind: type[Parameters], namespace: dict) -> Parameters:
    """The notebook's parameters, read from its namespace (`globals()`) as `kind`, with strings made numbers.

    Raises ParameterError for a value that does not fit and for a name that papermill injected but no parameter has:
    papermill itself only warns, and would go on with the default.
    """
    known = list(kind.model_fields)
    for source in namespace.get("In", []):
        # So papermill begins the cell that it injects.
        if source.startswith("# Parameters\n"):
            assigned = [node.targets for node in ast.parse(source).body if isinstance(node, ast.Assign)]
            require_known([target.id for targets in assigned for target in targets], known)
    return make(kind, {name: namespace[name] for name in known if name in namespace})


def make(kind: type[BaseModel], values: dict) -> BaseModel:
    """`kind(**values)`, with what is wrong said in one line. Raises ParameterError."""
    try:
        return kind(**values)
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, fault['loc'])) or 'config'}: {fault['msg'][0].lower()}{fault['msg'][1:]}, "
            f"not {fault['input']!r}"
            for fault in error.errors()
        ]
        raise ParameterError("; ".join(found)) from None


def given(kind: type[Parameters], values: dict, changes: tuple[str, ...] = ()) -> Parameters:
    """`kind` from a preset's values and from changes like "epochs=3". Raises ParameterError."""
    values = dict(values)
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise ParameterError(f"{change} must look like epochs=3")
        values[name] = value
    require_known(values, list(kind.model_fields))
    return make(kind, values)


def require_known(names, known: list[str]) -> None:
    """Raise ParameterError for the first of the names that is not known."""
    for name in map(str, names):
        if name not in known:
            raise ParameterError(f"no parameter {name}: {did_you_mean(name, known)}")
