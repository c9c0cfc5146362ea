"""What this machine allows a proxy, one finding for each thing: how it is, whether that is enough, how to change it.

The functions take what was read, so that each can be tried with any machine; `examine` reads.
"""

from __future__ import annotations

import os
import platform
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.cli import datapaths
from proxy.cli.finding import Finding
from proxy.kernel import nofile, procfs
from proxy.kernel.unixpath import reachable

if TYPE_CHECKING:
    from proxy.cli.finding import Level

MANY = 65536  # descriptors; below it a busy service can run into the limit
_RESERVE = 64  # descriptors of a worker that are not connections
_CAPABILITIES = {  # number: name, and what is missing without it (linux/capability.h)
    5: ("CAP_KILL", "backends that run as another user cannot be stopped"),
    7: ("CAP_SETUID", "versions with `user` cannot be started"),
    10: ("CAP_NET_BIND_SERVICE", ""),  # see `low_ports`
    12: ("CAP_NET_ADMIN", 'datapath = "steer" is not available'),
    19: ("CAP_SYS_PTRACE", "whether a socket belongs to a backend of another user cannot be checked"),
    39: ("CAP_BPF", 'datapath = "steer" is not available'),
}
_LITTLE = 64 << 20  # bytes free; three replicas can print as much
_ELSEWHERE = "state_dir in the config sets another one"
_PACKAGE = Path(__file__).parents[1]
_COMPILED = ("relay/_transfer", "core/http/_scan")  # where there was a compiler when the proxy was installed
_SYS_ADMIN = 21  # stands for CAP_BPF where the kernel is older than that


def examine(state_dir: Path, control_socket: Path) -> list[Finding]:
    """Look at this machine, for a proxy with these places."""
    limit = nofile.limit()
    capabilities = int(_field("/proc/self/status", "CapEff") or "0", 16)
    return [
        kernel(platform.system(), platform.release()),
        processors(len(os.sched_getaffinity(0)), _read("/sys/fs/cgroup/cpu.max")),
        compiled(everything=all(any(_PACKAGE.glob(f"{name}.*so")) for name in _COMPILED)),
        descriptors(limit.soft, limit.hard),
        privileges(os.geteuid(), capabilities),
        datapaths.look(),
        low_ports(capabilities, _number("net/ipv4/ip_unprivileged_port_start", 1024)),
        accept_queue(_number("net/core/somaxconn", 0)),
        local_ports(_read("/proc/sys/net/ipv4/ip_local_port_range")),
        *tracked_connections(_read("/proc/sys/net/netfilter/nf_conntrack_max")),
        cgroup(_read("/proc/self/cgroup"), _read("/sys/fs/cgroup/cgroup.controllers")),
        first_process(_read("/proc/1/comm")),
        state_folder(state_dir),
        *sockets(control_socket),
        *datapaths.in_effect(control_socket),
    ]


def kernel(system: str, release: str) -> Finding:
    if system != "Linux":
        return Finding("kernel", "fail", f"{system} {release}", "proxyctl needs Linux")
    numbers = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    if numbers < (5, 3):
        return Finding("kernel", "fail", f"Linux {release}", "5.3 or newer is needed (pidfd_open)")
    if numbers < (5, 10):
        return Finding("kernel", "warn", f"Linux {release}", 'datapath = "steer" needs 5.10; everything else works')
    return Finding("kernel", "ok", f"Linux {release}")


def processors(usable: int, quota: str) -> Finding:
    """`quota` is the cgroup's cpu.max: `max 100000`, or microseconds per period."""
    share, _, period = quota.partition(" ")
    if share.isdigit() and period.isdigit() and int(share) < usable * int(period):
        allowed = int(share) / int(period)
        fix = f"set workers = {max(1, round(allowed))} in the config: by default there is one for each CPU"
        return Finding("processors", "warn", f"{usable}, but the cgroup allows the time of {allowed:g}", fix)
    return Finding("processors", "ok", f"{usable}: as many workers by default")


def compiled(*, everything: bool) -> Finding:
    if everything:
        return Finding("relay", "ok", "what it does for every message is compiled")
    fix = "compiled it costs less CPU time: apt-get install gcc python3-dev, then install proxyctl once more"
    return Finding("relay", "warn", "pure Python", fix)


def descriptors(soft: int, hard: int) -> Finding:
    room = f"room for about {max(0, hard - _RESERVE) // 2} connections in each worker"
    value = f"soft limit {soft}, hard limit {hard}: {room}"
    if hard >= MANY:
        return Finding("descriptors", "ok", value)
    fix = "raise the hard limit: LimitNOFILE=1048576 (systemd), --ulimit nofile=1048576 (docker), or limits.conf(5)"
    return Finding("descriptors", "warn", value, fix)


def privileges(user: int, effective: int) -> Finding:
    held = {number for number in _CAPABILITIES if effective >> number & 1}
    if effective >> _SYS_ADMIN & 1:
        held.add(39)
    names = [name.removeprefix("CAP_") for number, (name, _) in _CAPABILITIES.items() if number in held]
    value = f"user {user}, with {', '.join(names) or 'no capability'}"
    missing = [(name, lost) for number, (name, lost) in _CAPABILITIES.items() if number not in held and lost]
    if not missing:
        return Finding("privileges", "ok", value)
    lost = "\n".join(f"without {name}: {what}" for name, what in missing)
    return Finding(
        "privileges", "warn", value, f"{lost}\nif you need that: AmbientCapabilities= (systemd), --cap-add (docker)"
    )


