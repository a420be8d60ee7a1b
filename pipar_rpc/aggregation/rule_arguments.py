"""The arguments of aggregation rules: each is checked in one line."""

from pipar_rpc.base.errors import as_number, require

KEY = "aggregation.rule"


def argument(name: str, given: object, accepted: bool, allowed: str) -> float:
    """A number that was given for an argument.

    Args:
        name: name of the argument, below `aggregation.rule.args`.
        given: value from the configuration.
        accepted: whether it is in range.
        allowed: accepted values, as the end of the sentence "must be ...".

    Raises:
        ConfigError: it is not accepted.
    """
    require(accepted, f"{KEY}.args.{name}", given, allowed)
    return as_number(given)


def decay(name: str, given: object) -> float:
    """What a moment keeps of itself in a round: 0 or more and below 1."""
    return argument(name, given, 0 <= as_number(given) < 1, "0 or more and below 1")


def positive(name: str, given: object) -> float:
    """A finite number above 0."""
    return argument(name, given, 0 < as_number(given) < float("inf"), "> 0")
