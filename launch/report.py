"""The old name of `python -m pipar_rpc.report`."""

from launch.script import forward

if __name__ == "__main__":
    forward("launch.report", "pipar_rpc.report")
