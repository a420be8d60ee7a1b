"""What people type after the command: flags and overrides, put the way Hydra reads them."""

import io
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path

from pipar_rpc.base.errors import UserError
from pipar_rpc.models import ALIASES
from pipar_rpc.plan.load import FREE_KEYS, with_quoted_braces

INFO_FLAGS = ("--help", "--hydra-help", "--shell-completion", "--cfg", "--info")
RUN_FLAGS = (
    *("--multirun", "-m", "--run", "-r"),
    *("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn"),
)
PATH_FLAGS = ("config_path", "config_dir")


def normalise(arguments: Sequence[str], parser: ArgumentParser) -> list[str]:
    """The command line as Hydra wants it; what is normalised already stays as it is.

    Flags go to the front, by their long names, because argparse takes overrides on one side of a flag only;
    folders in them are as seen from here; settings of single devices and arguments of custom models get
    Hydra's "add or override" prefix, because nothing is known of them beforehand; models may be called by
    their names in the paper's reference; braces in a data root are not Hydra's.

    Args:
        arguments: words of the command line.
        parser: Hydra's, which knows the flags.

    Raises:
        UserError: no such flag, or one without its value.
    """
    args, flags = parse(arguments, parser), []
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if action.option_strings and value not in {None, False}:
            flags.append(action.option_strings[0] + ("" if value is True else f"={value}"))
    overrides: list[str] = args.overrides
    return flags + [f"++{word}" if word.startswith(FREE_KEYS) else _own_names(word) for word in overrides]


def parse(arguments: Sequence[str], parser: ArgumentParser) -> Namespace:
    """Hydra's flags, wherever they stand, and the overrides."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            args = parser.parse_intermixed_args(arguments)
    except SystemExit as end:
        if not end.code:  # --version has been answered
            raise
        raise UserError(said.getvalue().rpartition("error: ")[2].strip()) from None
    for name in PATH_FLAGS:
        path = getattr(args, name)
        if path and "://" not in path:
            setattr(args, name, str(Path(path).expanduser().absolute()))
    return args


def only_informs(arguments: Sequence[str]) -> bool:
    """Whether the command line asks Hydra to show something instead of running a job."""
    return any(argument.split("=")[0] in INFO_FLAGS for argument in arguments)


def plainly_runs(arguments: Sequence[str]) -> bool:
    """Whether jobs run, as far as that can be said without Hydra's parser, which knows shortened flags."""
    return all(word.split("=")[0] in RUN_FLAGS for word in arguments if word.startswith("-"))


def _own_names(argument: str) -> str:
    """The override in names that Hydra knows."""
    key, equals, value = argument.partition("=")
    if key != "model":
        return with_quoted_braces(argument)
    return key + equals + ",".join(ALIASES.get(name, name) for name in value.split(","))
