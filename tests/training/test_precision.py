"""Devices, precision, and memory."""

import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from flyweight.errors import RecipeError
from flyweight.training import autocast, choose_device, describe_device, memory_format_for


def test_choose_device_knows_the_names_of_torch():
    assert choose_device("cpu").type == "cpu"
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["quantum", "meta", "cuda:99", ""])
def test_choose_device_refuses_what_is_not_available(name):
    with pytest.raises(RecipeError, match=f"device '{name}' cannot be used here"):
        choose_device(name)


@pytest.mark.parametrize("name", ["mps", "mps:0"])
def test_choose_device_refuses_devices_without_float64(name):
    with pytest.raises(RecipeError, match=f"device '{name}' lacks float64, .* use 'cpu'"):
        choose_device(name)


def test_describe_device_counts_threads():
    assert describe_device(torch.device("cpu")).endswith(("thread", "threads"))


def test_memory_format_for_five_dimensions_is_preserved():
    assert memory_format_for(nn.Conv3d(1, 1, 1)) == torch.preserve_format
    assert memory_format_for(nn.Linear(1, 1)) == torch.channels_last


def test_autocast_follows_the_precision():
    layer = nn.Linear(2, 2)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with autocast(torch.device("cpu"), precision):
            assert layer(torch.ones(1, 2)).dtype == dtype


PAGES = """
import resource, sys
import numpy as np
from flyweight.training import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for again in range(21):
    np.ones(1 << 20)
    if not again:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_keep_freed_memory_avoids_page_faults():
    def faults(how):
        run = [sys.executable, "-c", PAGES, how]
        return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < 0.2 * faults("release")
