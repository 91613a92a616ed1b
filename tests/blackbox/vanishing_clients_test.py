"""1,000 clients connect, send all or part of a request, read a little or nothing, and vanish at random times: by a
close, by a reset, or in the middle of the head. Afterwards every page is free, descriptors and memory are as before,
and the next request is answered correctly. Everything is bounded in number and time."""

import concurrent.futures
import json
import random
import socket
import struct
import time

import sluice_process
from raw_socket import head
from sluice_process import BlackBoxTest

NUM_CLIENTS = 200 if sluice_process.SANITIZED else 1000
AT_A_TIME = 50
SEED = 42
LIMIT_S = 60.0
GOOD = {"prompt": "Once upon a time", "max_tokens": 16, "temperature": 0, "logprobs": 2}


class VanishingClientsTest(BlackBoxTest):

    def client(self, seed):
        generator = random.Random(seed)
        body = json.dumps({"prompt": "word " * generator.randint(1, 150), "max_tokens": generator.randint(1, 600),
                           "stream": generator.random() < 0.8, "ignore_eos": True, "n": generator.choice((1, 1, 3)),
                           "seed": seed}).encode()
        data = head("POST", "/v1/completions", {"Content-Type": "application/json", "Content-Length": str(len(body))}) + body
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as connection:
            if generator.random() < 0.15:
                data = data[:generator.randrange(1, len(data))]
            connection.sendall(data)
            leave_at = time.monotonic() + generator.expovariate(1 / 0.15)
            try:
                while (left := leave_at - time.monotonic()) > 0:
                    connection.settimeout(left)
                    if generator.random() < 0.5 and not connection.recv(generator.choice((1, 100, 4096))):
                        break
            except (socket.timeout, ConnectionResetError):
                pass
            how = generator.random()
            if how < 0.4:  # reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif how < 0.6:  # half-close first
                try:
                    connection.shutdown(socket.SHUT_WR)
                except OSError:
                    pass

    def crowd(self, count, first_seed):
        with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(self.client, range(first_seed, first_seed + count)))
        self.assertEqual(self.server.wait_idle(30), 0, "pages or requests left")

    def test_nothing_leaks(self):
        expected = self.server.complete(**GOOD)["choices"][0]
        self.crowd(100, SEED)  # allocators and pools reach their working size
        time.sleep(0.2)
        descriptors, memory = self.server.num_file_descriptors(), self.server.resident_bytes()
        started = time.monotonic()
        self.crowd(NUM_CLIENTS, SEED + 1000)
        self.assertLess(time.monotonic() - started, LIMIT_S)

        deadline = time.monotonic() + 5
        while self.server.num_file_descriptors() > descriptors and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertLessEqual(self.server.num_file_descriptors(), descriptors)
        metrics = self.server.metrics()
        self.assertEqual(metrics.value("sluice_kv_pages", state="used"), 0)
        self.assertEqual(metrics.value("sluice_invariant_violations_total"), 0)
        self.assertGreater(metrics.value("sluice_cancellations_total"), 0)
        if not sluice_process.SANITIZED:
            grown = self.server.resident_bytes() - memory
            self.assertLess(grown, 32 << 20, "resident memory grew")
        self.assertEqual(self.server.complete(**GOOD)["choices"][0], expected)


if __name__ == "__main__":
    sluice_process.main()
