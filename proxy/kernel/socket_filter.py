"""Sockets that the kernel sorts out for (Documentation/networking/filter.rst, socket(7) on SO_ATTACH_FILTER)."""

from __future__ import annotations

import ctypes
import socket
import struct

_SO_ATTACH_FILTER = 26
_INSTRUCTION = struct.Struct("=HBBI")  # sock_filter: code, jump if true, if false, constant
_RETURN = 0x06  # BPF_RET | BPF_K


def refuse_all(sock: socket.socket) -> None:
    """From now on nothing that is sent to this datagram socket arrives. Who sends is not told, and never has to wait.

    What is in its queue already stays there. Raises OSError.
    """
    program = _INSTRUCTION.pack(_RETURN, 0, 0, 0)  # keep 0 bytes of it
    memory = ctypes.create_string_buffer(program, len(program))
    sock_fprog = struct.pack("@HP", 1, ctypes.addressof(memory))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, sock_fprog)
