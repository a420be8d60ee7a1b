"""The pages of a plan: what each machine does, for whoever does it by hand."""

from launch.machines.schema import Inventory, Machine


def overview(inventory: Inventory) -> str:
    """The page of the whole plan."""
    rows = "".join(
        f"| {machine.name} | {machine.user}@{machine.address} | {machine.vpn_address} | "
        f"{machine.ranks} {'device(s)' if machine.number else 'server rank(s)'} | {machine.folder} |\n"
        for machine in inventory.machines
    )
    return f"""\
# The plan of {inventory.path.name}

| machine | reached as | in the VPN | ranks | folder |
|---|---|---|---|---|
{rows}
`python -m launch.machines {inventory.path.name} up` copies each folder to `plan/` in the machine's own
folder and opens the VPN; `run` starts the training. Each folder has a README.md that says how to do the
same by hand.

Each folder holds its machine's private key (`{inventory.vpn.interface}.conf`, which only you can read): give
it to that machine and to nobody else. The machines need UDP port {inventory.vpn.port} of the server, and
nothing else of each other.
"""


def page(inventory: Inventory, machine: Machine) -> str:
    """The page of one machine."""
    vpn, server = inventory.vpn, inventory.server
    answer = f"{server.vpn_address} must answer to ping once the server is up"
    settings, waits = "", "It waits 15 minutes for the server."
    if machine is server:
        answer = "The others must be able to ping it"
        settings, waits = " SETTINGS (as `epochs=3`)", "It waits 15 minutes for the others."
    return f"""\
# {machine.name}, by hand

This machine is {machine.vpn_address} in the VPN, and torchrun's node {machine.number}. What follows is done
on the machine itself, without ssh:

1. Put this folder at `{machine.plan}`, owned by {machine.user}. `{vpn.interface}.conf` holds a private
   key: keep its mode 600.
2. `apt-get install wireguard-tools nftables`, and `wireguard-go` if the kernel has no WireGuard.
3. `sh install.sh WHEEL` installs pipar_rpc for `{machine.python}`. In a checkout,
   `python -m pip wheel --no-deps .` makes the wheel.
4. `sh up.sh` (as root, or with sudo): firewall and VPN. {answer}.
5. `sh run.sh{settings}`: torchrun, in the foreground. {waits} Ctrl-C ends it.
6. Instead of 5, to leave it running: `mkdir -p ../state`, write the settings as one line into
   `../state/arguments`, and `sh start.sh`. The output goes to `../state/log`. `sh stop.sh` ends it.
7. `sh down.sh` undoes 4 and 6.

| file | what it is |
|---|---|
| `{vpn.interface}.conf` | WireGuard, for wg-quick |
| `{vpn.interface}.nft` | firewall: only the VPN reaches torchrun's store and RPC |
| `run.sh` | torchrun with this machine's arguments |
| `{vpn.interface}.service` | the ranks, for systemd |
| `{vpn.interface}-vpn.service` | VPN and firewall, for systemd |
| `network.sh`, `up.sh`, `down.sh` | VPN and firewall; up.sh and down.sh also with systemd |
| `start.sh`, `stop.sh`, `status.sh`, `follow.sh` | ranks in the background, by systemd or `loop.sh` |
"""
