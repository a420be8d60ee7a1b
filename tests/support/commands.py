"""A command of the package or of launch/, run in this process."""

import io
import runpy
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout

import pytest

from tests.support.processes import Finished


def run_here(module: str, *arguments: object) -> Finished:
    """What `python -m module arguments` does, in the current folder."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", [module, *map(str, arguments)])
        patch.setattr(sys, "path", list(sys.path))
        warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = int(end.code or 0)
    return Finished(code, out.getvalue(), err.getvalue())
