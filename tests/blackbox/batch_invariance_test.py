"""The answer never depends on who else is there: 64 prompts, one at a time and then in crowds that arrive in random
order, give the same token ids and log-probabilities, bit for bit. Small steps and little cache memory in the second
server make chunked prefill and preemption happen."""

import concurrent.futures
import random
import unittest

import golden_models
import sluice_process
from sluice_process import Sluice

NUM_PROMPTS = 16 if sluice_process.SANITIZED else 64
SEED = 20240607
WORDS = ("once upon a time there was little girl who lived near the wood and her dog ran over hill to see "
         "old king").split()


def requests(generator):
    made = []
    for index in range(NUM_PROMPTS):
        words = generator.choices(WORDS, k=generator.choice((1, 3, 10, 40, 120)))
        made.append({"prompt": " ".join(words), "max_tokens": generator.randint(1, 24), "logprobs": 3, "seed": index,
                     "temperature": generator.choice((0, 0.8)), "ignore_eos": True, "return_token_ids": True,
                     "echo": index % 7 == 0})
    return made


def token_requests(generator, count=NUM_PROMPTS):
    """For models of 64 tokens and 64 positions."""
    made = []
    for index in range(count):
        ids = [generator.randrange(3, 64) for _ in range(generator.choice((1, 2, 7, 19, 40)))]
        made.append({"prompt": ids, "max_tokens": generator.randint(1, 20), "logprobs": 3, "seed": index,
                     "temperature": generator.choice((0, 0.8)), "ignore_eos": True, "return_token_ids": True})
    return made


def few_token_requests(generator):
    return token_requests(generator, 12)


def answer(server, request):
    choice = server.complete(**request)["choices"][0]
    logprobs = choice["logprobs"]
    # Floats survive JSON exactly when both ends print and read the shortest form that round-trips.
    return (choice["token_ids"], logprobs["token_logprobs"], logprobs["top_logprobs"], choice["text"])


class BatchInvarianceTest(unittest.TestCase):

    def compare(self, model, alone_flags, crowd_flags, make_requests=requests):
        generator = random.Random(SEED)
        wanted = make_requests(generator)
        with Sluice(*alone_flags, model=model) as server:
            alone = [answer(server, request) for request in wanted]
        with Sluice(*crowd_flags, model=model) as server:
            for size in (2, 8, 33, NUM_PROMPTS) if len(wanted) > 12 else (len(wanted),):
                order = list(range(len(wanted)))
                generator.shuffle(order)
                with concurrent.futures.ThreadPoolExecutor(size) as pool:
                    crowd = dict(zip(order, pool.map(lambda index: answer(server, wanted[index]), order)))
                different = [index for index in order if crowd[index] != alone[index]]
                self.assertEqual(different, [], f"{model}, {size} at a time, seed {SEED}")
            self.assertEqual(server.wait_idle(), 0)
            return server.metrics()

    def test_mod_bf16(self):
        self.compare("tiny-mod", (), ())

    def test_mod_f32_other_thread_count(self):
        self.compare("tiny-mod", ("--weights", "f32", "--threads", "1"), ("--weights", "f32", "--threads", "2"))

    def test_mod_int8_other_thread_count(self):
        self.compare("tiny-mod", ("--weights", "int8", "--threads", "1"), ("--weights", "int8", "--threads", "2"))

    def test_mod_int4_other_thread_count(self):
        self.compare("tiny-mod", ("--weights", "int4", "--threads", "1"), ("--weights", "int4", "--threads", "2"))

    def test_dense(self):
        self.compare("tiny-dense", (), ())

    def test_chunked_prefill_and_preemption(self):
        metrics = self.compare("tiny-mod", (), ("--max-batch-tokens", "48", "--kv-memory", "400K"))
        if not sluice_process.SANITIZED:  # there the crowd is small
            self.assertGreater(metrics.value("sluice_preemptions_total"), 0, "the small cache was meant to preempt")

    def compare_golden(self, folder):
        with golden_models.served(folder) as model:
            self.compare(model, (), ("--max-batch-tokens", "24"), token_requests)

    def test_a_prompt_decided_as_a_whole(self):
        with golden_models.served("router_tuning") as model:
            metrics = self.compare(model, (), ("--kv-memory", "60K"), token_requests)
        if not sluice_process.SANITIZED:
            self.assertGreater(metrics.value("sluice_preemptions_total"), 0, "the small cache was meant to preempt")

    def test_position_bias_with_experts(self):
        self.compare_golden("glam-bias")

    def test_mixture_of_experts(self):
        self.compare_golden("mixtral")

    def test_latent_attention_with_shared_experts(self):
        self.compare_golden("deepseek_v3")

    def test_looped_with_exits(self):
        self.compare_golden("ouro-exit-latest")

    def test_adaptive_computation_time(self):
        self.compare_golden("universal_transformer")

    def test_recursions_with_shared_keys(self):
        self.compare_golden("mor-shared")

    def test_every_instruction_set_and_weight_format(self):
        lacking = []
        kernels = [("--isa", isa) for isa in ("scalar", "avx2", "avx512", "amx")] + [("--gemm", "amx-emulation")]
        for flag, name in kernels:
            for weights in ("f32", "bf16", "int8", "int4"):
                flags = (flag, name, "--weights", weights)
                with self.subTest(kernels=name, weights=weights), golden_models.served("mixtral") as model:
                    try:
                        self.compare(model, (*flags, "--threads", "1"), (*flags, "--max-batch-tokens", "24"), few_token_requests)
                    except sluice_process.DidNotStart as error:
                        self.assertIn(f"isa={name}: no ", str(error))
                        lacking.append(name)
        if lacking:
            print("not on this machine:", ", ".join(sorted(set(lacking))))
        self.assertNotIn("scalar", lacking)
        self.assertNotIn("amx-emulation", lacking)


if __name__ == "__main__":
    sluice_process.main()
