"""The instructions of the program that sk_lookup.py describes, for the kernel's verifier and for whoever reads them.

Connections are spread over a generation's sockets by the client's address and port, as SO_REUSEPORT does it, and not
in turn: while a listener sends SYN cookies (a flood, or net.ipv4.tcp_syncookies = 2), the packet that completes a
handshake is looked up as its first one was, and only the socket that sent the cookie takes it back.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from proxy.kernel.bpf_assembly import (
    Helper,
    Instruction,
    Label,
    Register,
    Size,
    add,
    atomic_add,
    call,
    jump,
    jump_if,
    leave,
    load,
    load_map,
    modulo,
    mov,
    multiply,
    resolve,
    shift_left,
    shift_right,
    store,
    xor,
)

if TYPE_CHECKING:
    from proxy.kernel.bpf import Map
    from proxy.kernel.sk_lookup import Maps

SOCKETS_PER_SLOT = 64  # of each family
PROBES = 8  # sockets tried for one connection, before it falls through

_R0, _R1, _R2, _R3, _, _, _CTX, _START, _COUNT, _COUNTERS, _STACK = Register
_U16, _U32, _U64 = Size.U16, Size.U32, Size.U64
_SK_PASS = 1
_GOLDEN_RATIO = 0x61C88647  # GOLDEN_RATIO_32, linux/hash.h: ports that follow each other are spread evenly
_NO_REUSEPORT = 2  # BPF_SK_LOOKUP_F_NO_REUSEPORT: this socket, not another of its SO_REUSEPORT group
_TCP_LISTEN = 10

# struct bpf_sk_lookup: the local port in the host's byte order, the rest as on the wire.
_FAMILY, _PROTOCOL = 8, 12
_REMOTE_IP4, _REMOTE_IP6, _REMOTE_PORT = 16, 20, 36
_LOCAL_IP4, _LOCAL_IP6, _LOCAL_PORT = 40, 44, 60
_STATE = 72  # struct bpf_sock: state

# The stack, below r10: a key of `listeners`, 24 bytes, and what does not fit into registers.
_KEY = -24
_KEY_FAMILY, _KEY_PORT, _KEY_ADDRESS = _KEY, _KEY + 4, _KEY + 8
_INDEX, _FIRST_SOCKET, _SOCKET = -28, -32, -40

# The values of `slots` and of `counters`.
_COUNT4, _COUNT6 = 0, 4
_STEERED, _FALLEN = 0, 8

Lines = list[Instruction | Label]


def program(maps: Maps, *, probes: int = PROBES) -> list[Instruction]:
    """All of it, in the order in which it runs. No loop: what verifiers make of one differs between kernels."""
    tries = [line for attempt in range(probes) for line in _try_socket(maps, attempt)]
    return resolve([*_key(), *_service(maps), *_generation(maps), *_choose(), *tries, *_end(probes)])


def _key() -> Lines:
    """What the packet is for, as a key on the stack; anything but TCP passes."""
    return [
        mov(_CTX, _R1),
        load(_U32, _R1, _CTX, _PROTOCOL),
        jump_if(_R1, "!=", socket.IPPROTO_TCP, "pass"),
        *_copy(_FAMILY, _KEY_FAMILY),
        *_copy(_LOCAL_PORT, _KEY_PORT),
        *_no_address(),
        load(_U32, _R1, _CTX, _FAMILY),
        jump_if(_R1, "==", socket.AF_INET6, "ipv6"),
        *_copy(_LOCAL_IP4, _KEY_ADDRESS),
        jump("listener"),
        Label("ipv6"),
        *(line for word in range(0, 16, 4) for line in _copy(_LOCAL_IP6 + word, _KEY_ADDRESS + word)),
    ]


def _service(maps: Maps) -> Lines:
    """From the key, first with its address and then without, to the service's entry in r0."""
    return [
        Label("listener"),
        *_look_up(maps.listeners, _KEY),
        jump_if(_R0, "!=", 0, "service"),
        *_no_address(),
        *_look_up(maps.listeners, _KEY),
        jump_if(_R0, "==", 0, "pass"),
        Label("service"),
        load(_U32, _R1, _R0),
        store(_U32, _STACK, _INDEX, _R1),
        *_look_up(maps.services, _INDEX),
        jump_if(_R0, "==", 0, "pass"),
    ]


