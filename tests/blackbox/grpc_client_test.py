"""grpcio against the gRPC front end: the same tokens as HTTP, statuses with codes and params, health, reflection,
deadlines, cancel. Message classes come from the .proto file by protoc, so no generated code is kept here."""

import json
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time
import unittest

import sluice_process
from sluice_process import ROOT, BlackBoxTest, Sluice

try:
    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
except ImportError:
    grpc = None

MISSING = grpc is None or not shutil.which("protoc")
SERVICE = "sluice.v1.GenerationService"
PROMPT = "Once upon a time"


def load_messages():
    """All message classes of the .proto file by full name."""
    with tempfile.TemporaryDirectory() as folder:
        described = pathlib.Path(folder) / "all.pb"
        subprocess.run(["protoc", f"--proto_path={ROOT / 'proto'}", "--include_imports",
                        f"--descriptor_set_out={described}", "sluice/v1/generation.proto"], check=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return message_factory.GetMessageClassesForFiles([file.name for file in files.file], pool)


@unittest.skipIf(MISSING, "grpcio is not installed (tools/python_env.sh build/venv) or protoc is missing")
class GrpcTest(BlackBoxTest):
    flags = ("--allow-routing-trace",)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.types = {name.rsplit(".", 1)[1]: kind for name, kind in load_messages().items()
                     if name.startswith("sluice.v1.")}
        cls.channel = grpc.insecure_channel(f"127.0.0.1:{cls.server.grpc_port}")
        grpc.channel_ready_future(cls.channel).result(timeout=20)

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        super().tearDownClass()

    def generate(self, timeout=60, **fields):
        call = self.channel.unary_stream(f"/{SERVICE}/Generate",
                                         request_serializer=lambda message: message.SerializeToString(),
                                         response_deserializer=self.types["GenerateResponse"].FromString)
        return call(self.types["GenerateRequest"](**fields), timeout=timeout)

    def unary(self, method, response, data, timeout=20):
        call = self.channel.unary_unary(method, request_serializer=bytes, response_deserializer=response)
        return call(data, timeout=timeout)

    def call(self, method, request, response, **fields):
        return self.unary(f"/{SERVICE}/{method}", self.types[response].FromString,
                          self.types[request](**fields).SerializeToString())

    def assert_status(self, code, call, reason=None, param=None):
        with self.assertRaises(grpc.RpcError) as caught:
            list(call) if hasattr(call, "__iter__") else call()
        error = caught.exception
        self.assertEqual(error.code(), code, error.details())
        if reason:
            # google.rpc.Status with an ErrorInfo; its strings are enough to look for.
            details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
            self.assertIn(reason.encode(), details)
            self.assertIn(param.encode(), details)

    def test_same_tokens_as_http(self):
        for fields in ({"temperature": 0}, {"temperature": 0.9, "seed": 11}, {"seed": 11}):
            over_http = self.server.complete(prompt=PROMPT, max_tokens=24, return_token_ids=True, logprobs=2, **fields)
            responses = list(self.generate(text=PROMPT, max_tokens=24, return_token_ids=True, logprobs=2, **fields))
            choice = over_http["choices"][0]
            self.assertEqual([token for response in responses for token in response.token_ids], choice["token_ids"])
            self.assertEqual("".join(response.text for response in responses), choice["text"])
            ours = [entry.logprob for response in responses for entry in response.logprobs]
            for mine, theirs in zip(ours, choice["logprobs"]["token_logprobs"], strict=True):
                self.assertAlmostEqual(mine, theirs, delta=1e-6 * abs(theirs))
            usage = responses[-1].usage
            compute = over_http["usage"]["compute"]
            self.assertEqual(usage.prompt_tokens, over_http["usage"]["prompt_tokens"])
            self.assertEqual(usage.compute.executed_token_layers, compute["executed_token_layers"])
            self.assertEqual(usage.compute.skipped_token_layers, compute["skipped_token_layers"])
            self.assertGreater(usage.compute.skipped_ratio_all_layers, 0.3)

    def test_it_streams(self):
        # Events that wait for the writer are merged, so the answer is long against a writer that is held up.
        responses = list(self.generate(text=PROMPT, max_tokens=600, temperature=0, ignore_eos=True))
        self.assertGreater(len([response for response in responses if response.text]), 4)
        self.assertEqual(responses[-1].usage.completion_tokens, 600)

    def test_compute_in_trailing_metadata(self):
        call = self.generate(text=PROMPT, max_tokens=4)
        list(call)
        names = [name for name, _ in call.trailing_metadata()]
        self.assertTrue(any(name.startswith("sluice-") for name in names), names)

    def test_tokenize_and_back(self):
        ids = list(self.call("Tokenize", "TokenizeRequest", "TokenizeResponse", text=PROMPT).ids)
        self.assertEqual(ids, self.server.post("/tokenize", {"prompt": PROMPT}).json()["tokens"])
        self.assertIn(PROMPT, self.call("Detokenize", "DetokenizeRequest", "DetokenizeResponse", ids=ids).text)

    def test_model_facts(self):
        model = self.call("GetModel", "GetModelRequest", "Model")
        self.assertEqual((model.id, model.vocab_size, list(model.routed_layers)), ("tiny-mod", 4096, ["1", "3", "5", "7"]))
        json.loads(model.spec_json)
        defaults = model.sampling_defaults
        self.assertEqual((defaults.temperature, defaults.top_p, defaults.repetition_penalty), (0.4, 0.9, 1.1))

    def test_bad_requests(self):
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        for fields, reason, param in (({}, "empty_prompt", "prompt"), ({"text": ""}, "empty_prompt", "prompt"),
                                      ({"token_ids": {"ids": [-1]}}, "token_out_of_vocab", "prompt"),
                                      ({"text": "a", "max_tokens": 0}, "integer_out_of_range", "max_tokens"),
                                      ({"text": "a", "max_tokens": 2000}, "context_length_exceeded", "max_tokens"),
                                      ({"text": "a", "temperature": float("nan")}, "number_out_of_range", "temperature"),
                                      ({"text": "a", "top_p": 0}, "number_out_of_range", "top_p"),
                                      ({"text": "a", "n": 17}, "integer_out_of_range", "n"),
                                      ({"text": "a", "routing": {"mode": "magic"}}, "unsupported_parameter", "routing.mode"),
                                      ({"chat": {"messages": []}}, "empty", "messages")):
            with self.subTest(fields=fields):
                self.assert_status(invalid, self.generate(**fields), reason, param)
        self.assert_status(grpc.StatusCode.NOT_FOUND, self.generate(text="a", model="gpt-4"), "model_not_found", "model")

    def test_bytes_that_are_no_message(self):  # 19
        call = self.channel.unary_stream(f"/{SERVICE}/Generate", request_serializer=bytes, response_deserializer=bytes)
        for data in (b"\xff\xff\xff", b"\x12\x05\xff\xfe\xfd\xfc\xfb", b"\x0a\xff\xff\xff\xff\x0f"):
            self.assert_status(grpc.StatusCode.INVALID_ARGUMENT, call(data, timeout=10))
        self.assert_status(grpc.StatusCode.UNIMPLEMENTED, self.channel.unary_stream(f"/{SERVICE}/Nothing")(b"", timeout=10))

    def test_deadline(self):
        self.assert_status(grpc.StatusCode.DEADLINE_EXCEEDED,
                           self.generate(text=PROMPT, max_tokens=900, ignore_eos=True, timeout_ms=20))
        self.assertEqual(self.server.wait_idle(), 0)

    def test_cancel_frees_pages(self):
        calls = [self.generate(text=PROMPT, max_tokens=900, ignore_eos=True) for _ in range(20)]
        for call in calls:
            next(call)
            call.cancel()
        self.assertEqual(self.server.wait_idle(), 0)

    def test_health(self):
        answer = self.unary("/grpc.health.v1.Health/Check", bytes, b"")
        self.assertEqual(answer, b"\x08\x01")  # status: SERVING
        named = b"\x0a" + bytes([len(SERVICE)]) + SERVICE.encode()
        self.assertEqual(self.unary("/grpc.health.v1.Health/Check", bytes, named), b"\x08\x01")

    def test_reflection_lists_the_services(self):
        call = self.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                                          request_serializer=bytes, response_deserializer=bytes)
        answer = next(call(iter([b"\x3a\x01*"]), timeout=10))  # list_services: "*"
        self.assertIn(SERVICE.encode(), answer)

    def test_watch_routing(self):
        call = self.channel.unary_stream(f"/{SERVICE}/WatchRouting", request_serializer=bytes,
                                         response_deserializer=self.types["RoutingWindow"].FromString)
        windows = call(b"", timeout=30)
        stop = threading.Event()

        def load():
            while not stop.is_set():
                self.server.complete(prompt="word " * 200, max_tokens=100, ignore_eos=True)
        worker = threading.Thread(target=load)
        worker.start()
        try:
            window = next(windows)
        finally:
            stop.set()
            worker.join()
            windows.cancel()
        self.assertEqual([layer.layer for layer in window.depth_layers], ["1", "3", "5", "7"])
        for layer in window.depth_layers:
            self.assertGreaterEqual(layer.executed_rows + layer.skipped_rows, 1000)


