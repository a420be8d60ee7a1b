"""The old name of `python -m pipar_rpc.score`."""

from launch.script import forward

if __name__ == "__main__":
    forward("launch.score", "pipar_rpc.score")
