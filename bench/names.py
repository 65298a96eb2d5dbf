"""A name server for servers that cannot do without one: every MX is one host, every host has one address.

  names.py ADDRESS [HOST [DOMAIN=HOST [SITES]]]

It listens on port 53 of ADDRESS; HOST is 127.0.0.1 if not given; a DOMAIN may have another. With SITES, the domains dN.example
share so many exchanges in turn.
"""
import socket, struct, sys

A, MX = 1, 15
TEST, APART = b"\x04test\x00", b"\x05apart\x04test\x00"


def exchange(name, sites):
    """The exchange of a domain."""
    digits = bytes(octet for octet in name[1:name[0] + 1] if 48 <= octet < 58) or b"0"
    label = b"sink%d" % (int(digits) % sites)
    return bytes([len(label)]) + label + TEST


def answer(query, host, apart, sites):
    """`apart`: the domain with another host, and that host."""
    end = 12
    while query[end]:
        end += query[end] + 1
    name, kind = query[12:end + 1].lower(), struct.unpack("!H", query[end + 1:end + 3])[0]
    data = {A: apart[1] if name == APART else host, MX: struct.pack("!H", 10) + (APART if name == apart[0] else exchange(name, sites))}.get(kind)
    records = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 300, len(data)) + data if data else b""
    return query[:2] + b"\x85\x80" + struct.pack("!HHHH", 1, bool(data), 0, 0) + query[12:end + 5] + records


def main():
    host = socket.inet_aton(sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1")
    domain, _, other = (sys.argv[3] if len(sys.argv) > 3 else "=127.0.0.1").partition("=")
    sites = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    labels = b"".join(bytes([len(label)]) + label.encode() for label in domain.split(".") if label) + b"\x00"
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    # A hundred thousand questions come at once.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    server.bind((sys.argv[1], 53))
    while True:
        query, client = server.recvfrom(1500)
        try:
            server.sendto(answer(query, host, (labels, socket.inet_aton(other)), sites), client)
        except (IndexError, struct.error):
            pass


if __name__ == "__main__":
    main()
