"""Interleaved rounds of engines on one load, rounds that the machine disturbed left out, and the table of them."""

import json
import statistics
import subprocess
import threading
import time
from pathlib import Path

import numpy as np

from engines import Load

DRIFT, STEAL = 0.05, 0.01  # of the bandwidth, of all CPU time


class Machine:
    """What a round is judged by: how fast memory is read, and what the hypervisor took."""

    def __init__(self, threads: int):
        self.parts = np.array_split(np.ones(1 << 27), threads)  # 1 GiB, beyond any cache we know

    def bandwidth(self) -> float:
        def seconds() -> float:
            readers = [threading.Thread(target=np.add.reduce, args=(part,)) for part in self.parts]
            begin = time.perf_counter()
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            return time.perf_counter() - begin

        return sum(part.nbytes for part in self.parts) / min(seconds() for _ in range(5))

    @staticmethod
    def cpu_times() -> list[int]:
        return [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]

    def watch(self, work) -> tuple[dict, str]:
        """What work() returned, and why it does not count: empty where it does."""
        before, times = self.bandwidth(), self.cpu_times()
        found = work()
        spent = [after - start for after, start in zip(self.cpu_times(), times)]
        after = self.bandwidth()
        drift, steal = abs(after - before) / max(before, after), spent[7] / max(1, sum(spent))
        reasons = [f"bandwidth {before / 1e9:.1f} -> {after / 1e9:.1f} GB/s"] if drift > DRIFT else []
        reasons += [f"steal {steal:.1%}"] if steal > STEAL else []
        return found, ", ".join(reasons)


def compare(engines: list, load: Load, rounds: int, machine: Machine, keep_noisy: bool = False) -> tuple[dict, int]:
    """Per engine and measure the values of the rounds that count, and how many did not; A B B A."""
    found: dict[str, dict[str, list[float]]] = {e.name: {n: [] for n in load.names()} for e in engines}
    kept = rejected = 0
    while kept < rounds:
        order = engines if (kept + rejected) % 2 == 0 else engines[::-1]
        values, reason = machine.watch(lambda: {engine.name: engine.measure(load) for engine in order})
        if reason:
            print(f"round {'kept' if keep_noisy else 'left out'}: {reason}", flush=True)
        if reason and not keep_noisy:
            rejected += 1
            if rejected > 2 * rounds:
                break
            continue
        kept += 1
        for engine in engines:
            for name in load.names():
                found[engine.name][name].append(values[engine.name][name])
    return found, rejected


def spread(values: list[float], form: str) -> str:
    """Median and the quartiles around it."""
    if len(values) < 2:
        return format(values[0], form)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:{form}} ({low:{form}}-{high:{form}})"


HEADER = "| row | measure | engine | tok/s, median (quartiles) | peer | its tok/s | ratio (quartiles) | rounds |\n" + "|---" * 8 + "|"


def table(row: str, ours: list, peers: list, load: Load, found: dict, rejected: int) -> list[str]:
    """Each of ours against each peer, ratios within rounds."""
    lines = []
    for name in load.names():
        for mine in ours:
            for peer in peers:
                a, b = found[mine.name][name], found[peer.name][name]
                if not a:
                    lines.append(f"| {row} | {name} | {mine.name} | no round counted | {peer.name} | | | 0 of {rejected} |")
                    continue
                ratios = [x / y for x, y in zip(a, b)]
                lines.append(f"| {row} | {name} | {mine.name} | {spread(a, '.1f')} | {peer.name} | {spread(b, '.1f')} | "
                             f"{spread(ratios, '.2f')} | {len(a)} of {len(a) + rejected} |")
    return lines


def limits(binary: Path, threads: int) -> list[str]:
    """The machine's limits of this run, from the command that measures them."""
    done = subprocess.run([binary, "bench", "machine", "--json", f"--threads={threads}"], stdout=subprocess.PIPE,
                          text=True, check=True)
    measured = json.loads(done.stdout)
    lines = [f"reading memory {measured['memory_bytes_per_second'] / 1e9:.1f} GB/s"]
    for peak in measured["peaks"]:
        if peak["threads"] == measured["threads"] and peak["operations_per_second"]:
            lines.append(f"{peak['unit']} {peak['operations_per_second'] / 1e9:.0f} G operations/s")
    return lines
