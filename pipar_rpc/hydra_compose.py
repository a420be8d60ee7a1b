"""Hydra: from the command line to composed configurations. Nothing else imports it."""

import sys
import textwrap
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import chdir
from pathlib import Path

import hydra
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_launcher import BasicLauncherConf
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pipar_rpc import command_line
from pipar_rpc.base.errors import ConfigError, UserError, nearest
from pipar_rpc.folder_names import coded_name, cut_name, protected_name
from pipar_rpc.objective import check_objective, for_sweeper, variants
from pipar_rpc.plan.load import one_line, quoted
from pipar_rpc.plan.schema import Config

HYDRA_VERSION = "1.3"
CONFIG = "config"
MULTIRUN = "--multirun"
RANKS = ("num_devices", "num_servers", "placement.devices_per_rank")  # what decides how many ranks there are

ConfigStore.instance().store("schema", Config)


def config_dir() -> Path:
    """conf/: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "conf"


def choices() -> str:
    """The configuration groups with their choices, also those of --config-dir, in short lines for --help."""
    loader = GlobalHydra.instance().config_loader()
    tops = [group for group in loader.list_groups("") if group != "hydra"]
    below = [f"{group}/{name}" for group in tops for name in loader.list_groups(group)]
    groups = {group: loader.get_group_options(group) for group in tops + below}
    lines = [
        textwrap.fill(", ".join(names), 96, initial_indent=f"  {group:17}", subsequent_indent=" " * 19)
        for group, names in sorted(groups.items())
        if names
    ]
    return "\n".join(lines)


OmegaConf.register_new_resolver("choices", choices, replace=True)  # ${choices:}
OmegaConf.register_new_resolver("cut", cut_name, replace=True)  # ${cut:strategy,P,N,profile_iterations}
OmegaConf.register_new_resolver("coded", coded_name, replace=True)  # ${coded:activations,gradients,models}
OmegaConf.register_new_resolver("protected", protected_name, replace=True)  # ${protected:}
OmegaConf.register_new_resolver("conf_dir", lambda: str(config_dir()), replace=True)  # ${conf_dir:}/...


def normalise(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra wants it; see `command_line.normalise`."""
    return command_line.normalise(arguments, get_args_parser())


def run_jobs(job: Callable[[DictConfig, Path, int], float | None], folder: Path | None = None) -> None:
    """Has Hydra run the job, or the jobs of a sweep, that `sys.argv` describes.

    Args:
        job: function called with the composed configuration, the job's output folder and number; returns the
            figure for a sweeper that optimises, NaN if the job has failed.
        folder: folder of the run or the sweep; None for a new one as the configuration says.
    """
    if folder is not None:
        sys.argv += [f"hydra.{kind}.dir={quoted(str(folder))}" for kind in ("run", "sweep")]

    def task(raw: DictConfig) -> float | None:
        settings = HydraConfig.get()
        number = 0 if OmegaConf.is_missing(settings.job, "num") else settings.job.num
        # With hydra.job.chdir=true Hydra has gone into the job's folder. The devices, other processes, have
        # not, and a path means the same to all ranks and in all jobs.
        with chdir(settings.runtime.cwd):
            value = job(raw, Path(settings.runtime.output_dir), number)
        return for_sweeper(value, settings.sweeper._target_)

    hydra.main(version_base=HYDRA_VERSION, config_path=str(config_dir()), config_name=CONFIG)(task)()


def compose(arguments: Sequence[str]) -> tuple[DictConfig, bool]:
    """Composes what the command line says, before Hydra writes anything; for a sweep, its first job.

    Returns:
        The configuration, and whether it is a sweep.

    Raises:
        UserError: unknown key or choice, or a value of the wrong type; in any value of a sweep.
    """
    jobs, multirun = _compose(arguments)
    return _without_hydra(jobs[0]), multirun


def compose_all(arguments: Sequence[str]) -> tuple[list[DictConfig], bool]:
    """As `compose`, but for a sweep all jobs that differ in groups or in ranks, the first one first."""
    jobs, multirun = _compose(arguments, combine=True)
    return [_without_hydra(job) for job in jobs], multirun


def run_folder(arguments: Sequence[str]) -> tuple[Path, bool]:
    """Where a run or a sweep that began now would write, and whether that is the same folder every time."""
    jobs, multirun = _compose(arguments)
    where = jobs[0].hydra.sweep if multirun else jobs[0].hydra.run
    pattern = str(OmegaConf.to_container(where, resolve=False)["dir"])  # type: ignore[call-overload,index]
    return Path(where.dir), "${now:" not in pattern


def _without_hydra(composed: DictConfig) -> DictConfig:
    with open_dict(composed):
        del composed["hydra"]
    return composed


