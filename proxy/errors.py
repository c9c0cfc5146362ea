"""Every error that a user can see: what happened, to what, why, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Collection


class ProxyError(Exception):
    """An error with a message for the user and, where there is one, the next step to take.

    `code` names the kind for programs, `status` is the HTTP status the API answers with, and `exit_code` is what
    `proxyctl` exits with.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ProxyError):
    """The request itself is wrong; asking again the same way cannot succeed."""

    code = "usage"
    status = 400
    exit_code = 2


class UnknownServiceError(UsageError):
    code = "unknown_service"
    status = 404


class UnknownVersionError(UsageError):
    code = "unknown_version"
    status = 404


class AlreadyActiveError(ProxyError):
    code = "already_active"
    status = 409


class SwapInProgressError(ProxyError):
    code = "swap_in_progress"
    status = 409


class NoPreviousGenerationError(ProxyError):
    code = "no_previous_generation"
    status = 409


class ConflictError(ProxyError):
    """It cannot be done as things are; once they are otherwise, it can."""

    code = "conflict"
    status = 409


class StoppingError(ProxyError):
    code = "stopping"
    status = 503


class NotRunningError(ProxyError):
    """No proxy answers on the control socket."""

    code = "not_running"
    exit_code = 3


class StartError(ProxyError):
    """A generation did not become healthy. `output` is the last lines that the backend printed."""

    code = "start_failed"

    def __init__(self, message: str, *, hint: str = "", output: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.output = output


class AddressInUseError(ProxyError):
    """Something else holds a public port, the control socket or the state directory."""

    code = "in_use"
    status = 409
    exit_code = 1


class WireError(ProxyError):
    """A message between control and a worker could not be understood."""

    code = "wire"


class WorkerVersionError(WireError):
    """A worker of another release runs, which this one cannot talk to."""

    code = "worker_version"

    def __init__(self, pid: int, release: str, version: int, known: Collection[int]) -> None:
        reads = " and ".join(map(str, sorted(known)))
        super().__init__(
            f"worker {pid} runs and serves, and is of release {release or 'unknown'}: it speaks version {version} of "
            f"the messages between control and workers, this release {reads}",
            hint="start that release again, and go to this one in smaller steps with `proxyctl upgrade`; or end the "
            f"worker (kill {pid}), with the connections it has, and start this one",
        )


class UpgradeError(ProxyError):
    """The new code did not take over, or not everything; what serves goes on. `output` is what it printed last."""

    code = "upgrade_failed"
    output: tuple[str, ...] = ()


class UpgradeInProgressError(ProxyError):
    code = "upgrade_in_progress"
    status = 409


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a config: where (1-based; 0 where it has no place), which key, what, and a hint."""

    file: str
    line: int
    column: int
    key: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        key = f"{self.key}: " if self.key else ""
        hint = "\n" + indent(self.hint, "    ") if self.hint else ""
        return f"{place}: {key}{self.message}{hint}"


class ConfigError(ProxyError):
    """The config is not valid. `problems` holds every error found, in the order of the file."""

    code = "config"
    status = 422
    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        count = "1 error" if len(problems) == 1 else f"{len(problems)} errors"
        super().__init__("\n".join(str(problem) for problem in problems) + f"\n{count} in the config")
        self.problems = problems
