"""Machines that boot: a host whose namespace holds a container with systemd as its first process.

The container sees this machine's files, through an overlay that is its own disk: what it writes is gone with
the test, but is still there after a power cut.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.hosts import Host, inside, missing

NSPAWN = "systemd-nspawn"
USER = "pi"
CGROUPS = Path("/sys/fs/cgroup")
UNIT = """\
[Unit]
After=network.target
[Service]
RuntimeDirectory=sshd
ExecStart=/usr/sbin/sshd -D -f {config}
KillMode=process
ExecStop=/bin/sleep 5
[Install]
WantedBy=multi-user.target
"""
LACKS = missing((NSPAWN, "sudo"), "systemd-container sudo")
needs_booting = pytest.mark.skipif(bool(LACKS), reason=LACKS)


class Booted(Host):
    """A host with systemd, and a user who is not root but may use sudo."""

    user = USER
    has_systemd = True

    def start(self) -> None:
        """Boots it, from the disk of its last time if it has one."""
        disk = self._disk()
        if not disk.exists():
            disk.mkdir(parents=True)
            self._make_disk(disk)
        command = [NSPAWN, "--quiet", f"--directory={disk / 'root'}", f"--machine={self.name}", "--boot"]
        command += [f"--network-namespace-path=/run/netns/{self.name}", "--capability=CAP_NET_ADMIN"]
        command += ["--register=no", "--keep-unit", "--bind=/dev/net/tun", f"--bind={self.folder.parent}"]
        environment = {**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}  # wg-quick sets sysctls
        own = " && ".join(f"mkdir -p {place} && echo $$ >{place}/cgroup.procs" for place in self._cgroups())
        with self.folder.with_suffix(".console").open("ab") as console:
            self.runs = subprocess.Popen(
                ["sh", "-c", f'{own} && exec "$@"', "sh", *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        self.wait_for_sshd(60)

    def cut(self) -> None:
        """A power cut; the first process of a container takes all others with it."""
        super().cut()
        self._remove_cgroups()

    def reboot(self) -> None:
        """What `reboot` does, typed on it: all is ended in order, which takes some seconds."""
        inside(self.name, "nsenter", "--target", self.pids()[0], "--pid", "--mount", "systemctl", "reboot")
        assert self.runs is not None
        self.runs.wait(60)
        self._remove_cgroups()
        self.start()

    def remove(self) -> None:
        """Takes its disk away, too."""
        super().remove()
        self._remove_cgroups()
        disk = self._disk()
        for place in (disk / "root", disk):
            if place.is_mount():
                subprocess.run(["umount", place], check=True)
        if disk.exists():
            disk.rmdir()

    def units(self) -> list[Path]:
        """What systemd was given by us."""
        return sorted((self._disk() / "root/etc/systemd/system").rglob("pipar0*"))

    def _remove_cgroups(self) -> None:
        for place in self._cgroups():
            for folder in sorted(place.rglob("*/"), reverse=True):
                folder.rmdir()
            if place.exists():
                place.rmdir()

    def _cgroups(self) -> list[Path]:
        """Each container's own place in the hierarchies in which systemd keeps its units."""
        return [CGROUPS / tree / self.name for tree in ("systemd", "unified") if (CGROUPS / tree).is_dir()]

    def _disk(self) -> Path:
        """Not in the folder of all machines, which they share."""
        return self.folder.parent.with_suffix(".disks") / self.folder.name

    def _make_disk(self, disk: Path) -> None:
        """An overlay over this machine's files in which systemd starts sshd and nothing else of ours."""
        subprocess.run(["mount", "-t", "tmpfs", "none", disk], check=True)
        upper, work, root = (disk / name for name in ("upper", "work", "root"))
        for folder in (upper, work, root):
            folder.mkdir()
        layers = f"lowerdir=/,upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, root], check=True)
        units = root / "etc/systemd/system"
        for wanted in units.glob("*.wants"):
            shutil.rmtree(wanted)
        (units / "machine-sshd.service").write_text(UNIT.format(config=self.sshd_config()))
        (units / "multi-user.target.wants").mkdir()
        (units / "multi-user.target.wants/machine-sshd.service").symlink_to("../machine-sshd.service")
        subprocess.run(["useradd", "--root", root, "--create-home", "--password=*", USER], check=True)
        (root / "etc/sudoers.d" / USER).write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
        (root / "root").chmod(0o755)  # in which this Python may lie
        self.folder.mkdir()
        owner = (root / "home" / USER).stat()
        shutil.chown(self.folder, owner.st_uid, owner.st_gid)
