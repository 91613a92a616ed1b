"""HTTP written by hand, for requests that no client library would send."""

import socket


def head(method, target, headers=None):
    """The head of an HTTP/1.1 request with one Host field."""
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def exchange(port, data, timeout=20):
    """Sends bytes and reads one answer; (status or None, headers as text, body)."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        try:
            connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all was read; the answer may still be there
        return read_answer(connection)


def read_answer(connection):
    received = b""
    while b"\r\n\r\n" not in received:
        piece = receive(connection)
        if not piece:
            return (None, "", received)
        received += piece
    head_bytes, body = received.split(b"\r\n\r\n", 1)
    head_text = head_bytes.decode("latin-1")
    length = 0
    for line in head_text.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            length = int(value)
    while len(body) < length:
        piece = receive(connection)
        if not piece:
            break
        body += piece
    return (int(head_text.split(" ")[1]), head_text, body)


def receive(connection):
    try:
        return connection.recv(65536)
    except (ConnectionResetError, socket.timeout):
        return b""
