"""Read hostile files by the million under sanitizers: ``make fuzz``.

    python tests/hostile/fuzz.py [--cases 1000000] [--minutes 10] [--seed 0] [--processes N]
    python tests/hostile/fuzz.py --case 1234 [--seed 0]

First structure-aware cases go through the public readers of Python, then libFuzzer looks for bytes
that reach new code of the C decoders, for so many minutes of processor time. The second line reads
one case again. A case that crashes or hangs ends its process, is reported, and the others go on.
Prints what came of the cases, adds both runs to ``benchmarks/results/fuzz.csv``, and ends with code
1 if there was a finding.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import faulthandler
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sanitized import ROOT, build_extension, build_program, environment, use_extension

if TYPE_CHECKING:  # modules that import flyweight, after `use_extension`
    from judge import Tally

RESULTS = ROOT / "benchmarks" / "results" / "fuzz.csv"
INPUTS = ROOT / "runs" / "fuzz"
CHUNK = 5000  # cases that a process reads
HANGS = 60  # seconds, after which a process is given up
FIELDS = (
    *("date", "commit", "compiler", "run", "seed", "cases", "minutes", "accepted", "slowest_ms"),
    *("memory_ratio", "coverage", "findings"),
)


def say(text: object) -> None:
    """Write a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run_cases(seed: int, numbers: range, place: Any = None) -> Tally:
    """Read cases in this process; ``place`` tells which."""
    from cases import case
    from judge import Judge

    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        judge = Judge(Path(folder))
        for number in numbers:
            if place is not None:
                place.value = number
            judge.judge(number, *case(seed, number))
        return judge.tally


def _work(seed: int, numbers: range, place: Any, pipe: Connection) -> None:
    faulthandler.enable()
    faulthandler.dump_traceback_later(HANGS + CHUNK // 50, exit=True)
    pipe.send(run_cases(seed, numbers, place))


def fuzz(seed: int, count: int, processes: int) -> Tally:
    """Read cases side by side, each few thousand in a process of their own."""
    from judge import Judge, Tally

    with tempfile.TemporaryDirectory() as folder:
        Judge(Path(folder)).start()
    context = multiprocessing.get_context("fork")
    total, begin, said = Tally(), time.monotonic(), 0.0
    waiting = [range(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)][::-1]
    running: dict[Any, tuple[Any, Any, range]] = {}
    while waiting or running:
        while waiting and len(running) < processes:
            numbers = waiting.pop()
            pipe, there = context.Pipe(duplex=False)
            place = context.Value("q", numbers.start, lock=False)
            process = context.Process(target=_work, args=(seed, numbers, place, there))
            process.start()
            there.close()
            running[pipe] = process, place, numbers
        for pipe in wait([*running]):
            process, place, numbers = running.pop(pipe)
            try:
                total.add(pipe.recv())
            except EOFError:  # those before the case that ended the process are not counted
                process.join()
                what = f"the process ended with code {process.exitcode}"
                total.findings.append((place.value, what))
                if place.value + 1 < numbers.stop:
                    waiting.append(range(place.value + 1, numbers.stop))
            process.join()
        if time.monotonic() - said > 60:
            said = time.monotonic()
            say(f"{total.cases:,} cases, {total.cases / (said - begin):.0f} a second")
    return total


def show(total: Tally) -> None:
    """Print what came of the cases of each kind, and the findings."""
    for kind, coder in sorted({key[:2] for key in total.outcomes}):
        accepted, refused = (total.outcomes[kind, coder, outcome] for outcome in (True, False))
        say(f"{kind:12} {coder:9} {accepted:9,} accepted {refused:9,} refused")
    slow, large = total.slowest, total.largest
    say(f"slowest: {slow[0]:.0f} ms in case {slow[1]}; memory: {large[0]:.2f} in case {large[1]}")
    for number, what in sorted(total.findings)[:100]:
        say(f"case {number}: {what}")
    say(f"{total.cases:,} cases, {len(total.findings)} findings")


def guided(minutes: float, processes: int) -> dict[str, object]:
    """Run libFuzzer; return the fields of its row, none if there is no clang."""
    from corpus import write_seeds

    try:
        program = build_program("fuzz_file.c", "-fsanitize=fuzzer", compiler="clang")
    except OSError as error:
        say(f"the coverage-guided part is left out: {error}")
        return {}
    found, crashes, seeds = (INPUTS / name for name in ("found", "crashes", "seeds"))
    for folder in (found, crashes, seeds):
        folder.mkdir(parents=True, exist_ok=True)
    write_seeds(seeds)
    before = {*crashes.iterdir()}
    runs = []
    for number in range(processes):
        seconds = max(1, int(60 * minutes / processes))
        command = [program, f"-max_total_time={seconds}", f"-seed={number + 1}", "-max_len=20000"]
        command += ["-timeout=60", "-rss_limit_mb=3000", "-print_final_stats=1", "-reload=10"]
        command += [f"-artifact_prefix={crashes}/", found, seeds]
        runs.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    texts = [run.communicate()[1] for run in runs]
    failed = [text for run, text in zip(runs, texts, strict=True) if run.returncode]
    for text in failed:
        say(text[-4000:])
    findings = max(len(failed), len({*crashes.iterdir()} - before))
    cases = sum(map(int, re.findall(r"number_of_executed_units: (\d+)", "".join(texts))))
    edges = max(map(int, re.findall(r"cov: (\d+)", "".join(texts))), default=0)
    say(f"libFuzzer: {cases:,} cases, {edges} edges, {findings} findings in {crashes}")
    return {"run": "coverage-guided", "cases": cases, "coverage": edges, "findings": findings}


def write(row: dict[str, object], compiler: str, seed: int, begin: float) -> None:
    """Add a run to the results."""
    from flyweight._provenance import source_commit

    new = not RESULTS.exists()
    command = [compiler, "-dumpversion"]
    version = subprocess.run(command, capture_output=True, text=True, check=True)
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

        say(case(options.seed, options.case))
        total = run_cases(options.seed, range(options.case, options.case + 1))
        show(total)
        return bool(total.findings)
    begin, findings = time.monotonic(), 0
    if options.cases:
        total = fuzz(options.seed, options.cases, options.processes)
        show(total)
        findings = len(total.findings)
        row: dict[str, object] = {
            "run": "mutations",
            "cases": total.cases,
            "accepted": sum(count for key, count in total.outcomes.items() if key[2]),
            "slowest_ms": round(total.slowest[0]),
            "memory_ratio": round(total.largest[0], 2),
            "findings": findings,
        }
        write(row, "gcc", options.seed, begin)
    if options.minutes:
        del os.environ["LD_PRELOAD"]  # clang has a runtime of its own
        begin = time.monotonic()
        if row := guided(options.minutes, options.processes):
            findings += int(str(row["findings"]))
            write(row, "clang", options.seed, begin)
    return bool(findings)


if __name__ == "__main__":
    raise SystemExit(main())
