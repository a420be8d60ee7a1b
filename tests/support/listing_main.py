"""The ordinary command; a device lists heavy libraries that it has, when it begins and after each job."""

import sys

from pipar_rpc.__main__ import main
from pipar_rpc.training.device_half import DeviceHalf

HEAVY = (
    *("hydra", "matplotlib", "tensorboard", "torchvision", "sklearn", "scipy", "pandas", "PIL", "jinja2"),
    *("opacus", "torchmetrics", "triton", "sympy", "torch._dynamo", "torch._inductor", "torch.onnx"),
)


def tell() -> None:
    print(*(name for name in HEAVY if name in sys.modules), flush=True)


if __name__ == "__main__":
    close = DeviceHalf.close

    def close_and_tell(self: DeviceHalf) -> None:
        tell()
        close(self)

    DeviceHalf.close = close_and_tell  # type: ignore[method-assign]
    tell()
    main()
