"""Check the files that a command reads and writes, before it does any work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from flyweight._files import check_output
from flyweight.errors import CheckpointError

__all__ = ["check_fly_output", "check_input", "check_no_stream"]

_STREAMS = ("-", "/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/1")
_OTHER_FORMATS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".onnx", ".toml", ".json")


def check_input(path: str | Path) -> None:
    """Refuse ``-``: a file is read at several places, which stdin does not allow.

    Raises:
        CheckpointError: the path is ``-``.
    """
    if str(path) == "-":
        raise CheckpointError("stdin cannot be read; save it to a file and name that file")


def check_fly_output(path: Path, *, inputs: Iterable[str | Path], force: bool) -> None:
    """Check that a ``.fly`` file can be written.

    Args:
        path: the file.
        inputs: files, or folders of files, that the command reads.
        force: whether a file that exists may be replaced.

    Raises:
        CheckpointError: it cannot be written, is one of the inputs, is named like another format,
            or exists and ``force`` is False.
    """
    if path.suffix.lower() in _OTHER_FORMATS:
        raise CheckpointError(
            f"{path} is named like a {path.suffix} file; name a .fly file with --output"
        )
    check_no_stream(path)
    check_output(path, inputs=_files(inputs), force=force)


def check_no_stream(path: Path) -> None:
    """Refuse stdout and stderr as the file to write.

    Raises:
        CheckpointError: the path is ``-``, or the name of one of them.
    """
    if str(path) in _STREAMS:
        raise CheckpointError(f"{path} is not a file, and stdout has the report; name a file")


def _files(inputs: Iterable[str | Path]) -> Iterator[Path]:
    """Yield each input, and what may be a shard: files beside an index or in a folder."""
    for source in map(Path, inputs):
        yield source
        folder = source if source.is_dir() else source.parent
        if source.is_dir() or source.name.endswith(".index.json"):
            yield from (path for path in folder.iterdir() if path.suffix != ".fly")
