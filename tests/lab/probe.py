"""One attempt to reach an address, told in one word: served, refused, silent or unreachable.

`probe tcp|udp|ping ADDRESS [PORT]`, run inside the namespace that tries. `probe talk ADDRESS PORT` opens a connection
and makes an attempt over it for every line that it reads.
"""

import errno
import socket
import subprocess
import sys

WAIT_S = 2.0


def tcp(address: str, port: int) -> str:
    with socket.create_connection((address, port), timeout=WAIT_S) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")
        return "served" if connection.recv(100) else "refused"


def udp(address: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(WAIT_S)
        sock.connect((address, port))
        sock.send(b"1")
        return "served" if sock.recv(100) else "refused"


def ping(address: str, _: int) -> str:
    done = subprocess.run(["ping", "-c", "1", "-W", "2", address], capture_output=True, check=False)
    if done.returncode == 0:
        return "served"
    return "refused" if b"nreachable" in done.stdout else "silent"


def talk(address: str, port: int) -> str:
    with socket.create_connection((address, port), timeout=WAIT_S) as connection:
        print("open", flush=True)
        for _ in sys.stdin:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
            print("served" if connection.recv(4096) else "refused", flush=True)
    return "closed"


def probe(kind: str, address: str, port: int = 0) -> str:
    try:
        return {"tcp": tcp, "udp": udp, "ping": ping, "talk": talk}[kind](address, port)
    except ConnectionError:
        return "refused"
    except TimeoutError:
        return "silent"
    except OSError as error:
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            return "unreachable"
        raise


if __name__ == "__main__":
    print(probe(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0))
