"""Keys of WireGuard: X25519, made by `wg` or, where that is missing, by openssl; never in an argument."""

import base64
import shutil
import subprocess
from dataclasses import dataclass, field

from pipar_rpc.base.errors import UserError

LENGTH = 32
DEADLINE_S = 20.0


@dataclass(frozen=True)
class KeyPair:
    """A machine's keys in WireGuard's form (base64); the private one is in no repr."""

    private: str = field(repr=False)
    public: str


def new_pair() -> KeyPair:
    """Makes a fresh pair.

    Raises:
        UserError: there is neither `wg` nor openssl.
    """
    if shutil.which("wg"):
        private = _run(b"", "wg", "genkey").strip()
        return KeyPair(private.decode(), _run(private, "wg", "pubkey").strip().decode())
    if not shutil.which("openssl"):
        raise UserError("wg or openssl is needed for keys (Debian: apt-get install wireguard-tools)")
    form = ("-outform", "DER")  # in which the key is what comes last
    private = _run(b"", "openssl", "genpkey", "-algorithm", "X25519", *form)
    public = _run(private, "openssl", "pkey", "-inform", "DER", "-pubout", *form)
    return KeyPair(_text(_clamped(private[-LENGTH:])), _text(public[-LENGTH:]))


def _clamped(key: bytes) -> bytes:
    """The same key, with the bits set that X25519 does not read: as `wg genkey` writes it."""
    return bytes([key[0] & 248, *key[1:-1], (key[-1] & 127) | 64])


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _run(given: bytes, *command: str) -> bytes:
    try:
        done = subprocess.run(command, input=given, capture_output=True, check=True, timeout=DEADLINE_S)
    except subprocess.CalledProcessError as error:  # its words hold no key
        raise UserError(f"{' '.join(command)}: {error.stderr.decode().strip()}") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{' '.join(command)}: no answer for {DEADLINE_S:.0f} s") from None
    return done.stdout