def low_ports(effective: int, first: int) -> Finding:
    if effective >> 10 & 1 or first == 0:
        return Finding("low ports", "ok", "every port can be listened on")
    if first <= 80:
        return Finding("low ports", "ok", f"ports from {first} on can be listened on")
    fix = "for ports below: AmbientCapabilities=CAP_NET_BIND_SERVICE, or sysctl net.ipv4.ip_unprivileged_port_start=80"
    return Finding("low ports", "warn", f"ports from {first} on can be listened on", fix)


def accept_queue(somaxconn: int) -> Finding:
    value = f"{somaxconn} connections may wait to be accepted (net.core.somaxconn)"
    fix = "" if somaxconn >= 4096 else "in a burst more than that are turned away: sysctl -w net.core.somaxconn=4096"
    return Finding("accept queue", "warn" if fix else "ok", value, fix)


def local_ports(port_range: str) -> Finding:
    low, _, high = port_range.partition("\t")
    count = int(high) - int(low) + 1 if low.isdigit() and high.strip().isdigit() else 0
    value = f"{count}: about as many connections to each TCP address of a backend (net.ipv4.ip_local_port_range)"
    fix = 'sysctl -w net.ipv4.ip_local_port_range="1024 65535", more replicas, or {socket} in the command'
    return Finding("local ports", "ok", value) if count >= 20000 else Finding("local ports", "warn", value, fix)


def tracked_connections(maximum: str) -> list[Finding]:
    """Nothing where the firewall does not track them; a full table drops new ones without a trace in the proxy."""
    if not maximum.isdigit():
        return []
    value = f"the firewall tracks up to {maximum} (nf_conntrack_max)"
    fix = (
        ""
        if int(maximum) >= MANY
        else "beyond it new ones are dropped: sysctl -w net.netfilter.nf_conntrack_max=262144"
    )
    return [Finding("tracked connections", "warn" if fix else "ok", value, fix)]


def cgroup(own: str, controllers: str) -> Finding:
    path = own.splitlines()[-1].partition("::")[2] if "::" in own else ""
    if not controllers:
        return Finding("cgroup", "ok", "version 1, or none: processes are followed by their groups and parents")
    return Finding("cgroup", "ok", f"version 2, {path or '/'}")


def first_process(name: str) -> Finding:
    """A proxy that is process 1 of a container takes over orphans itself; another first process has to."""
    if name in {"systemd", "init", "tini", "dumb-init", "docker-init", "catatonit", "runit", "s6-svscan"}:
        return Finding("process 1", "ok", f"{name}, which buries orphans")
    return Finding("process 1", "ok", f"{name or 'unknown'}; the proxy may be process 1 itself: it buries orphans then")


def folder(name: str, path: Path, other: str) -> Finding:
    """Whether files can be made in the folder, or the folder itself where it does not exist yet."""
    nearest = _nearest(path)
    if not nearest.is_dir():
        return Finding(name, "fail", f"{path}: {nearest} is not a folder", other)
    if not os.access(nearest, os.W_OK | os.X_OK):
        owner = nearest.stat().st_uid
        return Finding(name, "fail", f"{path}: no permission to write in {nearest} (user {owner} owns it)", other)
    return Finding(name, "ok", str(path) if nearest == path else f"{path} (to be made)")


def state_folder(path: Path) -> Finding:
    """Whether the proxy can keep its state there: who owns it, whether it can be written, and how much room it has."""
    found = folder("state_dir", path, _ELSEWHERE)
    nearest = _nearest(path)
    disk, owner = os.statvfs(nearest), nearest.stat()
    room = disk.f_bavail * disk.f_frsize
    if disk.f_flag & os.ST_RDONLY and nearest.is_dir():
        # With the lock file of an earlier run it starts, and remembers nothing.
        level: Level = "warn" if os.access(path / "lock", os.R_OK) else "fail"
        return Finding("state_dir", level, f"{path}: on a file system that is read-only", _ELSEWHERE)
    if found.level == "fail":
        return found
    value = f"{found.value}, {room >> 20} MiB free, user {owner.st_uid} owns {'it' if nearest == path else nearest}"
    if room < _LITTLE:
        return Finding("state_dir", "warn", value, "that is little for what backends print; with none left, it is lost")
    if nearest == path and owner.st_mode & 0o022:
        mode = f"mode {owner.st_mode & 0o7777:04o}"
        fix = f"chmod 700 {path}: what is in there decides which commands the proxy runs"
        return Finding("state_dir", "warn", f"{value}; other users may write to it ({mode})", fix)
    if nearest == path and owner.st_uid not in {0, os.geteuid()}:
        fix = f"chown {os.geteuid()} {path}: its owner decides which commands the proxy runs"
        return Finding("state_dir", "warn", value, fix)
    return Finding("state_dir", "ok", value)


def sockets(path: Path) -> list[Finding]:
    """The control socket's folder, and who listens there now."""
    place = folder("control socket", path.parent, "admin.socket in the config, or --socket, sets another one")
    owner = _listener(path)
    if owner is None:
        return [place]
    return [
        place,
        Finding("running proxy", "ok", f"process {owner}: {procfs.command_line(owner) or 'not visible here'}"),
    ]


def _nearest(path: Path) -> Path:
    """The path, or the last of its parents that exists."""
    return next(each for each in (path, *path.parents) if os.path.exists(each))  # not Path.exists: hidden is no error


def _listener(path: Path) -> int | None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            with reachable(path) as name:
                probe.connect(name)
        except OSError:
            return None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[:4], "little")


def _read(path: str) -> str:
    """A file of /proc or /sys; empty where the kernel does not have it, or this process may not see it."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(name: str, default: int) -> int:
    text = _read(f"/proc/sys/{name}")
    return int(text) if text.isdigit() else default


def _field(path: str, name: str) -> str:
    match = re.search(rf"^{name}:\s*(\S+)", _read(path), re.MULTILINE)
    return match[1] if match else ""
