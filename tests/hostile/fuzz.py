"""Read hostile files by the hundred thousand: ``make fuzz``.

    python tests/hostile/fuzz.py [--cases 200000] [--seed 0] [--processes N]
    python tests/hostile/fuzz.py --case 1234 [--seed 0]

The second line reads one case again. Compiled loops check their bounds here, with a cache of their
own; a case that crashes or hangs ends its process, is reported, and the others go on. Prints what
each decoder made of the cases, adds that to ``benchmarks/results/fuzz.csv``, and ends with code 1
if there was a finding. Ctrl-C ends early and prints what was done.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import faulthandler
import multiprocessing
import os
import signal
import tempfile
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from cases import KINDS, case
from judge import DECODERS, Judge, Tally
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from flyweight._provenance import source_commit
from flyweight.coding.threads import cores

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "fuzz.csv"
STARTS, ENDED = -2, -1  # what a process does that reads no case
HANGS = 60  # seconds, after which a case is given up
FIELDS = (
    *("date", "commit", "seed", "cases", "minutes", "decoder", "accepted", "refused"),
    *("slowest_ms", "largest_allocation_ratio", "findings"),
)


def run_cases(seed: int, numbers: range) -> Tally:
    """Read cases in this process."""
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(Path(folder))
        judge.start()
        for number in numbers:
            judge.judge(number, case(seed, number))
        return judge.tally


def check_bounds() -> None:
    """Let Numba check every index; to be called before it is imported."""
    os.environ["NUMBA_BOUNDSCHECK"] = "1"
    os.environ["NUMBA_CACHE_DIR"] = str(ROOT / "build" / "checked-kernels")
    from checked_kernels import check_kernels

    check_kernels()


def _work(seed: int, numbers: range, place: Any, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    check_bounds()
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(Path(folder))
        judge.start()
        told = time.monotonic()
        for number in numbers:
            place.value = number
            faulthandler.dump_traceback_later(HANGS, exit=True)
            judge.judge(number, case(seed, number))
            if judge.tally.findings or time.monotonic() - told > 0.5:
                pipe.send(judge.tally)
                judge.tally, told = Tally(), time.monotonic()
        faulthandler.cancel_dump_traceback_later()
        place.value = ENDED
        pipe.send(judge.tally)


class _Worker:
    """A process that reads cases, and what it was doing when it died."""

    def __init__(self, seed: int, numbers: range) -> None:
        self.seed, self.numbers = seed, numbers
        context = multiprocessing.get_context("spawn")
        self.place = context.Value("q", STARTS, lock=False)
        self.pipe, there = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_work, args=(seed, numbers, self.place, there), daemon=True
        )
        self.process.start()
        there.close()

    def died(self) -> tuple[int, str] | None:
        """The case that ended the process before its time."""
        self.process.join()
        if self.place.value == ENDED:
            return None
        before = "before its first case " if self.place.value == STARTS else ""
        return self.place.value, f"the process ended {before}with code {self.process.exitcode}"

    def successor(self) -> _Worker | None:
        """Who goes on after a case that ended the process."""
        if self.place.value == STARTS:
            return None
        left = range(self.place.value + self.numbers.step, self.numbers.stop, self.numbers.step)
        return _Worker(self.seed, left) if left else None


def fuzz(seed: int, count: int, processes: int, console: Console) -> Tally:
    """Read cases side by side; returns what was done so far if interrupted."""
    total = Tally()
    workers = [_Worker(seed, range(first, count, processes)) for first in range(processes)]
    begin = time.monotonic()
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=count)
        try:
            while workers:
                ready = wait([worker.pipe for worker in workers])
                for worker in [worker for worker in workers if worker.pipe in ready]:
                    try:
                        total.add(worker.pipe.recv())
                    except EOFError:
                        workers.remove(worker)
                        if died := worker.died():
                            total.findings.append(died)
                            workers += [new for new in [worker.successor()] if new]
                rate = total.cases / (time.monotonic() - begin)
                told = f"{rate:.0f} cases a second, {len(total.findings)} findings"
                progress.update(bar, completed=total.cases, description=told)
        except KeyboardInterrupt:
            for worker in workers:
                worker.process.terminate()
    return total


def show(total: Tally, console: Console) -> None:
    """Print tables of the cases and of the decoders, and the findings."""
    kinds = Table("damage", "accepted", "refused", title=f"{total.cases:,} cases")
    for kind in KINDS:
        kinds.add_row(kind, *(f"{total.kinds[kind, what]:,}" for what in ("accepted", "refused")))
    table = Table("decoder", "accepted", "refused", "slowest", "case", "memory", "case")
    for decoder in DECODERS:
        seconds, slow = total.slowest.get(decoder, (0.0, 0))
        ratio, large = total.largest.get(decoder, (0.0, 0))
        counts = f"{total.accepted[decoder]:,}", f"{total.refused[decoder]:,}"
        table.add_row(
            decoder, *counts, f"{1000 * seconds:.0f} ms", str(slow), f"{ratio:.2f}", str(large)
        )
    console.print(kinds, table)
    for number, what in sorted(total.findings)[:100]:
        console.print(f"case {number}: {what}", markup=False)
    console.print(f"{len(total.findings)} findings")


def write(total: Tally, seed: int, minutes: float, commit: str) -> None:
    """Add a row for each decoder to the results."""
    start = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "seed": seed,
        "cases": total.cases,
        "minutes": round(minutes, 1),
    }
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        for decoder in DECODERS:
            row = {
                "decoder": decoder,
                "accepted": total.accepted[decoder],
                "refused": total.refused[decoder],
                "slowest_ms": round(1000 * total.slowest.get(decoder, (0.0, 0))[0], 1),
                "largest_allocation_ratio": round(total.largest.get(decoder, (0.0, 0))[0], 2),
                "findings": len(total.findings),
            }
            writer.writerow(start | row)


def main() -> int:
    parser = argparse.ArgumentParser(description="Read hostile files and find fault.")
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=cores())
    parser.add_argument("--case", type=int, help="read this one case again")
    options = parser.parse_args()
    console = Console()
    if options.case is not None:
        check_bounds()
        found = case(options.seed, options.case)
        console.print(f"{found.kind}, for the reader of {found.reader}: {found.data.hex()}")
        total = run_cases(options.seed, range(options.case, options.case + 1))
        show(total, console)
        return bool(total.findings)
    commit, begin = source_commit(), time.monotonic()
    total = fuzz(options.seed, options.cases, options.processes, console)
    show(total, console)
    write(total, options.seed, (time.monotonic() - begin) / 60, commit)
    return bool(total.findings)


if __name__ == "__main__":
    raise SystemExit(main())
