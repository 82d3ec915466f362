"""Writers that are killed at any moment leave the old file or the new one, whole."""

import json
import signal
import subprocess
import sys

import pytest

# All that touches a file is a call of a C function, and the profiler tells of every one: so a
# process can be killed ahead of any of them. It is forked for each, since imports take long.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
from flyweight.coding import encode_lossless
from flyweight.format import Container, dumps, open_writer, write

how, path = sys.argv[1], Path(sys.argv[2])
tensors = tuple(
    encode_lossless(f"t{i}", np.arange(i, 300 * i, dtype=np.float32), dtype="float32")
    for i in range(1, 5)
)
old, new = dumps(Container(tensors=tensors[:2])), dumps(Container(tensors=tensors))

def at_once():
    write(Container(tensors=tensors), path)

def tensor_by_tensor():
    with open_writer(path) as writer:
        for tensor in tensors:
            writer.add(tensor)

def in_a_child(moment, before):
    path.unlink(missing_ok=True)
    if before is not None:
        path.write_bytes(before)
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        calls = 0
        def count(frame, event, argument):
            nonlocal calls
            if event == "c_call":
                calls += 1
                if calls == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.setprofile(count)
        {"at_once": at_once, "tensor_by_tensor": tensor_by_tensor}[how]()
        sys.setprofile(None)
        os.write(send, str(calls).encode())
        os._exit(0)
    os.close(send)
    status = os.waitpid(child, 0)[1]
    told = os.read(receive, 20)
    os.close(receive)
    after = path.read_bytes() if path.exists() else None
    names = {None: "none", old: "old", new: "new"}
    return {
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "calls": int(told or 0),
        "before": names[before],
        "after": names.get(after, "broken"),
    }

calls = in_a_child(0, old)["calls"]
moments = [0, *range(1, calls - 24, 1 + calls // 24), *range(calls - 24, calls)]
print(json.dumps([in_a_child(m, (old, None)[m % 2]) for m in moments]))
"""


@pytest.mark.parametrize("how", ["at_once", "tensor_by_tensor"])
def test_killed_writer_leaves_the_old_or_the_new_file(tmp_path, how):
    arguments = [sys.executable, "-c", PROGRAM, how, str(tmp_path / "model.fly")]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    results = json.loads(run.stdout)
    killed = [result for result in results if result["signal"] == signal.SIGKILL]
    finished = [result for result in results if result["signal"] == 0]
    assert finished[0] == results[0]
    assert all(result["after"] == "new" for result in finished)
    assert len(killed) > 40
    assert len(killed) + len(finished) == len(results)
    assert all(result["after"] in (result["before"], "new") for result in killed)
    assert {result["after"] for result in killed} == {"old", "none", "new"}
