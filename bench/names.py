"""A name server for servers that cannot do without one: every MX is one host, every host is 127.0.0.1. Its address is the argument."""
import socket, struct, sys

A, MX = 1, 15
HOST = b"\x02mx\x04sink\x04test\x00"


def answer(query):
    end = 12
    while query[end]:
        end += query[end] + 1
    kind = struct.unpack("!H", query[end + 1:end + 3])[0]
    data = {A: bytes([127, 0, 0, 1]), MX: struct.pack("!H", 10) + HOST}.get(kind)
    records = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 300, len(data)) + data if data else b""
    return query[:2] + b"\x85\x80" + struct.pack("!HHHH", 1, bool(data), 0, 0) + query[12:end + 5] + records


def main():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((sys.argv[1], 53))
    while True:
        query, client = server.recvfrom(1500)
        try:
            server.sendto(answer(query), client)
        except (IndexError, struct.error):
            pass


if __name__ == "__main__":
    main()
