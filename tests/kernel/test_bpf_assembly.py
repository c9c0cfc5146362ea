from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from proxy.kernel import bpf_assembly, sk_lookup
from proxy.kernel.bpf_assembly import (
    Helper,
    Label,
    Register,
    Size,
    add,
    atomic_add,
    call,
    encode,
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
from proxy.kernel.sk_lookup import Maps

R0, R1, R2, R6, R10 = Register.R0, Register.R1, Register.R2, Register.R6, Register.R10


@dataclass
class Table:
    """A map, as far as an instruction needs it."""

    name: str
    fd: int


NAMES = ("listeners", "services", "slots", "sockets", "counters")
MAPS = Maps(**{name: Table(name, 3 + place) for place, name in enumerate(NAMES)})

# The whole program with one attempt to find a socket, as the kernel sees it. Lines with # are the reader's.
PROGRAM = """
      # r6 = what is looked up; TCP (6) alone is steered
   0: r6 = r1
   1: r1 = *(u32 *)(r6 +12)
   2: if r1 != 0x6 goto pc+113
      # a key on the stack: family, port, an address of zeros …
   3: r1 = *(u32 *)(r6 +8)
   4: *(u32 *)(r10 -24) = r1
   5: r1 = *(u32 *)(r6 +60)
   6: *(u32 *)(r10 -20) = r1
   7: *(u64 *)(r10 -16) = 0
   8: *(u64 *)(r10 -8) = 0
      # … which for IPv4 (not 10, AF_INET6) is four bytes …
   9: r1 = *(u32 *)(r6 +8)
  10: if r1 == 0xa goto pc+3
  11: r1 = *(u32 *)(r6 +40)
  12: *(u32 *)(r10 -16) = r1
  13: goto pc+8
      # … and for IPv6 sixteen
  14: r1 = *(u32 *)(r6 +44)
  15: *(u32 *)(r10 -16) = r1
  16: r1 = *(u32 *)(r6 +48)
  17: *(u32 *)(r10 -12) = r1
  18: r1 = *(u32 *)(r6 +52)
  19: *(u32 *)(r10 -8) = r1
  20: r1 = *(u32 *)(r6 +56)
  21: *(u32 *)(r10 -4) = r1
      # the listener with this address, or else the one for any address, or else: pass
  22: r1 = map[listeners]
  24: r2 = r10
  25: r2 += -24
  26: call bpf_map_lookup_elem#1
  27: if r0 != 0x0 goto pc+8
  28: *(u64 *)(r10 -16) = 0
  29: *(u64 *)(r10 -8) = 0
  30: r1 = map[listeners]
  32: r2 = r10
  33: r2 += -24
  34: call bpf_map_lookup_elem#1
  35: if r0 == 0x0 goto pc+80
      # its service, and the service's current generation, or else: pass
  36: r1 = *(u32 *)(r0 +0)
  37: *(u32 *)(r10 -28) = r1
  38: r1 = map[services]
  40: r2 = r10
  41: r2 += -28
  42: call bpf_map_lookup_elem#1
  43: if r0 == 0x0 goto pc+72
  44: r1 = *(u32 *)(r0 +0)
  45: if r1 == 0x0 goto pc+70
      # that slot's sockets begin at 128 times its number
  46: *(u32 *)(r10 -28) = r1
  47: r1 <<= 7
  48: *(u32 *)(r10 -32) = r1
      # r9 = its counters
  49: r1 = map[counters]
  51: r2 = r10
  52: r2 += -28
  53: call bpf_map_lookup_elem#1
  54: if r0 == 0x0 goto pc+61
  55: r9 = r0
      # r8 = how many sockets it has for this family; r1 = the client's address
  56: r1 = map[slots]
  58: r2 = r10
  59: r2 += -28
  60: call bpf_map_lookup_elem#1
  61: if r0 == 0x0 goto pc+54
  62: r8 = *(u32 *)(r0 +0)
  63: r1 = *(u32 *)(r6 +16)
  64: r2 = *(u32 *)(r6 +8)
  65: if r2 != 0xa goto pc+11
  66: r8 = *(u32 *)(r0 +4)
  67: r1 = *(u32 *)(r10 -32)
  68: r1 += 64
  69: *(u32 *)(r10 -32) = r1
  70: r1 = *(u32 *)(r6 +20)
  71: r2 = *(u32 *)(r6 +24)
  72: r1 ^= r2
  73: r2 = *(u32 *)(r6 +28)
  74: r1 ^= r2
  75: r2 = *(u32 *)(r6 +32)
  76: r1 ^= r2
      # r7 = a hash of the client's address and port, as a place among the sockets
  77: r2 = *(u16 *)(r6 +36)
  78: r1 ^= r2
  79: r1 *= 1640531527
  80: r1 <<= 32
  81: r1 >>= 32
  82: r1 *= r8
  83: r1 >>= 32
  84: r7 = r1
      # the first attempt, and with more than one attempt more like it: the socket at this place
  85: if r8 <= 0x0 goto pc+25
  86: r1 = r7
  87: r1 += 0
  88: r1 %= r8
  89: r2 = *(u32 *)(r10 -32)
  90: r1 += r2
  91: *(u32 *)(r10 -28) = r1
  92: r1 = map[sockets]
  94: r2 = r10
  95: r2 += -28
  96: call bpf_map_lookup_elem#1
  97: if r0 == 0x0 goto pc+13
      # if it is one, and listens (10), the connection is its; not its SO_REUSEPORT group's (2)
  98: *(u64 *)(r10 -40) = r0
  99: r1 = *(u32 *)(r0 +72)
 100: if r1 != 0xa goto pc+8
 101: r1 = r6
 102: r2 = r0
 103: r3 = 2
 104: call bpf_sk_assign#124
 105: if r0 != 0x0 goto pc+3
      # steered
 106: r1 = *(u64 *)(r10 -40)
 107: call bpf_sk_release#86
 108: goto pc+5
      # refused, and with no attempt left: fallen through
 109: r1 = *(u64 *)(r10 -40)
 110: call bpf_sk_release#86
 111: r1 = 1
 112: lock *(u64 *)(r9 +8) += r1
 113: goto pc+2
      # steered: count
 114: r1 = 1
 115: lock *(u64 *)(r9 +0) += r1
      # SK_PASS
 116: r0 = 1
 117: exit
"""


@pytest.mark.parametrize(
    ("instruction", "text", "code"),
    [
        (mov(R0, 1), "r0 = 1", "b700000001000000"),
        (mov(R6, R1), "r6 = r1", "bf16000000000000"),
        (add(R2, -24), "r2 += -24", "07020000e8ffffff"),
        (add(R1, R2), "r1 += r2", "0f21000000000000"),
        (multiply(R1, R2), "r1 *= r2", "2f21000000000000"),
        (modulo(R1, R6), "r1 %= r6", "9f61000000000000"),
        (xor(R1, R2), "r1 ^= r2", "af21000000000000"),
        (shift_left(R1, 7), "r1 <<= 7", "6701000007000000"),
        (shift_right(R1, 32), "r1 >>= 32", "7701000020000000"),
        (load(Size.U32, R1, R6, 60), "r1 = *(u32 *)(r6 +60)", "61613c0000000000"),
        (load(Size.U16, R2, R6, 36), "r2 = *(u16 *)(r6 +36)", "6962240000000000"),
        (load(Size.U64, R1, R10, -40), "r1 = *(u64 *)(r10 -40)", "79a1d8ff00000000"),
        (store(Size.U32, R10, -24, R1), "*(u32 *)(r10 -24) = r1", "631ae8ff00000000"),
        (store(Size.U64, R10, -8, 0), "*(u64 *)(r10 -8) = 0", "7a0af8ff00000000"),
        (atomic_add(Size.U64, R0, 8, R1), "lock *(u64 *)(r0 +8) += r1", "db10080000000000"),
        (call(Helper.MAP_LOOKUP_ELEM), "call bpf_map_lookup_elem#1", "8500000001000000"),
        (call(Helper.SK_ASSIGN), "call bpf_sk_assign#124", "850000007c000000"),
        (load_map(R1, Table("slots", 9)), "r1 = map[slots]", "18110000090000000000000000000000"),
        (leave(), "exit", "9500000000000000"),
    ],
)
def test_instructions_read_as_the_kernel_prints_them_and_are_what_it_takes(instruction, text, code) -> None:
    assert str(instruction) == text
    assert instruction.encode().hex() == code


@pytest.mark.parametrize(
    ("comparison", "code"), [("==", 0x15), ("!=", 0x55), (">", 0x25), (">=", 0x35), ("<", 0xA5), ("<=", 0xB5)]
)
def test_comparisons_are_with_constants_or_registers(comparison, code) -> None:
    (constant, register, _) = resolve(
        [jump_if(R1, comparison, 6, "end"), jump_if(R1, comparison, R2, "end"), Label("end"), leave()]
    )
    assert str(constant) == f"if r1 {comparison} 0x6 goto pc+1"
    assert str(register) == f"if r1 {comparison} r2 goto pc+0"
    assert constant.encode() == bytes([code, 0x01, 1, 0, 6, 0, 0, 0])
    assert register.encode() == bytes([code | 8, 0x21, 0, 0, 0, 0, 0, 0])


def test_jumps_go_to_their_labels_forward_and_back_over_instructions_of_two_places() -> None:
    lines = [Label("start"), load_map(R1, Table("slots", 3)), jump("end"), jump("start"), Label("end"), leave()]
    assert bpf_assembly.disassemble(resolve(lines)) == [
        "   0: r1 = map[slots]",
        "   2: goto pc+1",
        "   3: goto pc-4",
        "   4: exit",
    ]
    assert len(encode(resolve(lines))) == 5 * 8


def test_a_jump_to_nowhere_is_an_error() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        resolve([jump("nowhere"), leave()])


def test_what_decides_where_connections_go_can_be_read() -> None:
    lines = [line for line in PROGRAM.splitlines() if line and "#" not in line.split(":")[0]]
    assert bpf_assembly.disassemble(sk_lookup.program(MAPS, probes=1)) == lines


def test_every_attempt_is_the_first_one_again_with_the_next_socket() -> None:
    def attempts(probes: int) -> list[str]:
        """The instructions without the lengths of their jumps."""
        return [re.sub(r"pc\+\d+", "pc", str(each)) for each in sk_lookup.program(MAPS, probes=probes)]

    one, three = attempts(1), attempts(3)
    begin, end = one.index("r7 = r1") + 1, len(one) - 7
    first = one[begin:end]
    expected = []
    for attempt in range(3):
        changed = {"if r8 <= 0x0 goto pc": f"if r8 <= {attempt:#x} goto pc", "r1 += 0": f"r1 += {attempt}"}
        expected += [changed.get(line, line) for line in first]
    assert three == one[:begin] + expected + one[end:]
