"""As float64_main, and without the pictures."""

import runpy

from tests.support import without_pictures  # noqa: F401

runpy.run_module("tests.support.float64_main", run_name="__main__")
