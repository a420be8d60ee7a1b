"""Hydra: from the command line to composed configurations. Nothing else imports it."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pipar_rpc.config import FREE_KEYS, one_line
from pipar_rpc.errors import UserError, nearest
from pipar_rpc.models import ALIASES
from pipar_rpc.schema import Config

HYDRA_VERSION = "1.3"
MULTIRUN_FLAGS = ("--multirun", "-m")
INFO_FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--shell-completion", "-sc"),
    *("--cfg", "-c", "--info", "-i"),
)

ConfigStore.instance().store("schema", Config)


def config_dir() -> Path:
    """conf/: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "conf"


def cut_name(split_point: int, num_micro_batches: int, profile_iterations: int) -> str:
    """Where a job cuts, for its folder's name: P and N, or that they are still to be chosen."""
    return "selected" if profile_iterations else f"P{split_point}_N{num_micro_batches}"


OmegaConf.register_new_resolver("cut", cut_name, replace=True)  # ${cut:P,N,profile_iterations}
OmegaConf.register_new_resolver("conf_dir", lambda: str(config_dir()), replace=True)  # ${conf_dir:}/...


def normalise(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra wants it.

    --multirun and --flag=value go to the front, because argparse takes overrides on one side of a flag only;
    settings of single devices and arguments of custom models get Hydra's "add or override" prefix, because
    nothing is known of them beforehand; models may be called by their names in the paper's reference; braces
    in a data root are not Hydra's.
    """
    first = sorted(arguments, key=lambda argument: not _is_flag(argument))
    return [f"++{argument}" if argument.startswith(FREE_KEYS) else _own_names(argument) for argument in first]


def _quoted(text: str) -> str:
    """In Hydra's quotes, where backslashes are doubled before a quote, and only there."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{escaped}'"


def _is_flag(argument: str) -> bool:
    return argument in MULTIRUN_FLAGS or (argument.startswith("--") and "=" in argument)


def _own_names(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if key == "node.data_root" and "{" in value and not value.startswith(("'", '"')):
        return f"{key}={_quoted(value)}"
    if key != "model":
        return argument
    return key + equals + ",".join(ALIASES.get(name, name) for name in value.split(","))


def only_informs(arguments: Sequence[str]) -> bool:
    """Whether the command line asks Hydra to show something instead of running a job."""
    return any(argument.split("=")[0] in INFO_FLAGS for argument in arguments)


def run_jobs(job: Callable[[DictConfig, Path, int], None], folder: Path | None = None) -> None:
    """Has Hydra run the job, or the jobs of a sweep, that `sys.argv` describes.

    Args:
        job: called with the composed configuration, the job's own output folder and its number.
        folder: of the run or the sweep; None for a new one as the configuration says.
    """
    if folder is not None:
        sys.argv += [f"hydra.{kind}.dir={_quoted(str(folder))}" for kind in ("run", "sweep")]

    def task(raw: DictConfig) -> None:
        settings = HydraConfig.get()
        number = 0 if OmegaConf.is_missing(settings.job, "num") else settings.job.num
        job(raw, Path(settings.runtime.output_dir), number)

    hydra.main(version_base=HYDRA_VERSION, config_path=str(config_dir()), config_name="config")(task)()


def compose(arguments: Sequence[str]) -> tuple[DictConfig, bool]:
    """Composes what the command line says, before Hydra writes anything; for a sweep, its first job.

    Returns:
        The configuration, and whether it is a sweep.

    Raises:
        UserError: unknown key or choice, or a value of the wrong type; in any value of a sweep.
    """
    composed, multirun = _compose(arguments)
    with open_dict(composed):
        del composed["hydra"]
    return composed, multirun


def run_folder(arguments: Sequence[str]) -> Path:
    """Where a run or a sweep that began now would write."""
    composed, multirun = _compose(arguments)
    return Path(composed.hydra.sweep.dir if multirun else composed.hydra.run.dir)


def _compose(arguments: Sequence[str]) -> tuple[DictConfig, bool]:
    args = get_args_parser().parse_args(normalise(arguments))
    extra = [f"hydra.searchpath=[file://{Path(args.config_dir).resolve()}]"] if args.config_dir else []
    with hydra.initialize_config_dir(str(config_dir()), version_base=HYDRA_VERSION):
        try:
            loader = GlobalHydra.instance().config_loader()
            overrides = OverridesParser.create(loader).parse_overrides(args.overrides)
            choices = [_values(override) for override in overrides]
            first = [values[0] for values in choices]
            composed = hydra.compose("config", [*extra, *first], return_hydra_config=True)
            for index, values in enumerate(choices):
                for value in values[1:]:
                    hydra.compose("config", [*extra, *first[:index], value, *first[index + 1 :]])
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_explain(error)) from error
    multirun = bool(args.multirun) or composed.hydra.mode == RunMode.MULTIRUN
    for key in [values[0].split("=")[0] for values in choices if len(values) > 1]:
        if not multirun:
            raise UserError(f"{key}: several values need --multirun")
        if key.startswith("hydra."):
            raise UserError(f"{key}: must be one value; if there is a comma in it, write \"{key}='A,B'\"")
    return composed, multirun


def _values(override: Override) -> list[str]:
    """An override as the overrides of the single jobs that it stands for."""
    key = override.get_key_element()
    if override.is_discrete_sweep():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    interval = override.value()
    if isinstance(interval, IntervalSweep):  # for sweepers that choose the values themselves
        return [f"{key}={interval.start}"]
    return [str(override.input_line)]


def _explain(error: Exception) -> str:
    """A composition error as one line."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"{group}={name}: no such choice: {nearest(name, error.options)}"
    if isinstance(error.__cause__, OmegaConfBaseException):
        return one_line(error.__cause__)
    if isinstance(error, OmegaConfBaseException):
        return one_line(error)
    return str(error).splitlines()[0]
