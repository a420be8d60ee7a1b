"""The ordinary command without the pictures that nobody looks at: they take half a second of each job."""

from pipar_rpc.__main__ import main
from pipar_rpc.results.outputs import Outputs

Outputs.picture = lambda *_: None  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
