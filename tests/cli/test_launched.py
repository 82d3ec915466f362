"""The command line in two processes: one file, written and reported once."""

import json
import os
import subprocess
import sys

import flyweight

TRAINED = """\
[pruning]
sparsity = 0.5
interval = 1
[retraining]
epochs = 1
learning_rate = 0.01
[quantization]
[fine_tuning]
epochs = 1
learning_rate = 0.01
"""


def test_compress_in_two_processes_writes_one_file_and_prints_once(folder):
    (folder / "trained.toml").write_text(TRAINED)
    # On the CPU `accelerate launch` itself wants MPI; for other devices it does this.
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    network = ["tiny.safetensors", "--architecture", "networks:tiny", "--task", "networks:task"]
    command = ["compress", *network, "-o", "out.fly", "--recipe", "trained.toml", "--json"]
    done = subprocess.run(
        [sys.executable, *torchrun, "-m", "flyweight", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)  # one object, and nothing besides
    assert report["file_bytes"] == (folder / "out.fly").stat().st_size
    assert report["outputs_identical"]
    assert done.stderr.count("flyweight: encode") == 1
    assert not (folder / "out.fly.partial").exists()
    state = flyweight.load_state_dict(folder / "out.fly")
    weights = [value for value in state.values() if value.ndim > 1]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros == 0.5 * sum(weight.numel() for weight in weights)
