"""Versions that are not in the file: `proxyctl swap X --command "…"`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from proxy.config.checks import check_version
from proxy.config.sentences import translate
from proxy.config.settings import Service, Version
from proxy.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def adhoc_version(name: str, command: Sequence[str], service: Service) -> Version:
    """The recipe for `command`, which is otherwise run as the service's active version in the file is: the same
    replicas, environment, folder, user and output (their defaults, if that one is only an address).

    Raises UsageError if the name or the command cannot be used.
    """
    like = service.versions[service.active]
    values = {
        "name": name,
        "command": tuple(command),
        "replicas": like.replicas,
        "env": like.env,
        "cwd": like.cwd,
        "user": like.user,
        "output": like.output,
    }
    findings = list(check_version((), {**values, "command": list(command)}, service.datapath))
    try:
        version = Version.model_validate(values)
    except ValidationError as error:
        findings += translate(error)
    if findings:
        raise UsageError(findings[0].message, hint=findings[0].hint)
    return version