@unittest.skipIf(MISSING, "grpcio is not installed (tools/python_env.sh build/venv) or protoc is missing")
class DrainTest(unittest.TestCase):

    def test_health_goes_down_and_streams_end(self):
        types = {name.rsplit(".", 1)[1]: kind for name, kind in load_messages().items()}
        with Sluice("--drain-timeout", "100") as server, \
                grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            generate = channel.unary_stream(f"/{SERVICE}/Generate", request_serializer=lambda m: m.SerializeToString(),
                                            response_deserializer=types["GenerateResponse"].FromString)
            health = channel.unary_unary("/grpc.health.v1.Health/Check", request_serializer=bytes,
                                         response_deserializer=bytes)
            request = types["GenerateRequest"](text=PROMPT, max_tokens=900, ignore_eos=True)
            running = [generate(request, timeout=60) for _ in range(4)]
            for call in running:
                next(call)
            server.process.terminate()
            deadline = time.monotonic() + 2
            while health(b"", timeout=5) != b"\x08\x02":  # NOT_SERVING
                self.assertLess(time.monotonic(), deadline)
            with self.assertRaises(grpc.RpcError) as caught:
                next(generate(request, timeout=10))
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
            for call in running:
                *_, last = call
                self.assertEqual(last.usage.completion_tokens, 900)
            self.assertEqual(server.process.wait(30), 0)


if __name__ == "__main__":
    sluice_process.main()
