"""As float64_main, without the pictures that nobody looks at: they take half a second of each job."""

from pipar_rpc.results.outputs import Outputs

Outputs.picture = lambda *_: None  # type: ignore[method-assign]

from tests.support import float64_main  # noqa: E402, F401  it runs the command
