"""Instructions of a BPF program, as a list that a reader can follow (RFC 9669; in Linux Documentation/bpf).

There is no compiler: a program is a list of what the functions here return, with names for the places that it jumps to.
Instructions are eight bytes: an opcode, two registers of four bits, an offset and a constant ("immediate").
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ENCODING = struct.Struct("<BBhi")  # opcode, source << 4 | destination, offset, immediate
_CLASS = 0x07
_LDX, _ST, _STX, _ALU, _JMP = 0x1, 0x2, 0x3, 0x7, 0x5  # classes; arithmetic and jumps are those on 64 bits
_X = 0x08  # the second operand is a register, not the constant
_MEM, _ATOMIC = 0x60, 0xC0  # how memory is reached
_LOAD_CONSTANT = 0x18  # BPF_LD | BPF_IMM | BPF_DW: 64 bits of constant, in two places
_MAP_DESCRIPTOR = 1  # BPF_PSEUDO_MAP_FD: the constant is the descriptor of a map, and the register gets its address
_GOTO, _CALL, _EXIT = 0x05, 0x85, 0x95
_OPERATORS = {"+=": 0x00, "*=": 0x20, "<<=": 0x60, ">>=": 0x70, "%=": 0x90, "^=": 0xA0, "=": 0xB0}
_COMPARISONS = {"==": 0x10, ">": 0x20, ">=": 0x30, "!=": 0x50, "<": 0xA0, "<=": 0xB0}
_OPERATOR_NAMES = {code: name for name, code in _OPERATORS.items()}
_COMPARISON_NAMES = {code: name for name, code in _COMPARISONS.items()}


class Register(IntEnum):
    """r0: a result; r1 to r5: arguments, lost by a call; r6 to r9: kept; r10: the end of 512 bytes of stack."""

    R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)


class Size(IntEnum):
    """How much memory an instruction reads or writes."""

    U32, U16, U8, U64 = 0x00, 0x08, 0x10, 0x18


class Helper(IntEnum):
    """What programs may call (bpf-helpers(7)). None of these asks for a licence compatible with the GPL."""

    MAP_LOOKUP_ELEM = 1
    SK_RELEASE = 86
    SK_ASSIGN = 124


class HasDescriptor(Protocol):
    """A map, as far as an instruction needs it."""

    @property
    def fd(self) -> int: ...

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction. `target`: the label it jumps to; `name`: what a constant stands for."""

    opcode: int
    destination: int = 0
    source: int = 0
    offset: int = 0
    immediate: int = 0
    target: str = ""
    name: str = ""

    @property
    def places(self) -> int:
        """How many places of eight bytes it takes: jumps count these."""
        return 2 if self.opcode == _LOAD_CONSTANT else 1

    def encode(self) -> bytes:
        first = _ENCODING.pack(self.opcode, self.source << 4 | self.destination, self.offset, self.immediate)
        return first.ljust(self.places * _ENCODING.size, b"\0")

    def __str__(self) -> str:
        return _text(self)


@dataclass(frozen=True, slots=True)
class Label:
    """A place in a program that jumps name; it takes no room."""

    name: str


def mov(destination: Register, value: Register | int) -> Instruction:
    return _arithmetic("=", destination, value)


def add(destination: Register, value: Register | int) -> Instruction:
    return _arithmetic("+=", destination, value)


def multiply(destination: Register, value: Register | int) -> Instruction:
    return _arithmetic("*=", destination, value)


def xor(destination: Register, value: Register | int) -> Instruction:
    return _arithmetic("^=", destination, value)


def shift_left(destination: Register, bits: int) -> Instruction:
    return _arithmetic("<<=", destination, bits)


def shift_right(destination: Register, bits: int) -> Instruction:
    """Zeros come in from the left."""
    return _arithmetic(">>=", destination, bits)


def modulo(destination: Register, value: Register | int) -> Instruction:
    """The rest of an unsigned division; a division by zero leaves the register as it is."""
    return _arithmetic("%=", destination, value)


def load(size: Size, destination: Register, base: Register, offset: int = 0) -> Instruction:
    return Instruction(_LDX | _MEM | size, destination, base, offset)


