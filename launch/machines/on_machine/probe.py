"""Says what a machine has, as one line of JSON; run by its own Python, with the standard library alone.

Arguments: the machine's folder, its data root, the VPN's interface, modules that it needs.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

TOOLS = ("wg", "wg-quick", "nft", "ip", "tail", "setsid", "flock")
MB = 1e6


def version_of(package: str) -> str:
    if package == "pipar_rpc" and importlib.util.find_spec(package):  # also a checkout that is not installed
        import pipar_rpc  # which imports nothing else

        return pipar_rpc.__version__
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return ""


def free_memory_mb() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 / MB for line in lines if line.startswith("MemAvailable"))


def free_disk_mb(folder: Path) -> float:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / MB


def is_root() -> bool:
    return os.geteuid() == 0 or (
        shutil.which("sudo") is not None
        and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    )


def main() -> None:
    folder, data_root, interface, *modules = sys.argv[1:]
    sys.path.insert(0, folder)
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"
    found = {
        "time": time.time(),
        "python": ".".join(map(str, sys.version_info[:2])),
        "torch": version_of("torch"),
        "pipar_rpc": version_of("pipar_rpc"),
        "missing": [name for name in modules if importlib.util.find_spec(name) is None],
        "tools": [tool for tool in TOOLS if shutil.which(tool) is None],
        "root": is_root(),
        "disk_mb": free_disk_mb(Path(folder)),
        "memory_mb": free_memory_mb(),
        "data": (Path(folder) / Path(data_root).expanduser()).is_dir(),
        "systemd": Path("/run/systemd/system").is_dir(),
        "up": Path("/sys/class/net", interface).exists(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
