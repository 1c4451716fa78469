"""Attacks that want to talk to somebody: loopback listeners of the bait stand for the network."""

from eco.sandbox.attacks.contract import Attack

ATTACKS = [
    Attack(
        "TCP connection",
        "connects to a listener on loopback, where databases and cloud metadata live",
        """
import socket
def attack(bait):
    with socket.create_connection(("127.0.0.1", bait["tcp"]), timeout=1) as connection:
        connection.sendall(b"hello")
    return "connected"
""",
    ),
    Attack(
        "UDP packet",
        "sends one datagram, as a query to a name server would",
        """
import socket
def attack(bait):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", ("127.0.0.1", bait["udp"]))
""",
    ),
    Attack(
        "raw packets",
        "opens a raw socket, to forge or overhear packets",
        """
import socket
def attack(bait):
    reached = []
    for family, protocol in [("AF_INET", 1), ("AF_INET6", 58), ("AF_PACKET", 768)]:
        try:
            socket.socket(getattr(socket, family), socket.SOCK_RAW, protocol).close()
            reached.append(family)
        except (OSError, AttributeError):
            pass
    return reached and "raw sockets: " + ", ".join(reached)
""",
        uncontrolled=True,
    ),
    Attack(
        "Unix socket on a path",
        "connects to a service by a file, as to Docker's or D-Bus's",
        """
import socket
def attack(bait):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(bait["unix"])
""",
    ),
    Attack(
        "abstract Unix socket",
        "connects to a service by a name that no file system guards",
        """
import socket
def attack(bait):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\\0" + bait["abstract"])
""",
    ),
    Attack(
        "datagram by a socket pair",
        "sends to the sockets of services from one end of a pair, which needs neither socket() nor connect()",
        """
import socket
def attack(bait):
    for address in (bait["datagram"], "\\0" + bait["abstract"]):
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            near.sendto(b"hello", address)
        except OSError:
            pass
""",
    ),
]
