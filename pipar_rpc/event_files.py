"""TensorBoard's event files of a training that goes on: without what lies after its checkpoint.

TensorBoard's own `purge_step` is one for all curves; but these count epochs, iterations, seconds and rounds.
"""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter

from pipar_rpc.storage import write_whole

STEPS = {  # of what is not shown by epochs; by how tags begin
    "train/loss_by_iteration": "iteration",
    "network_by_second/": "second",
    "devices/events": "round",
    "selector/changes": "round",
}
REPEATED = ("hparam/", "_hparams_/", "data/partition", "selector/candidates")  # by every part of a training


def rewind(directory: Path, ends: Mapping[str, int]) -> None:
    """Takes what will be written once more, or never happened, out of the event files of a killed run.

    The rest is copied into a new file that begins with a restart, for a TensorBoard that has read the others
    already; those stay, without content, because it would wait for them for ever.

    Args:
        directory: of the event files; there may be none.
        ends: for each kind of step ("epoch", "iteration", "second", "round") the first one that goes; without
            one, all go.
    """
    old = sorted(directory.glob("events.out.tfevents.*"))
    if not old:
        return
    kept: list[bytes] = []
    for path in old:
        for record in RawEventFileLoader(str(path)).Load():  # ends where a killed writer was interrupted
            event = Event.FromString(record)
            if event.session_log.status == SessionLog.START:
                kept.clear()  # the files before this one have been copied into it
            elif event.summary.value and all(_stays(v.tag, event.step, ends) for v in event.summary.value):
                kept.append(record)
    start = Event(wall_time=time.time(), step=0, session_log=SessionLog(status=SessionLog.START))
    restart = [start.SerializeToString()] * 2  # to a reader that has seen none before, the second one is it
    _write(old[-1].with_name(f"{old[-1].name}.resumed"), [*restart, *kept])
    for path in old:
        _write(path, [])


def _stays(tag: str, step: int, ends: Mapping[str, int]) -> bool:
    unit = next((unit for start, unit in STEPS.items() if tag.startswith(start)), "epoch")
    return not tag.startswith(REPEATED) and step < ends.get(unit, 0)


def _write(path: Path, records: Iterable[bytes]) -> None:
    version = Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString()

    def write(file: object) -> None:
        writer = RecordWriter(file)
        for record in (version, *records):
            writer.write(record)

    write_whole(path, write)
