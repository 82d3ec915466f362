"""Training in several processes at once."""

import os
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).parent / "two_processes.py"


def test_two_processes_reach_the_same_masks_and_weights(tmp_path):
    # What `accelerate launch` does for processors of other kinds; on the CPU it wants MPI.
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*launch, str(SCRIPT), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    learnt = [*first]
    assert len(learnt) > 4
    for name in learnt:
        assert torch.equal(first[name], second[name]), name
    zeros = sum(int((first[name] == 0).sum()) for name in ("0.weight", "4.weight"))
    assert zeros == round(0.7 * (216 + 18_000))
    assert (tmp_path / "state.pt").exists()
