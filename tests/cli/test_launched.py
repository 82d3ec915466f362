"""The command line in two processes: one file, written and told of once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flyweight.io import decompress

SCRIPT = Path(__file__).parent / "launched.py"
TRAINED = """\
[pruning]
sparsity = 0.5
interval = 1
[pruning.training]
epochs = 1
batch_size = 20
[sharing.training]
epochs = 1
batch_size = 20
"""


@pytest.fixture
def launch(folder, tiny_data):
    """Run a command in two processes, as ``accelerate launch`` starts them."""
    data = [(split.images, split.labels) for split in (tiny_data.train, tiny_data.test)]
    torch.save(data, folder / "data.pt")

    def run(*arguments):
        # On the CPU `accelerate launch` itself wants MPI; for other devices it does this.
        torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
        return subprocess.run(
            [sys.executable, *torchrun, str(SCRIPT), *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=200,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        )

    return run


def test_two_processes_write_one_file_and_speak_once(folder, launch):
    (folder / "trained.toml").write_text(TRAINED)
    model = ("tiny.safetensors", "--architecture", "networks:tiny")
    done = launch("compress", *model, "-o", "out.fly", "--recipe", "trained.toml", "--json")
    assert done.returncode == 0, done.stderr[:3000]
    report = json.loads(done.stdout)  # one object, and nothing besides
    assert report["file_bytes"] == (folder / "out.fly").stat().st_size
    assert report["reload_identical"]
    assert (folder / "written.txt").read_text() == "main True of 2\n"
    assert not (folder / "out.fly.partial").exists()
    weights = [value for value in decompress(folder / "out.fly").values() if value.ndim > 1]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros == 0.5 * sum(weight.numel() for weight in weights)
