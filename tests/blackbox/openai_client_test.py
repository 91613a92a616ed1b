"""The OpenAI Python client, unchanged: completions, chat, streaming, typed errors, retries on 429 and 503."""

import threading
import unittest

import sluice_process
from sluice_process import BlackBoxTest

try:
    import openai
except ImportError:
    openai = None

MESSAGES = [{"role": "user", "content": "Tell me a story."}]


@unittest.skipIf(openai is None, "the openai package is not installed (tools/python_env.sh build/venv)")
class OpenAiClientTest(BlackBoxTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.client = openai.OpenAI(base_url=f"http://127.0.0.1:{cls.server.port}/v1", api_key="none", max_retries=0)

    def test_completions(self):
        made = self.client.completions.create(model="tiny-mod", prompt="Once upon a time", max_tokens=8, temperature=0)
        self.assertEqual(made.usage.completion_tokens, 8)
        pieces = self.client.completions.create(model="tiny-mod", prompt="Once upon a time", max_tokens=8, temperature=0,
                                                stream=True)
        self.assertEqual("".join(piece.choices[0].text for piece in pieces), made.choices[0].text)

    def test_chat(self):
        made = self.client.chat.completions.create(model="tiny-mod", messages=MESSAGES, max_completion_tokens=8,
                                                   temperature=0, logprobs=True, top_logprobs=2)
        self.assertEqual(made.choices[0].message.role, "assistant")
        self.assertEqual(len(made.choices[0].logprobs.content[0].top_logprobs), 2)
        stream = self.client.chat.completions.create(model="tiny-mod", messages=MESSAGES, max_completion_tokens=8,
                                                     temperature=0, stream=True, stream_options={"include_usage": True})
        text, usage = "", None
        for chunk in stream:
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
            usage = chunk.usage or usage
        self.assertEqual(text, made.choices[0].message.content)
        self.assertEqual(usage.completion_tokens, made.usage.completion_tokens)

    def test_our_own_fields_pass_through(self):
        made = self.client.completions.create(model="tiny-mod", prompt="Once", max_tokens=8,
                                              extra_body={"routing": {"capacity": 0}, "top_k": 5})
        self.assertEqual(made.usage.compute["executed_token_layers"], 0)

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["tiny-mod"])
        self.assertEqual(self.client.models.retrieve("tiny-mod").id, "tiny-mod")

    def test_errors_have_the_types_the_client_knows(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.completions.create(model="tiny-mod", prompt="a", temperature=3)
        self.assertEqual((caught.exception.code, caught.exception.param), ("number_out_of_range", "temperature"))
        with self.assertRaises(openai.NotFoundError):
            self.client.completions.create(model="gpt-4", prompt="a")

    def test_async_crowd(self):
        import asyncio

        async def crowd():
            client = openai.AsyncOpenAI(base_url=self.client.base_url, api_key="none", max_retries=0)
            made = await asyncio.gather(*(client.completions.create(model="tiny-mod", prompt="Once", max_tokens=6,
                                                                    temperature=0) for _ in range(32)))
            await client.close()
            return {answer.choices[0].text for answer in made}
        self.assertEqual(len(asyncio.run(crowd())), 1)


@unittest.skipIf(openai is None, "the openai package is not installed (tools/python_env.sh build/venv)")
class RetriesTest(BlackBoxTest):
    flags = ("--max-queued-requests", "1", "--max-sequences", "1")

    def test_a_full_queue_is_429_with_a_time_to_retry(self):
        """Without retries some of 16 requests at once are refused; with them every one gets its answer."""
        url = f"http://127.0.0.1:{self.server.port}/v1"
        impatient = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        patient = openai.OpenAI(base_url=url, api_key="none", max_retries=40, timeout=120)
        refusals, answers = [], []

        def ask(client):
            try:
                answers.append(client.completions.create(model="tiny-mod", prompt="Once", max_tokens=200,
                                                         extra_body={"ignore_eos": True}))
            except openai.RateLimitError as error:
                refusals.append(error)
        self.run_threads(16, lambda: ask(impatient))
        self.assertTrue(refusals)
        self.assertEqual(refusals[0].code, "queue_full")
        self.assertGreaterEqual(int(refusals[0].response.headers["retry-after"]), 1)
        self.assertTrue(answers)

        answers.clear()
        refusals.clear()
        self.run_threads(4, lambda: ask(patient))
        self.assertEqual((len(answers), refusals), (4, []))

    def run_threads(self, count, work):
        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    sluice_process.main()
