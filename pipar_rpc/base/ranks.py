"""What the ranks are called."""

SERVER = "server"


def worker_name(rank: int) -> str:
    """RPC name of a rank: "server" or "device<rank>"."""
    return SERVER if rank == 0 else f"device{rank}"
