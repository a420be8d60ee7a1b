"""The report of an epoch: a row for results.csv and TensorBoard, a line for the log."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pipar_rpc.base.memory import peak_rss_mb
from pipar_rpc.coordination.epoch_result import EpochResult
from pipar_rpc.plan.plan import Plan
from pipar_rpc.results.columns import Row
from pipar_rpc.training.evaluation import Evaluation


def make_row(plan: Plan, job: int, epoch: int, result: EpochResult) -> Row:
    """Makes the columns that follow from an epoch's result; evaluations and recordings give the others."""
    labels, devices, scale = plan.labels, plan.devices, plan.settings.time_scale
    return {
        "job": job,
        "epoch": epoch,
        "strategy": labels.strategy,
        "model": labels.model,
        "data": labels.data,
        "partition": labels.partition,
        "network": labels.network,
        "testbed": labels.testbed,
        "compression": _joined([device.compression for device in devices]),
        "privacy": _joined([device.protection for device in devices]),
        "optimizer": devices[0].learning.optimizer.called,
        "schedule": devices[0].learning.schedule.called,
        "loss": devices[0].learning.loss.called,
        "server_half": labels.server_half,
        "server_order": labels.server_order,
        "time_scale": scale,
        "num_devices": len(devices),
        "split_point": _joined([device.split_point for device in devices]),
        "num_micro_batches": _joined([device.num_micro_batches for device in devices]),
        "batch_size": _joined([device.batch_size for device in devices]),
        "iterations": sum(loss is not None for loss in result.losses),
        "seed": plan.settings.seed,
        **dataclasses.asdict(result.metrics.scaled(scale)),
        "training_time_s": result.training_s * scale,
        "model_bytes": result.model_bytes,
        "train_loss": result.train_loss,
        "train_accuracy": result.train_accuracy,
        "learning_rate": result.learning_rate,
        "clipped_share": result.clipped_share,
        "server_peak_rss_mb": peak_rss_mb(),
        "device_peak_rss_mb": max(result.device_peak_rss_mb),
        "each_device_peak_rss_mb": tuple(result.device_peak_rss_mb),
        "devices_trained": result.trained,
        "devices_alive": len(devices) - len(result.lost),
        "devices_lost": tuple(result.lost) or None,
    }


def evaluation_columns(
    found: Mapping[str, Evaluation | None],
    by_device: Sequence[Evaluation | None],
    coded: Evaluation | None = None,
) -> Row:
    """Makes the columns of held-out data.

    Args:
        found: evaluations of the global network by the name of the set, "val" or "test".
        by_device: evaluations of the devices' own networks on validation samples; empty if not wanted.
        coded: evaluation of the global network on test samples, with activations coded at the cut.
    """
    row: Row = {"coded_test_accuracy": coded.accuracy if coded else None}
    for name in ("val", "test"):
        evaluation = found.get(name)
        row[f"{name}_accuracy"] = evaluation.accuracy if evaluation else None
        row[f"{name}_loss"] = evaluation.loss if evaluation else None
        row[f"{name}_metrics"] = dict(evaluation.metrics) or None if evaluation else None
    accuracies = tuple(one.accuracy if one else None for one in by_device)
    row["device_val_accuracy"] = accuracies if any(one is not None for one in accuracies) else None
    return row


def _joined(values: Sequence[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else tuple(values)


def targets_line(targets: Mapping[str, float]) -> str:
    """Says that the accuracies of `until`, by column, were reached."""
    return ", ".join(f"until.{name}={target:g} reached" for name, target in targets.items())


def epoch_line(row: Row, epochs: int, reached: str = "") -> str:
    """Formats a row as one line for the log, with what the epoch has reached, if that ends the job."""
    accuracies = ", ".join(
        f"{name} {row[f'{name}_accuracy']:.4f}"
        for name in ("train", "val", "test")
        if row[f"{name}_accuracy"] is not None
    )
    if row.get("coded_test_accuracy") is not None:
        accuracies += f" (coded at the cut {row['coded_test_accuracy']:.4f})"
    if row["device_val_accuracy"] is not None:
        by_device = ["-" if value is None else f"{value:.4f}" for value in row["device_val_accuracy"]]
        accuracies += f", devices' own val {' '.join(by_device)}"
    if accuracies:
        accuracies = f"accuracy {accuracies}, "
    elif row.get("test_loss") is not None:
        accuracies = f"test loss {row['test_loss']:.4f}, "
    predicted = row.get("predicted_iteration_s")
    iterations = (
        ""
        if predicted is None
        else (
            f"iteration {row['iteration_time_s']:.3f} s, predicted {predicted:.3f} s "
            f"({predicted / row['iteration_time_s'] - 1:+.1%}), "
        )
    )
    scaled = "" if row["time_scale"] == 1 else f" (emulated: real time x {row['time_scale']:g})"
    return (
        f"epoch {row['epoch']}/{epochs}: {row['epoch_time_s']:.2f} s{scaled}, loss {row['train_loss']:.4f}, "
        f"{accuracies}{iterations}"
        f"idle server {row['server_idle_s']:.2f} s devices {row['device_idle_s']:.2f} s, "
        f"{row['uplink_mbps']:.2f} Mbit/s up {row['downlink_mbps']:.2f} down{reached and f'; {reached}'}"
    )
