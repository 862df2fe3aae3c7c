"""What toxiproxy-python says about the server at $TOXIPROXY, and what its toxics do to a connection."""

import os
import socket
import threading
import time

import toxiproxy
from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists


def echo():
    """An upstream that gives back what it gets; its address."""

    def serve(client):
        try:
            while data := client.recv(65536):
                client.sendall(data)
        except OSError:
            pass
        client.close()

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, daemon=True).start()
    return "127.0.0.1:%d" % listener.getsockname()[1]


def exchange(listen, count=100):
    """Seconds that an exchange takes."""
    host, port = listen.rsplit(":", 1)
    start = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(b"x" * count)
        got = 0
        while got < count:
            data = client.recv(65536)
            if not data:
                return got
            got += len(data)
    return time.monotonic() - start


def raises(error, call):
    try:
        call()
    except error:
        return True
    return False


def main():
    server = toxiproxy.Toxiproxy()
    host, port = os.environ["TOXIPROXY"].split("//")[1].split(":")
    server.update_api_consumer(host, int(port))
    assert server.running()
    assert server.version().startswith(b'{"version": "2.')
    upstream = echo()
    proxy = server.create(upstream=upstream, name="echo")
    assert raises(ProxyExists, lambda: server.create(upstream=upstream, name="echo"))
    exchange(proxy.listen)

    proxy.add_toxic(type="latency", attributes={"latency": 150})
    assert exchange(proxy.listen) >= 0.15
    assert proxy.get_toxic("latency_downstream").attributes == {"latency": 150, "jitter": 0}
    assert raises(ProxyExists, lambda: proxy.add_toxic(type="latency"))
    assert raises(InvalidToxic, lambda: proxy.add_toxic(type="fear"))
    assert proxy.destroy_toxic("latency_downstream")
    assert raises(NotFound, lambda: proxy.destroy_toxic("latency_downstream"))

    proxy.add_toxic(type="reset_peer", stream="upstream", attributes={"timeout": 0})
    assert raises(ConnectionResetError, lambda: exchange(proxy.listen))
    assert server.reset()
    assert proxy.toxics() == {}
    proxy.add_toxic(type="limit_data", attributes={"bytes": 50})
    assert exchange(proxy.listen) == 50
    assert proxy.destroy_toxic("limit_data_downstream")

    with proxy.down():
        assert raises(ConnectionRefusedError, lambda: exchange(proxy.listen))
    exchange(proxy.listen)
    made = server.populate([
        {"name": "echo", "upstream": upstream, "listen": proxy.listen},
        {"name": "other", "upstream": upstream, "listen": "127.0.0.1:0"},
    ])
    assert [one.name for one in made] == ["other"]
    server.destroy_all()
    assert server.proxies() == {}


main()