def load_map(destination: Register, table: HasDescriptor) -> Instruction:
    """Put a map's address in the register; the program keeps the map alive from the moment it is loaded."""
    return Instruction(_LOAD_CONSTANT, destination, _MAP_DESCRIPTOR, immediate=table.fd, name=table.name)


def store(size: Size, base: Register, offset: int, value: Register | int) -> Instruction:
    if isinstance(value, Register):
        return Instruction(_STX | _MEM | size, base, value, offset)
    return Instruction(_ST | _MEM | size, base, 0, offset, value)


def atomic_add(size: Size, base: Register, offset: int, value: Register) -> Instruction:
    return Instruction(_STX | _ATOMIC | size, base, value, offset)


def jump(target: str) -> Instruction:
    return Instruction(_GOTO, target=target)


def jump_if(left: Register, comparison: str, right: Register | int, target: str) -> Instruction:
    """Jump where the comparison, of 64 bits without a sign, holds: ==, !=, <, <=, > or >=."""
    opcode = _JMP | _COMPARISONS[comparison]
    if isinstance(right, Register):
        return Instruction(opcode | _X, left, right, target=target)
    return Instruction(opcode, left, immediate=right, target=target)


def call(helper: Helper) -> Instruction:
    return Instruction(_CALL, immediate=helper, name=f"bpf_{helper.name.lower()}")


def leave() -> Instruction:
    """End the program; its result is in r0."""
    return Instruction(_EXIT)


def resolve(lines: Iterable[Instruction | Label]) -> list[Instruction]:
    """Take the labels out, and give every jump its offset. KeyError: a label that is nowhere."""
    places: dict[str, int] = {}
    instructions: list[tuple[int, Instruction]] = []
    place = 0
    for line in lines:
        if isinstance(line, Label):
            places[line.name] = place
        else:
            instructions.append((place, line))
            place += line.places
    return [
        dataclasses.replace(each, offset=places[each.target] - place - 1) if each.target else each
        for place, each in instructions
    ]


def encode(instructions: Iterable[Instruction]) -> bytes:
    return b"".join(each.encode() for each in instructions)


def disassemble(instructions: Sequence[Instruction]) -> list[str]:
    """One line for each instruction, with its place, in the words of the kernel's own verifier and of bpftool(8)."""
    lines: list[str] = []
    place = 0
    for each in instructions:
        lines.append(f"{place:>4}: {each}")
        place += each.places
    return lines


def _arithmetic(operator: str, destination: Register, value: Register | int) -> Instruction:
    opcode = _ALU | _OPERATORS[operator]
    if isinstance(value, Register):
        return Instruction(opcode | _X, destination, value)
    return Instruction(opcode, destination, immediate=value)


def _text(each: Instruction) -> str:
    if each.opcode == _LOAD_CONSTANT:
        return f"r{each.destination} = map[{each.name}]"
    if each.opcode == _GOTO:
        return f"goto pc{each.offset:+}"
    if each.opcode == _CALL:
        return f"call {each.name}#{each.immediate}"
    if each.opcode == _EXIT:
        return "exit"
    kind, right = each.opcode & _CLASS, f"r{each.source}"
    if kind == _LDX:
        return f"r{each.destination} = {_memory(each, each.source)}"
    if kind in {_ST, _STX}:
        lock, equals = ("lock ", "+=") if each.opcode & _ATOMIC == _ATOMIC else ("", "=")
        return f"{lock}{_memory(each, each.destination)} {equals} {right if kind == _STX else each.immediate}"
    if kind == _JMP:
        right = right if each.opcode & _X else hex(each.immediate)
        return f"if r{each.destination} {_COMPARISON_NAMES[each.opcode & 0xF0]} {right} goto pc{each.offset:+}"
    return f"r{each.destination} {_OPERATOR_NAMES[each.opcode & 0xF0]} {right if each.opcode & _X else each.immediate}"


def _memory(each: Instruction, base: int) -> str:
    return f"*({Size(each.opcode & 0x18).name.lower()} *)(r{base} {each.offset:+})"
