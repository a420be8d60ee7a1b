"""Command lines of small jobs."""

from pathlib import Path

from omegaconf import OmegaConf

# A small job: 8x8 colour images, batches of 10, two iterations on each of two devices.
SMALL = (
    *("data=synthetic", "data.image_size=8", "data.train_size=200", "data.train_size_per_device=20"),
    *("data.val_size=10", "data.test_size=20", "batch_size=10", "epochs=1", "network=none"),
)
EPOCHS = 3  # of BASE
# Rounds of about 0.2 s, so that there is time to be killed.
BASE = (
    *(option for option in SMALL if not option.startswith("epochs")),
    *(f"epochs={EPOCHS}", "aggregation.every=1", "network.uplink_mbps=1", "pipeline.num_micro_batches=3"),
    *("optimizer.weight_decay=0.01", "devices.overrides.2.batch_size=4", "checkpoint.keep=20"),
)


def merged(*overrides: str) -> tuple[str, ...]:
    """Those that are not replaced by later ones."""
    return tuple(f"{k}={v}" for k, v in dict(option.split("=", 1) for option in overrides).items())


def sweep_of(directory: Path, jobs: dict[str, tuple[str, ...]]) -> list[str]:
    """Arguments of a sweep whose jobs have nothing in common: a file of the group `method` for each.

    Choices of other groups ("model=...") may only be the model's.
    """
    (directory / "method").mkdir()
    for name, overrides in jobs.items():
        groups = [option for option in overrides if option.startswith("model=")]
        values = OmegaConf.from_dotlist([option for option in overrides if option not in groups])
        defaults = [{"override /model": option.split("=")[1]} for option in groups]
        text = "# @package _global_\n" + OmegaConf.to_yaml({"defaults": [*defaults, "_self_"]})
        (directory / "method" / f"own_{name}.yaml").write_text(text + OmegaConf.to_yaml(values))
    return [f"--config-dir={directory}", "--multirun", f"method={','.join(f'own_{name}' for name in jobs)}"]
