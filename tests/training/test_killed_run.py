"""A run that is killed and started again reaches the same file."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "killed_run.py"
MOMENTS = ("prune and retrain, epoch 2 of 3, 5", "quantize and fine-tune, epoch 3 of 3, 8")


def test_compress_killed_twice_reaches_the_same_file(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(whole), str(broken), *MOMENTS],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads((broken / "outcome.json").read_text())
    assert outcome["codes"] == [0, -signal.SIGKILL, -signal.SIGKILL, 0], done.stderr
    assert outcome["written"] == [True, False, False, True]
    assert {path.name for path in broken.rglob("*.pt")} == {"prune.pt", "quantize.pt"}
    assert (broken / "model.fly").read_bytes() == (whole / "model.fly").read_bytes()
