"""The atomic writer: whole files, modes, links, devices, inputs and stale temporary files."""

import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flyweight import _files
from flyweight._files import check_output, remove_stale, replacing, spool_for, write_atomic
from flyweight.errors import CheckpointError


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_replacing_writes_whole_files_only(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail():
        with replacing(path) as file:
            file.write(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]
    assert write_atomic(path, memoryview(b"new")) == 3
    assert path.read_bytes() == b"new"


def test_replacing_keeps_the_old_file_when_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(b"precious")

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"precious"
    assert names(tmp_path) == ["a.bin"]


def test_replacing_names_the_target_in_os_errors(tmp_path, monkeypatch):
    def full(path, *_args, **_kwargs):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(path))

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="quota") as caught:
        write_atomic(tmp_path / "a.bin", b"new")
    assert caught.value.filename == str(tmp_path / "a.bin")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_write_atomic_gives_new_files_the_mode_of_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "a.bin", b"a")
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_write_atomic_keeps_the_mode_of_an_existing_file(tmp_path, mode):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_atomic(path, b"new")
    assert (path.stat().st_mode & 0o777, path.read_bytes()) == (mode, b"new")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_write_atomic_keeps_the_owner_of_an_existing_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    os.chown(path, 1234, 2345)
    write_atomic(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


def test_write_atomic_writes_to_the_target_of_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.bin").write_bytes(b"old")
    for link, target in (("link", "folder/a.bin"), ("dangling", "folder/b.bin")):
        (tmp_path / link).symlink_to(target)
        write_atomic(tmp_path / link, b"new")
        assert (tmp_path / link).is_symlink()
        assert (tmp_path / target).read_bytes() == b"new"
    assert names(tmp_path / "folder") == ["a.bin", "b.bin"]


def test_check_output_refuses_a_loop_of_links(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(CheckpointError, match="symbolic links"):
        write_atomic(tmp_path / "a", b"new")


def test_write_atomic_writes_through_a_device():
    write_atomic("/dev/null", b"nothing")
    assert Path("/dev/null").is_char_device()


def test_write_atomic_writes_through_a_fifo(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    received = []
    reader = threading.Thread(target=lambda: received.append(path.read_bytes()), daemon=True)
    reader.start()
    for _ in range(1000):  # until the reader has opened it
        try:
            write_atomic(path, b"x" * 100_000)
            break
        except CheckpointError:
            threading.Event().wait(0.01)
    reader.join(timeout=30)
    assert received == [b"x" * 100_000]
    assert path.is_fifo()
    assert names(tmp_path) == ["fifo"]


def test_replacing_refuses_a_fifo_without_reader(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(CheckpointError, match="start its reader first"):
        write_atomic(tmp_path / "fifo", b"new")


def test_replacing_writes_to_a_pipe_behind_dev_stdout():
    program = "from flyweight._files import write_atomic; write_atomic('/dev/stdout', b'abc')"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert run.stdout == b"abc"


def test_check_output_refuses_folders_sockets_and_missing_folders(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder; name the file"):
        check_output(tmp_path)
    with pytest.raises(CheckpointError, match="missing does not exist; create it first"):
        check_output(tmp_path / "missing" / "a.bin")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file does not exist"):
        check_output(tmp_path / "file" / "a.bin")
    with pytest.raises(CheckpointError, match="cannot be written"):
        check_output("a\0b")
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(tmp_path, os.O_RDONLY)  # paths of sockets are short
        server.bind(f"/proc/self/fd/{folder}/s")
        os.close(folder)
        with pytest.raises(CheckpointError, match="is a socket"):
            write_atomic(tmp_path / "s", b"new")


@pytest.mark.parametrize("alias", ["itself", "link", "hard link", "other way"])
def test_check_output_refuses_an_input_under_any_name(tmp_path, alias):
    source = tmp_path / "a.safetensors"
    source.write_bytes(b"precious")
    output = tmp_path / "b.fly"
    if alias == "itself":
        output = source
    elif alias == "link":
        output.symlink_to(source)
    elif alias == "hard link":
        output.hardlink_to(source)
    else:
        output = tmp_path / ".." / tmp_path.name / "a.safetensors"
    for write in (
        lambda: check_output(output, inputs=[tmp_path / "missing", source]),
        lambda: write_atomic(output, b"new", inputs=[source]),
    ):
        with pytest.raises(CheckpointError, match="is an input of this operation"):
            write()
    assert source.read_bytes() == b"precious"


def test_check_output_without_force_refuses_files_that_exist(tmp_path):
    path = tmp_path / "a.bin"
    check_output(path, force=False)
    path.write_bytes(b"old")
    with pytest.raises(CheckpointError, match="exists already; pass force=True"):
        check_output(path, force=False)
    with pytest.raises(CheckpointError, match="exists already"):
        write_atomic(path, b"new", force=False)
    assert path.read_bytes() == b"old"
    check_output("/dev/null", force=False)


@pytest.mark.parametrize("links", [True, False])
def test_replacing_without_force_refuses_a_file_that_appears_meanwhile(
    tmp_path, monkeypatch, links
):
    def unsupported(*_args, **_kwargs):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", unsupported)
    path = tmp_path / "a.bin"

    def race():
        with replacing(path, force=False) as file:
            file.write(b"second")
            path.write_bytes(b"first")

    with pytest.raises(CheckpointError, match=r"a\.bin exists already; pass force=True"):
        race()
    assert path.read_bytes() == b"first"
    write_atomic(tmp_path / "b.bin", b"new", force=False)
    assert (tmp_path / "b.bin").read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin", "b.bin"]


def test_replacing_writes_to_the_disk_before_it_replaces(tmp_path, monkeypatch):
    seen = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor):
        seen.append(("sync", os.fstat(descriptor).st_size))
        sync(descriptor)

    def replaced(path, target):
        seen.append(("replace", path.stat().st_size))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_atomic(tmp_path / "a.bin", b"new")
    assert seen == [("sync", 3), ("replace", 3)]


def temporary(folder, process, name="a.bin"):
    path = folder / f".{name}.{_files._SPACE}-{process}-{'0' * 16}.flytmp"
    path.write_bytes(b"half")
    return path


def dead_process():
    run = subprocess.Popen([sys.executable, "-c", ""])
    run.wait()
    return run.pid


def test_remove_stale_deletes_temporary_files_of_dead_processes(tmp_path):
    stale = temporary(tmp_path, dead_process())
    living = [temporary(tmp_path, os.getpid()), temporary(tmp_path, os.getppid())]
    other = tmp_path / f".a.bin.ffffffff-{dead_process()}-{'0' * 16}.flytmp"
    unlike = tmp_path / ".a.bin.tmp"
    for path in (other, unlike):
        path.touch()
    remove_stale(tmp_path / "a.bin")
    assert not stale.exists()
    assert all(path.exists() for path in (*living, other, unlike))
    remove_stale(tmp_path / "missing" / "a.bin")


def test_remove_stale_leaves_files_of_other_process_namespaces(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "readlink", lambda path: "pid:[1]")
    assert _files._process_space() != _files._SPACE
    stale = temporary(tmp_path, dead_process())
    other = stale.with_name(stale.name.replace(_files._SPACE, _files._process_space()))
    other.touch()
    remove_stale(tmp_path / "a.bin")
    assert names(tmp_path) == [other.name]


def test_write_atomic_deletes_what_a_killed_process_left(tmp_path):
    program = (
        "import os, signal, sys\nfrom flyweight._files import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'half')\n    file.flush()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.bin")], check=False)
    assert len(names(tmp_path)) == 1
    write_atomic(tmp_path / "b.bin", b"new")
    assert names(tmp_path) == ["b.bin"]


def test_replacing_takes_names_of_any_length_and_bytes(tmp_path):
    for name in ("x" * 255, "ü" * 127, os.fsdecode(b"\xff" * 200)):
        write_atomic(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"


def test_spool_for_is_nameless(tmp_path):
    with spool_for(tmp_path / "a.bin") as file:
        file.write(b"waiting")
        assert names(tmp_path) == []
    with spool_for("/dev/null") as file:
        file.write(b"waiting")
