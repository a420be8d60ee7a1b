"""The folder of a run that has ended, made in this process: its network has its first weights."""

from pathlib import Path

import torch
from omegaconf import OmegaConf

from pipar_rpc import hydra_compose
from pipar_rpc.models import build_model, published
from pipar_rpc.plan.plan import make_plan


def finished_run(folder: Path, *overrides: str) -> Path:
    """Writes config.yaml and model.pt as rank 0 does, of a run with two devices."""
    raw, _ = hydra_compose.compose(["num_devices=2", *overrides])
    plan = make_plan(raw, 3, Path("nowhere"), one_machine=True)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.resolve(raw)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(raw))
    torch.manual_seed(plan.settings.seed)
    spec = plan.devices[0].model
    torch.save(published(build_model(spec).state_dict(), spec), folder / "model.pt")
    return folder