def _generation(maps: Maps) -> Lines:
    """From the service's current generation to its counters, how many sockets it has and from where; r1 = client."""
    return [
        load(_U32, _R1, _R0),
        jump_if(_R1, "==", 0, "pass"),
        store(_U32, _STACK, _INDEX, _R1),
        shift_left(_R1, (2 * SOCKETS_PER_SLOT).bit_length() - 1),
        store(_U32, _STACK, _FIRST_SOCKET, _R1),
        *_look_up(maps.counters, _INDEX),
        jump_if(_R0, "==", 0, "pass"),
        mov(_COUNTERS, _R0),
        *_look_up(maps.slots, _INDEX),
        jump_if(_R0, "==", 0, "pass"),
        load(_U32, _COUNT, _R0, _COUNT4),
        load(_U32, _R1, _CTX, _REMOTE_IP4),
        load(_U32, _R2, _CTX, _FAMILY),
        jump_if(_R2, "!=", socket.AF_INET6, "sockets"),
        load(_U32, _COUNT, _R0, _COUNT6),
        load(_U32, _R1, _STACK, _FIRST_SOCKET),
        add(_R1, SOCKETS_PER_SLOT),
        store(_U32, _STACK, _FIRST_SOCKET, _R1),
        load(_U32, _R1, _CTX, _REMOTE_IP6),
        *(line for word in (4, 8, 12) for line in [load(_U32, _R2, _CTX, _REMOTE_IP6 + word), xor(_R1, _R2)]),
        Label("sockets"),
    ]


def _choose() -> Lines:
    """From the client (in r1) to the first of the sockets to try: its place among the generation's."""
    return [
        load(_U16, _R2, _CTX, _REMOTE_PORT),
        xor(_R1, _R2),
        multiply(_R1, _GOLDEN_RATIO),
        *_low_half(_R1),  # a fraction of 2^32 …
        multiply(_R1, _COUNT),
        shift_right(_R1, 32),  # … of the number of sockets
        mov(_START, _R1),
    ]


def _try_socket(maps: Maps, attempt: int) -> Lines:
    """Give the connection to the socket so many places after the first; to the next attempt if there is none."""
    refused, following = f"refused {attempt}", f"try {attempt + 1}"
    return [
        Label(f"try {attempt}"),
        jump_if(_COUNT, "<=", attempt, "fallen"),
        mov(_R1, _START),
        add(_R1, attempt),
        modulo(_R1, _COUNT),
        load(_U32, _R2, _STACK, _FIRST_SOCKET),
        add(_R1, _R2),
        store(_U32, _STACK, _INDEX, _R1),
        *_look_up(maps.sockets, _INDEX),
        jump_if(_R0, "==", 0, following),
        store(_U64, _STACK, _SOCKET, _R0),
        # A socket stays in the map after shutdown(2), and would swallow the connection.
        load(_U32, _R1, _R0, _STATE),
        jump_if(_R1, "!=", _TCP_LISTEN, refused),
        mov(_R1, _CTX),
        mov(_R2, _R0),
        mov(_R3, _NO_REUSEPORT),
        call(Helper.SK_ASSIGN),
        jump_if(_R0, "!=", 0, refused),
        *_release(),
        jump("steered"),
        Label(refused),
        *_release(),
    ]


def _end(probes: int) -> Lines:
    """The packet passes in any case: without a socket assigned, the kernel looks for a listener as it always does."""
    return [
        Label(f"try {probes}"),
        Label("fallen"),
        *_count(_FALLEN),
        jump("pass"),
        Label("steered"),
        *_count(_STEERED),
        Label("pass"),
        mov(_R0, _SK_PASS),
        leave(),
    ]


def _copy(source: int, target: int) -> Lines:
    """Four bytes from the packet's description to the stack."""
    return [load(_U32, _R1, _CTX, source), store(_U32, _STACK, target, _R1)]


def _low_half(register: Register) -> Lines:
    return [shift_left(register, 32), shift_right(register, 32)]


def _no_address() -> Lines:
    return [store(_U64, _STACK, _KEY_ADDRESS, 0), store(_U64, _STACK, _KEY_ADDRESS + 8, 0)]


def _look_up(table: Map, key: int) -> Lines:
    """r0 = the address of the value (of a SOCKMAP: a socket, to be released), or 0; r1 to r5 are lost."""
    return [load_map(_R1, table), mov(_R2, _STACK), add(_R2, key), call(Helper.MAP_LOOKUP_ELEM)]


def _release() -> Lines:
    return [load(_U64, _R1, _STACK, _SOCKET), call(Helper.SK_RELEASE)]


def _count(counter: int) -> Lines:
    return [mov(_R1, 1), atomic_add(_U64, _COUNTERS, counter, _R1)]
