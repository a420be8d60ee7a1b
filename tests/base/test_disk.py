"""Files that are written whole, and folders for one at a time."""

import os

import pytest

from pipar_rpc.base import disk
from pipar_rpc.base.disk import alone_in
from pipar_rpc.base.errors import UserError


def test_a_folder_is_for_one_run_at_a_time(tmp_path):
    refused = pytest.raises(UserError, match="another run is writing there")
    with alone_in(tmp_path), refused, alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    disk.write_whole(path, lambda file: file.write(b"old"))

    def killed(_):
        assert path.read_bytes() == b"old"
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        disk.write_whole(path, lambda file: file.write(b"new"))
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old"]
