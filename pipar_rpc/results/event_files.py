"""Removes from TensorBoard's event files what lies after the checkpoint from which a training goes on.

TensorBoard's own `purge_step` is one for all curves, but ours count epochs, iterations, seconds or rounds.
"""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter

from pipar_rpc.base.disk import write_whole
from pipar_rpc.results.tags import REPEATED, STEPS


def rewind(directory: Path, ends: Mapping[str, int]) -> None:
    """Takes out of a killed run's event files what will be written once more, or no longer holds.

    The rest is copied into a new file that begins with a restart, for a TensorBoard that has read the others
    already; those stay, without content, because it would wait for them for ever.

    Args:
        directory: folder of the event files; there may be none.
        ends: first step that goes, for each kind of step ("epoch", "iteration", "second", "round"); of a
            kind that is missing, all go.
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
    restart = [start.SerializeToString()] * 2  # a reader that is new takes the second one for a restart
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
