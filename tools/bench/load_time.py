"""How long a server needs until it is ready: packing its weights, and reading them from a packed cache, each beside
reading the same file into memory. Interleaved rounds, medians. Cold: the kernel forgets the file before every turn.

  python3 tools/bench/load_time.py build/release/sluice models/tiny-moe --weights int8
"""

import argparse
import mmap
import os
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

CHUNK = 1 << 20


def forget(files: list[Path]) -> None:
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)  # pages that are not written yet stay
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read(files: list[Path], threads: int) -> None:
    """Into memory that nobody used before, by as many threads as the server has."""
    for file in files:
        size = file.stat().st_size
        descriptor, memory = os.open(file, os.O_RDONLY), mmap.mmap(-1, size)
        memory.madvise(mmap.MADV_HUGEPAGE)
        view = memoryview(memory)

        def part(first: int) -> None:
            for at in range(first * CHUNK, size, threads * CHUNK):
                os.preadv(descriptor, [view[at:at + CHUNK]], at)

        readers = [threading.Thread(target=part, args=(i,)) for i in range(threads)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        view.release()
        memory.close()
        os.close(descriptor)


def start(args: argparse.Namespace, *flags: str) -> None:
    """Until the line that says so."""
    command = [args.sluice, "serve", f"--model={args.model}", f"--weights={args.weights}", "--port=0", "--grpc-port=-1",
               "--metrics-port=-1", f"--threads={args.threads}", *flags]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("ready in"):
                break
        else:
            raise SystemExit(f"{' '.join(map(str, command))}: ended with {process.wait()}")
        process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sluice", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cached = f"--packed-cache={folder}"
        start(args, cached)
        model = sorted(args.model.glob("*.safetensors")) if args.model.is_dir() else [args.model]
        packed = list(Path(folder).iterdir())
        turns = {"read the model": (model, lambda: read(model, args.threads)),
                 "ready, packing": (model, lambda: start(args)),
                 "read the cache": (packed, lambda: read(packed, args.threads)),
                 "ready, cached": (packed, lambda: start(args, cached))}
        seconds: dict[str, list[float]] = {name: [] for name in turns}
        for i in range(args.rounds):
            for name in list(turns)[::1 if i % 2 == 0 else -1]:
                files, turn = turns[name]
                if args.cold:
                    forget(files)
                begin = time.perf_counter()
                turn()
                seconds[name].append(time.perf_counter() - begin)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        print(f"{args.model.name} {args.weights}, {'cold' if args.cold else 'warm'}, {args.threads} threads, "
              f"{args.rounds} rounds, packed {sum(file.stat().st_size for file in packed) / 1e6:.0f} MB")
        for name, values in seconds.items():
            print(f"  {name:15} {median[name]:7.3f} s  ({min(values):.3f}-{max(values):.3f})")
        for what, file in (("packing", "model"), ("cached", "cache")):
            ratios = [a / b for a, b in zip(seconds[f"ready, {what}"], seconds[f"read the {file}"])]
            print(f"  ready, {what} / read the {file}: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
