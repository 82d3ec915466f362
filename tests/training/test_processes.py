"""Training in two processes at once."""

import os
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).parent / "two_processes.py"
TOTAL = round(0.7 * (216 + 18_000))  # weights to be pruned


def test_train_in_two_processes_reaches_the_same_masks_and_weights(tmp_path):
    # What `accelerate launch` does for other devices; on the CPU it needs MPI.
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*launch, str(SCRIPT), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr[:3000]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first["processes"] == second["processes"] == 2
    ours, theirs = first["library loop"], second["library loop"]
    assert {*ours} == {*theirs}
    assert len(ours) > 4
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    for name, value in first["filters"].items():
        assert torch.equal(value, second["filters"][name]), name
    assert int((first["filters"]["0.weight"].flatten(1) == 0).all(1).sum()) == 6
    assert len(ours["4.weight"].unique()) == 5  # four levels and zero
    zeros = sum(int((ours[name] == 0).sum()) for name in ("0.weight", "4.weight"))
    assert zeros == TOTAL
    assert (tmp_path / "state.pt").exists()

    steps = [*zip(first["own loop"], second["own loop"], strict=True)]
    for ours, theirs in steps:
        assert ours["loss"] != theirs["loss"]  # of other images
        for name in {*ours} - {"loss"}:
            assert torch.equal(ours[name], theirs[name]), name
    pruned = [sum(int((~m).sum()) for n, m in ours.items() if "mask" in n) for ours, _ in steps]
    assert pruned == sorted(pruned)
    assert pruned[0] < pruned[-1] == TOTAL

    # Every process takes every second example of a batch, or what its sampler gives it.
    assert first["parts"] == [[0, 2, 4, 6], [0, 2, 4, 6]]
    assert second["parts"] == [[1, 3, 5, 7], [1, 3, 5, 7]]
