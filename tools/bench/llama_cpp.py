"""llama.cpp by its C interface: speed of prompts and of batches, or the likeliest next tokens.

LIB is libllama.so of any build of llama.cpp or ik_llama.cpp; of its parameters only those are set that every version
has. Random tokens, as its own batched-bench feeds; flash attention as the library decides.

  tools/bench/llama_cpp.py --library build/bin/libllama.so /tmp/llama-1b-q8_0.gguf --prompts 512 --batch-sizes 1,8
"""

import ctypes
import random
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

import peer_program

ROOM = 1024  # more than any version's parameter structures, which are handed back as they came


class Structure(ctypes.Structure):
    """Passed by value, always as the last argument, so that being longer than the callee's own does no harm."""
    _fields_ = [("bytes", ctypes.c_uint8 * ROOM)]


class Batch(ctypes.Structure):
    _fields_ = [("size", ctypes.c_int32), ("tokens", ctypes.c_void_p), ("embeddings", ctypes.c_void_p),
                ("positions", ctypes.c_void_p), ("sequence_counts", ctypes.c_void_p),
                ("sequences", ctypes.c_void_p), ("wanted", ctypes.c_void_p), ("rest", ctypes.c_uint8 * 64)]


LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
# n_ctx, n_batch, n_ubatch, n_seq_max stand together in every version, with these defaults.
CONTEXT_DEFAULTS = struct.pack("4I", 512, 2048, 512, 1)


def place_of_repack(sources: Path) -> int:
    """Where `repack_tensors` stands in the model parameters of ik_llama.cpp, whose layout changes between versions."""
    program = """#include <stddef.h>
                 #include <stdio.h>
                 #include "llama.h"
                 int main(void) { printf("%zu", offsetof(struct llama_model_params, repack_tensors)); }"""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "place"
        subprocess.run(["cc", f"-I{sources}/include", f"-I{sources}/ggml/include", "-x", "c", "-", "-o", binary],
                       input=program, text=True, check=True)
        return int(subprocess.run([binary], stdout=subprocess.PIPE, check=True).stdout)


class LlamaCpp:
    def __init__(self, library: Path, model: Path, threads: int, positions: int, sequences: int, physical: int,
                 repack_sources: Path | None = None):
        self.lib = lib = ctypes.CDLL(str(library))
        pointer = ctypes.c_void_p
        for name, result, arguments in (
                ("llama_model_default_params", Structure, []), ("llama_context_default_params", Structure, []),
                ("llama_model_load_from_file", pointer, [ctypes.c_char_p, Structure]),
                ("llama_init_from_model", pointer, [pointer, Structure]),
                ("llama_set_n_threads", None, [pointer, ctypes.c_int32, ctypes.c_int32]),
                ("llama_model_get_vocab", pointer, [pointer]), ("llama_vocab_n_tokens", ctypes.c_int32, [pointer]),
                ("llama_decode", ctypes.c_int32, [pointer, Batch]), ("llama_synchronize", None, [pointer]),
                ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, ctypes.c_int32])):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        self.quiet = LOG(lambda *_: None)
        lib.llama_log_set(self.quiet, None)
        lib.llama_backend_init()
        model_params = lib.llama_model_default_params()
        if repack_sources is not None:
            model_params.bytes[place_of_repack(repack_sources)] = 1
        handle = lib.llama_model_load_from_file(str(model).encode(), model_params)
        if not handle:
            raise SystemExit(f"{library}: cannot load {model}")
        self.vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(handle))
        params = lib.llama_context_default_params()
        at = bytes(params.bytes).find(CONTEXT_DEFAULTS)
        if at < 0:
            raise SystemExit(f"{library}: its context parameters are unknown to tools/bench/llama_cpp.py")
        # Some versions round what each sequence gets up to 256.
        each = -(-positions // 256) * 256
        struct.pack_into("4I", params.bytes, at, each * sequences, 2048, physical, sequences)
        self.context = lib.llama_init_from_model(handle, params)
        if not self.context:
            raise SystemExit(f"{library}: no context of {each} x {sequences} positions for {model}")
        lib.llama_set_n_threads(self.context, threads, threads)

    def clear(self) -> None:
        if hasattr(self.lib, "llama_memory_clear"):
            self.lib.llama_get_memory.restype = ctypes.c_void_p
            self.lib.llama_memory_clear(ctypes.c_void_p(self.lib.llama_get_memory(ctypes.c_void_p(self.context))), False)
        else:
            self.lib.llama_kv_cache_clear(ctypes.c_void_p(self.context))

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """rows: token, position, sequence, whether logits are wanted; in batches of what the context takes."""
        for begin in range(0, len(rows), 2048):
            part = rows[begin:begin + 2048]
            tokens, positions, sequences, wanted = (np.ascontiguousarray(column, dtype) for column, dtype in zip(
                zip(*part), (np.int32, np.int32, np.int32, np.int8)))
            counts = np.ones(len(part), np.int32)
            pointers = (sequences.ctypes.data + 4 * np.arange(len(part), dtype=np.uint64)).astype(np.uint64)
            failed = self.lib.llama_decode(self.context, Batch(
                len(part), tokens.ctypes.data, None, positions.ctypes.data, counts.ctypes.data, pointers.ctypes.data,
                wanted.ctypes.data))
            if failed:
                raise SystemExit(f"llama_decode: {failed}")
        self.lib.llama_synchronize(self.context)

    def time(self, batch: int, prompt: int, output: int) -> dict:
        generator = random.Random(batch)

        def token() -> int:
            return generator.randrange(self.vocab_size)

        self.clear()
        rows = [(token(), i, s, i == prompt - 1) for s in range(batch) for i in range(prompt)]
        begin = time.perf_counter()
        self.decode(rows)
        prefilled = time.perf_counter()
        for i in range(output - 1):
            self.decode([(token(), prompt + i, s, True) for s in range(batch)])
        end = time.perf_counter()
        return peer_program.rates(batch, prompt, output, prefilled - begin, end - prefilled)

    def next_tokens(self, ids: list[int]) -> list[int]:
        """What greedy decoding would take after each token."""
        self.clear()
        self.decode([(token, i, 0, True) for i, token in enumerate(ids)])
        rows = (self.lib.llama_get_logits_ith(self.context, i) for i in range(len(ids)))
        return [int(np.ctypeslib.as_array(row, (self.vocab_size,)).argmax()) for row in rows]


def main() -> None:
    parser = peer_program.parser(__doc__)
    parser.add_argument("--library", type=Path, required=True, metavar="LIB")
    parser.add_argument("--ubatch", type=int, default=2048, help="rows computed at once")
    parser.add_argument("--repack", type=Path, metavar="SOURCES",
                        help="of ik_llama.cpp, its root: weights in the layout of its fastest kernels, made while loading")
    args = parser.parse_args()
    peer_program.answer(LlamaCpp(args.library, args.model, args.threads, peer_program.longest(args),
                                 max([1, *args.batch_sizes]), args.ubatch, args.repack), args)


if __name__ == "__main__":
    main()