def _compose(arguments: Sequence[str], combine: bool = False) -> tuple[list[DictConfig], bool]:
    """The first job and one for each further value of a sweep; `combine`: for combinations of groups."""
    args = command_line.parse(normalise(arguments), get_args_parser())
    loader, name = _loader(args), args.config_name or CONFIG
    try:
        # What Hydra itself goes by: composed without what is swept.
        settings = loader.load_configuration(name, args.overrides, RunMode.MULTIRUN, True, False)
        multirun = bool(args.multirun) or settings.hydra.mode == RunMode.MULTIRUN
        overrides = _overrides(loader, args.overrides, settings if multirun else None)
        choices = [_values(override) for override in overrides]
        _check_swept([each.key_or_group for each in overrides if each.is_sweep_override()], multirun)
        groups = {*settings.hydra.runtime.choices, *RANKS} if combine else set()
        together = [override.key_or_group in groups for override in overrides]
        jobs = [
            loader.load_configuration(name, variant, RunMode.RUN) for variant in variants(choices, together)
        ]
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise UserError(_explain(error, loader, name)) from error
    for job in jobs:
        _check(job, multirun)
    return jobs, multirun


def _loader(args: Namespace) -> ConfigLoaderImpl:
    """Looks for files where `hydra.main` does."""
    for flag in command_line.PATH_FLAGS:
        path = getattr(args, flag)
        if path and "://" not in path and not Path(path).is_dir():
            raise ConfigError(f"--{flag.replace('_', '-')}", path, "an existing folder")
    version.setbase(HYDRA_VERSION)
    setup_globals()
    places = create_config_search_path(args.config_path or str(config_dir()))
    if args.config_dir:
        schema = SearchPathQuery(provider="schema")
        places.prepend("command-line", f"file://{args.config_dir}", schema)
    return ConfigLoaderImpl(places)


def _overrides(loader: ConfigLoaderImpl, given: list[str], sweep: DictConfig | None) -> list[Override]:
    """Those of the command line, after those of `hydra.sweeper.params` that they leave standing."""
    parser = OverridesParser.create(loader)
    own = parser.parse_overrides(given)
    params = OmegaConf.select(sweep, "hydra.sweeper.params") if sweep is not None else None
    if not isinstance(params, DictConfig):
        return own
    lines = [f"{key!s}={value}" for key, value in params.items() if isinstance(value, str | int | float)]
    known = {override.get_key_element() for override in own}
    return [each for each in parser.parse_overrides(lines) if each.get_key_element() not in known] + own


def _check_swept(keys: list[str], multirun: bool) -> None:
    for key in keys:
        if not multirun:
            raise UserError(f"{key}: several values need --multirun")
        if key.startswith(("hydra.", "hydra/")):
            raise UserError(f"{key}: must be one value; if there is a comma in it, write \"{key}='A,B'\"")


def _check(job: DictConfig, multirun: bool) -> None:
    """Refuses what cannot be run, whatever the values of its keys."""
    if OmegaConf.get_type(job) is not Config:
        defaults = "a configuration that has `config` or `schema` among its defaults"
        raise ConfigError("--config-name", job.hydra.job.config_name, defaults)
    launcher = job.hydra.launcher._target_
    if launcher != BasicLauncherConf._target_:
        raise ConfigError("hydra/launcher", launcher, "basic, which runs the jobs inside this torchrun")
    check_objective(job.objective, job.hydra.sweeper._target_ if multirun else "")


def _values(override: Override) -> list[str]:
    """An override as the overrides of the single jobs that it stands for."""
    key = override.get_key_element()
    if override.is_discrete_sweep():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    interval = override.value()
    if isinstance(interval, IntervalSweep):  # for sweepers that choose the values themselves
        return [f"{key}={interval.start}", f"{key}={interval.end}"]
    return [str(override.input_line)]


def _explain(error: Exception, loader: ConfigLoaderImpl, name: str) -> str:
    """A composition error as one line."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if error.options:
            return f"{group}={choice}: no such choice: {nearest(choice, error.options)}"
        if error.missing_cfg_file == name:
            names = loader.get_group_options("", ObjectType.CONFIG)
            known = [file for file in names if not file.startswith("_")]  # one of them is Hydra's own
            return f"--config-name={name}: no such file: {nearest(name, known)}"
    if isinstance(error.__cause__, OmegaConfBaseException):
        return one_line(error.__cause__)
    if isinstance(error, OmegaConfBaseException):
        return one_line(error)
    first, *more = str(error).splitlines()
    return " ".join([first, *(more if isinstance(error, YAMLError) else more[: first.endswith(":")])])
