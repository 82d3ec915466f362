"""Read hostile files by the million under sanitizers: ``make fuzz``.

    python tests/hostile/fuzz.py [--cases 1000000] [--minutes 10] [--seed 0] [--processes N]
    python tests/hostile/fuzz.py --case 1234 [--seed 0]

First structure-aware cases go through the public readers of Python, then libFuzzer looks for bytes
that reach new code of the C decoders, for so many minutes of processor time. The second line reads
one case again. A case that crashes or hangs ends its process, is reported, and the others go on.
Prints what came of the cases, adds both runs to ``benchmarks/results/fuzz.csv``, and ends with code
1 if there was a finding. Ctrl-C ends early and prints what was done.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import faulthandler
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sanitized import ROOT, build_extension, build_program, environment, use_extension

if TYPE_CHECKING:
    from judge import Tally

RESULTS = ROOT / "benchmarks" / "results" / "fuzz.csv"
CORPUS = ROOT / "runs" / "fuzz"  # inputs that libFuzzer found, and those that crashed
STARTS, ENDED = -2, -1  # what a process does that reads no case
HANGS = 60  # seconds, after which a case is given up
FIELDS = (
    *("date", "commit", "compiler", "run", "seed", "cases", "minutes", "accepted", "slowest_ms"),
    *("memory_ratio", "coverage", "findings"),
)


def run_cases(seed: int, numbers: range) -> Tally:
    """Read cases in this process."""
    from cases import case
    from judge import Judge

    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(Path(folder))
        for number in numbers:
            judge.judge(number, *case(seed, number))
        return judge.tally


def _work(seed: int, numbers: range, place: Any, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    use_extension()
    from cases import case
    from judge import Judge, Tally

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        judge = Judge(Path(folder))
        judge.start()
        sent = time.monotonic()
        for number in numbers:
            place.value = number
            if number % 64 < numbers.step:
                faulthandler.dump_traceback_later(HANGS, exit=True)
            judge.judge(number, *case(seed, number))
            if judge.tally.findings or time.monotonic() - sent > 1:
                pipe.send(judge.tally)
                judge.tally, sent = Tally(), time.monotonic()
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


def fuzz(seed: int, count: int, processes: int) -> Tally:
    """Read cases side by side; returns what was done so far if interrupted."""
    from judge import Tally

    total = Tally()
    workers = [_Worker(seed, range(first, count, processes)) for first in range(processes)]
    begin, said = time.monotonic(), 0
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
            if time.monotonic() - begin > said:
                said += 60
                rate = total.cases / (time.monotonic() - begin)
                print(f"{total.cases:,} cases, {rate:.0f} a second", flush=True)
    except KeyboardInterrupt:
        for worker in workers:
            worker.process.terminate()
    return total


def show(total: Tally) -> None:
    """Print what came of the cases of each kind, and the findings."""
    for kind, coder in sorted({key[:2] for key in total.outcomes}):
        accepted, refused = (total.outcomes[kind, coder, outcome] for outcome in (True, False))
        print(f"{kind:12} {coder:9} {accepted:9,} accepted {refused:9,} refused")
    slow, large = total.slowest, total.largest
    print(f"slowest: {slow[0]:.0f} ms in case {slow[1]}; memory: {large[0]:.2f} in case {large[1]}")
    for number, what in sorted(total.findings)[:100]:
        print(f"case {number}: {what}")
    print(f"{total.cases:,} cases, {len(total.findings)} findings")


def guided(minutes: float, processes: int) -> dict[str, object]:
    """Run libFuzzer; return the fields of its row, none if there is no clang."""
    try:
        program = build_program("fuzz_file.c", "-fsanitize=fuzzer", compiler="clang")
    except OSError as error:
        print(f"the coverage-guided part is left out: {error}")
        return {}
    found, crashes = CORPUS / "found", CORPUS / "crashes"
    for folder in (found, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    before = {*crashes.iterdir()}
    seeds = [ROOT / "tests" / "golden", ROOT / "tests" / "hostile" / "files"]
    seconds = max(1, int(60 * minutes / processes))
    runs = []
    for number in range(processes):
        command = [program, f"-max_total_time={seconds}", f"-seed={number + 1}", "-max_len=20000"]
        command += ["-timeout=60", "-rss_limit_mb=3000", "-print_final_stats=1", "-reload=10"]
        command += [f"-artifact_prefix={crashes}/", found, *seeds]
        runs.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    texts = [run.communicate()[1] for run in runs]
    failed = sum(run.returncode != 0 for run in runs)
    for text in texts if failed else ():
        print(text[-4000:])
    findings = max(failed, len({*crashes.iterdir()} - before))
    cases = sum(map(int, re.findall(r"number_of_executed_units: (\d+)", "".join(texts))))
    edges = max(map(int, re.findall(r"cov: (\d+)", "".join(texts))), default=0)
    print(f"libFuzzer: {cases:,} cases, {edges} edges, {findings} findings; see {crashes}")
    return {"run": "coverage-guided", "cases": cases, "coverage": edges, "findings": findings}


def write(row: dict[str, object], compiler: str, seed: int, begin: float) -> None:
    """Add a run to the results."""
    from flyweight._provenance import source_commit

    new = not RESULTS.exists()
    version = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True)
    start = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": source_commit(),
        "compiler": f"{compiler} {version.stdout.strip()}",
        "seed": seed,
        "minutes": round((time.monotonic() - begin) / 60, 1),
    }
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(start | row)


def main() -> int:
    parser = argparse.ArgumentParser(description="Read hostile files and find fault.")
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=10, help="of the coverage-guided part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--case", type=int, help="read this one case again")
    options = parser.parse_args()
    if "FLYWEIGHT_SANITIZED" not in os.environ:
        build_extension()
        os.execve(sys.executable, [sys.executable, *sys.argv], environment())
    use_extension()
    if options.case is not None:
        from cases import case

        print(case(options.seed, options.case))
        total = run_cases(options.seed, range(options.case, options.case + 1))
        show(total)
        return bool(total.findings)
    begin = time.monotonic()
    findings = 0
    if options.cases:
        total = fuzz(options.seed, options.cases, options.processes)
        show(total)
        findings += len(total.findings)
        accepted = sum(count for key, count in total.outcomes.items() if key[2])
        row = {
            "run": "mutations",
            "cases": total.cases,
            "accepted": accepted,
            "slowest_ms": round(total.slowest[0]),
            "memory_ratio": round(total.largest[0], 2),
            "findings": len(total.findings),
        }
        write(row, "gcc", options.seed, begin)
    if options.minutes:
        del os.environ["LD_PRELOAD"]  # clang has a runtime of its own
        begin = time.monotonic()
        if row := guided(options.minutes, options.processes):
            findings += int(row["findings"])
            write(row, "clang", options.seed, begin)
    return bool(findings)


if __name__ == "__main__":
    raise SystemExit(main())
