"""How the names of jobs' folders end, which tells the jobs of a sweep apart; for conf/config.yaml."""

from omegaconf import DictConfig

from pipar_rpc.compression.registry import NONE
from pipar_rpc.plan.strategies import AUTO, STRATEGIES, Strategy


def cut_name(strategy: str, split_point: int, num_micro_batches: int, profile_iterations: int) -> str:
    """How the name of a job's folder ends: with P and N as far as it has them, or that they are selected."""
    if profile_iterations:
        return "_selected"
    does = STRATEGIES.get(strategy, Strategy(pipelined=True))
    if does.whole_network:
        return ""
    return f"_P{split_point}" + (f"_N{num_micro_batches}" if does.pipelined else "")


def coded_name(activations: str, gradients: str, models: str) -> str:
    """How the name of a job's folder ends: with its codecs, if there are any."""
    names = (activations, gradients, models)
    return "" if set(names) == {NONE} else "_" + "-".join(dict.fromkeys(names))


def served_name(_root_: DictConfig) -> str:
    """How the name of a job's folder ends: with server halves and their order, if others than by default."""
    own = _root_.server
    half = "" if own.half == "replicated" else f"_{own.half}"
    order = own.order._target_ or own.order.name
    return half + ("" if order == AUTO else f"_{str(order).rpartition('.')[2]}")


def protected_name(_root_: DictConfig) -> str:
    """How the name of a job's folder ends: with its privacy mechanisms, if any are on."""
    own = _root_.privacy
    on = {
        "dpsgd": own.dpsgd.noise_multiplier is not None or own.dpsgd.target_epsilon is not None,
        "activations": own.activations.noise_multiplier is not None,
        "nopeek": own.nopeek.weight > 0,
        "cut": own.cut._target_ is not None,
        "updates": own.updates.noise_multiplier is not None,
        "labels": _root_.pipeline.labels == "device",
    }
    return "".join(f"_{name}" for name, is_on in on.items() if is_on)
