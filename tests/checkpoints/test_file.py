"""Checkpoints: what they withstand."""

import pytest
import torch

from pipar_rpc import __version__
from pipar_rpc.base.errors import UserError
from pipar_rpc.checkpoints import file
from pipar_rpc.checkpoints.file import CheckpointFolder
from tests.support.checkpoints import make


def test_what_is_written_is_read(tmp_path):
    file.write(make(), tmp_path / "c.pt")
    found = file.read(tmp_path / "c.pt")
    assert torch.equal(found.networks[0]["a"], make().networks[0]["a"])
    for name in ("round", "epoch", "iteration", "cuts", "settings", "rows"):
        assert getattr(found, name) == getattr(make(), name)
    assert list(tmp_path.iterdir()) == [tmp_path / "c.pt"]


def test_checkpoints_of_other_versions_are_told_apart(tmp_path):
    """One without the elapsed time or a rule's state is from before; one with more in it is from later."""
    path = tmp_path / "c.pt"
    file.write(make(), path)
    content = torch.load(path)
    assert content["version"] == __version__
    other = f"{path}: not a checkpoint of this version of pipar_rpc, {__version__}, but of another version"
    for changed, line in (
        ({"elapsed_s": None, "rule": None}, None),
        ({"spin": 0.5, "version": "9.8"}, f"{other}, 9.8"),
        ({"format": "pipar_rpc checkpoint 0", "version": None}, other),
    ):
        own = {key: value for key, value in (content | changed).items() if value is not None}
        of = {key: value for key, value in own.items() if key not in {"format", "version", "digest"}}
        torch.save(own | {"digest": file._digest(of)}, path)
        if line is None:
            assert (file.read(path).elapsed_s, file.read(path).rule) == (0, {})
            continue
        with pytest.raises(UserError) as error:
            file.read(path)
        assert str(error.value) == line


def test_what_a_killed_writer_left_is_removed(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(make(4))
    (folder.path / ".partial").write_bytes(b"half")
    folder.save(make(6))
    assert [path.name for path in sorted(folder.path.iterdir())] == ["round_000004.pt", "round_000006.pt"]


def test_those_of_another_run_go_with_the_first_that_is_written(tmp_path):
    """Their rounds may be larger."""
    for number in (8, 9):
        CheckpointFolder(tmp_path, keep=2).save(make(number))
    folder = CheckpointFolder(tmp_path, keep=2, in_place=False)
    folder.save(make(4))
    folder.save(make(5))
    assert [path.name for path in folder.files()] == ["round_000005.pt", "round_000004.pt"]


def test_the_last_ones_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for number in range(5):
        folder.save(make(number))
    assert [path.name for path in folder.files()] == ["round_000004.pt", "round_000003.pt"]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "foreign", "code", "bit"])
def test_a_damaged_one_is_one_line_and_the_one_before_it_is_used(tmp_path, caplog, damage):
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(make(1))
    path = folder.save(make(2))
    content = path.read_bytes()
    if damage == "foreign":
        torch.save({"epoch": 3, "state_dict": {}}, path)
    elif damage == "code":
        torch.save({"format": file.FORMAT, "round": print}, path)
    elif damage == "bit":
        place = content.index(b"\x00\x00\x80\x3f" * 100) + 200  # inside a tensor of ones
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"not one\n"}[damage])
    with pytest.raises(UserError) as error:
        file.read(path)
    assert str(error.value).startswith(f"{path}: not a ")
    assert "\n" not in str(error.value)
    assert folder.latest().round == 1
    assert "the one before it is used" in caplog.text


def test_a_full_disk_leaves_the_one_before_it(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(make(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.save(make(2))
    assert [path.name for path in folder.path.iterdir()] == ["round_000001.pt"]
