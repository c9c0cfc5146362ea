"""The settings: one model per TOML table, one attribute per key, with its default and what it means.

Models are frozen. Durations are seconds as floats, and 0 is "off" where the key's text does not say otherwise. `load`
builds them from a file; tests may build them directly, and get the same checks of single values.
"""

from functools import partial
from pathlib import Path
from signal import Signals
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator
from pydantic.config import JsonDict
from pydantic_core import PydanticOmit

from proxy.config import marks, paths, values
from proxy.config.marks import Marks
from proxy.config.values import BadValueError
from proxy.core.address import Address
from proxy.core.duration import parse_duration
from proxy.core.statuses import StatusRanges

Protocol = Literal["tcp", "http"]
Datapath = Literal["relay", "steer", "inherit"]
Balance = Literal["least", "round_robin"]
HealthType = Literal["tcp", "http", "command", "none"]
Owner = Literal["self", "any"]
SignalAt = Literal["end", "start"]
Output = Literal["file", "inherit"]
Forwarded = Literal["off", "append", "replace"]
Metrics = Literal["open", "token"]


def _positive(seconds: float) -> float:
    if seconds == 0:
        raise BadValueError("has to be longer than 0")
    return seconds


def _choice(known: Any) -> BeforeValidator:
    return BeforeValidator(partial(values.choice, known=known.__args__), json_schema_input_type=known)


def _written(value: Address | StatusRanges | Marks | None) -> str:
    return "" if value is None else str(value)


AsWritten = PlainSerializer(_written)

Text = Annotated[str, BeforeValidator(values.text)]
Duration = Annotated[float, BeforeValidator(parse_duration, json_schema_input_type=str | float)]
Positive = Annotated[Duration, AfterValidator(_positive)]
Command = Annotated[tuple[str, ...], PlainValidator(values.command, json_schema_input_type=str | list[str])]
Listen = Annotated[Address, PlainValidator(values.listen_address, json_schema_input_type=str), AsWritten]
External = Annotated[Address, PlainValidator(values.backend_address, json_schema_input_type=str), AsWritten]
AdminListen = Annotated[Address | None, PlainValidator(values.admin_address, json_schema_input_type=str), AsWritten]
Statuses = Annotated[StatusRanges, PlainValidator(values.statuses, json_schema_input_type=str | int), AsWritten]
MarkRange = Annotated[Marks, PlainValidator(values.mark_range, json_schema_input_type=str), AsWritten]
AbsolutePath = Annotated[Path, PlainValidator(values.absolute_path, json_schema_input_type=str)]
MaybeFile = Annotated[Path | None, PlainValidator(values.maybe_path, json_schema_input_type=str)]
Folder = Annotated[Path, PlainValidator(values.folder_path, json_schema_input_type=str)]
Variable = Annotated[str, BeforeValidator(values.variable)]
VariableValue = Annotated[str, BeforeValidator(values.variable_value)]

Whole = BeforeValidator(values.whole)
YesOrNo = Annotated[bool, PlainValidator(values.boolean, json_schema_input_type=bool)]
Several = BeforeValidator(values.several, json_schema_input_type=str | list[str])

_NAMES: JsonDict = {"propertyNames": {"pattern": f"^{values.NAME.pattern}$"}}


class NotInFile:
    """Marks an attribute that the loader fills in, and that is no key of the file."""

    def __get_pydantic_json_schema__(self, *_: Any) -> NoReturn:
        raise PydanticOmit


class Table(BaseModel):
    """A TOML table: unknown keys are errors, nothing changes after loading.

    The texts below the keys are for schema.py, which looks for them itself: pydantic (`use_attribute_docstrings`) would
    read this file's source at each start of the proxy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Admin(Table):
    """Where the proxy is watched and controlled."""

    socket: AbsolutePath = Field(default_factory=lambda: paths.default_socket(paths.default_state_dir()))
    """The control socket that proxyctl talks to, mode 0600. Default for root: /run/proxyctl/control.sock; otherwise
    $XDG_RUNTIME_DIR/proxyctl/control.sock, or control.sock in state_dir."""

    listen: AdminListen = Field(default=None, json_schema_extra={"default": ""})
    """Where the admin page is, /metrics, /livez, /readyz and the API: an address such as "127.0.0.1:9900". Empty:
    nowhere. What other machines can reach needs token_file, and should have tls_cert and tls_key."""

    token_file: MaybeFile = Field(default=None, json_schema_extra={"default": ""})
    """A file with the token for acting in its first line, and one for reading only in its second. Nobody else may read
    it (mode 0600). An edit of it counts at once. Empty: everybody on this machine may read and act."""

    tls_cert: MaybeFile = Field(default=None, json_schema_extra={"default": ""})
    """The certificate (PEM, with its chain) to use TLS at `listen` with. An edit of it counts for new connections."""

    tls_key: MaybeFile = Field(default=None, json_schema_extra={"default": ""})
    """Its private key (PEM, without a password)."""

    metrics: Annotated[Metrics, _choice(Metrics)] = "open"
    """"open": everybody who reaches `listen` may scrape /metrics; "token": only with a token."""

    allow_commands: YesOrNo = False
    """Whether a swap that is asked for at `listen` may bring a command of its own: that runs whatever it says."""


class Steering(Table):
    """How connections are told apart that the kernel hands to backends, with datapath "steer"."""

    marks: MarkRange = Field(default=marks.DEFAULT, json_schema_extra={"default": str(marks.DEFAULT)})
    """Firewall marks (SO_MARK) that nothing else on this machine uses, first-last: each generation that lives has one
    of them on its connections. At least 16; at most 255 are used."""


class Health(Table):
    """How a backend proves that it works."""

    type: Annotated[HealthType, _choice(HealthType)] = "tcp"
    """"tcp": it accepts a connection; "http": a GET is answered with one of `status`; "command": a program exits with
    0; "none": it runs."""

    path: Annotated[str, PlainValidator(values.request_path, json_schema_input_type=str)] = "/"
    """What to GET (type "http")."""

    status: Statuses = Field(default=StatusRanges(((200, 399),)), json_schema_extra={"default": "200-399"})
    """Healthy answers (type "http"): "200-399", "200,204"."""

    command: Command = ()
    """The program to run (type "command"), with the same placeholders as a version's command."""

    interval: Positive = 1.0
    """Time between checks."""

    timeout: Positive = 2.0
    """A check without an answer by then has failed."""

    rise: Annotated[int, Field(ge=1, le=1000), Whole] = 1
    """Successes in a row before a backend counts as healthy."""

    fall: Annotated[int, Field(ge=1, le=1000), Whole] = 3
    """Failures in a row before a healthy backend counts as unhealthy."""

    start_timeout: Positive = 30.0
    """A new generation that is not healthy by then is a failed swap."""

    owner: Annotated[Owner, _choice(Owner)] = "self"
    """"self": the listening socket must belong to the processes that were started; "any": it may be someone else's,
    such as Docker's for `docker run -p`."""


class Http(Table):
    """How requests are treated, with protocol "http"."""

    forwarded: Annotated[Forwarded, _choice(Forwarded)] = "append"
    """X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host. "append": the client is added to what the request says,
    for a proxy that has another one in front; "replace": what the request says is dropped first, for a proxy that
    clients reach directly; "off": requests pass as they are."""

    request_id: YesOrNo = False
    """Give requests that have none an X-Request-Id."""

    header_timeout: Positive = 30.0
    """A request whose head is not complete by then, counted from its first byte, is answered 408."""


class Drain(Table):
    """How an old generation ends."""

    deadline: Duration = 30.0
    """After it, what is still open is closed and counted as forced. 0 closes every connection at the switch."""

    stop_signal: Annotated[Signals, PlainValidator(values.stop_signal, json_schema_input_type=str)] = Field(
        default=Signals.SIGTERM, json_schema_extra={"default": "SIGTERM"}
    )
    """The signal that asks a backend to stop."""

    stop_timeout: Duration = 10.0
    """Time from stop_signal to SIGKILL. 0 kills at once."""

    signal_at: Annotated[
        SignalAt | None, BeforeValidator(values.signal_at, json_schema_input_type=Literal["", SignalAt])
    ] = Field(default=None, json_schema_extra={"default": ""})
    """"end": stop_signal is sent when the connections are drained; "start": when draining starts, for backends that say
    goodbye to their clients themselves. Empty: "end"; "start" for a generation that is steered, where nobody else can
    say it: a backend that cuts its connections at stop_signal then wants "end", or another stop_signal."""

    keep_warm: Duration = 0.0
    """Keep the drained generation running so long, for an instant rollback."""

    bake: Duration = 0.0
    """Watch the new generation so long after the switch; if it fails, go back."""


class Version(Table):
    """A recipe for running the service: a command, or addresses where it already runs."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["command"]}, {"required": ["address"]}]})

    name: Annotated[str, BeforeValidator(partial(values.name, kind="version name")), NotInFile()]

    command: Command = ()
    """The program and its arguments; a string is split as a shell would, but no shell runs. {port} is a free private
    port on 127.0.0.1, {socket} a private Unix socket path, {fd} the number of the public listening socket (datapath
    "inherit"); {version}, {generation} and {replica} say what is started.
    The environment has PORT, PROXY_VERSION and PROXY_GENERATION."""

    replicas: Annotated[int, Field(ge=1, le=1000), Whole] = 1
    """How many processes to start."""

    env: dict[Variable, VariableValue] = Field(default_factory=dict)
    """Environment variables besides the proxy's own; the placeholders of command work here too."""

    cwd: Folder = Field(default=Path(), json_schema_extra={"default": ""})
    """The working directory; the config file's folder if empty."""

    user: Annotated[str, BeforeValidator(values.user)] = ""
    """Run as this user and its groups; needs root."""

    output: Annotated[Output, _choice(Output)] = "file"
    """"file": kept and rotated under state_dir; "inherit": the proxy's own output, as containers expect."""

    address: Annotated[tuple[External, ...], Field(max_length=1000), Several] = ()
    """Instead of command: where the version already runs. It is checked and switched to, not started or stopped."""


class Service(Table):
    """A name, its public listeners, and the versions that may serve them."""

    name: Annotated[str, BeforeValidator(partial(values.name, kind="service name")), NotInFile()]

    listen: Annotated[tuple[Listen, ...], Field(min_length=1), Several]
    """The public addresses, one or several: "0.0.0.0:8080", "[::]:8080", "unix:/path". Port 0: the kernel chooses."""

    active: Text
    """The version to start first. Later, the newest decision wins: a swap, or an edit of this line."""

    protocol: Annotated[Protocol, _choice(Protocol)] = "tcp"
    """"tcp": bytes are relayed, whatever they mean; "http": HTTP/1 requests are understood, so that connections move to
    a new version between two of them. What is not HTTP/1 is relayed as with "tcp"."""

    datapath: Annotated[Datapath, _choice(Datapath)] = "relay"
    """"relay": connections go through a worker of the proxy; "steer": the kernel hands them to the backend, where it
    can, and the rest is relayed; "inherit": the backend is given the public listening socket and accepts by itself."""

    balance: Annotated[Balance, _choice(Balance)] = "least"
    """Among replicas: "least" connections, or "round_robin"."""

    connect_timeout: Positive = 5.0
    """The budget for reaching a healthy backend, retries included."""

    idle_timeout: Duration = 0.0
    """Close a connection when no byte moved either way for so long; 0 is never."""

    max_connections: Annotated[int, Field(ge=0), Whole] = 0
    """At most so many connections at a time; 0 is as many as file descriptors allow."""

    http: Http = Field(default_factory=Http)

    health: Health = Field(default_factory=Health)

    drain: Drain = Field(default_factory=Drain)

    versions: Annotated[dict[str, Version], Field(min_length=1, json_schema_extra=_NAMES)]


class Settings(Table):
    """A whole config file."""

    path: Annotated[Path, NotInFile()]

    state_dir: AbsolutePath = Field(default_factory=paths.default_state_dir)
    """What the proxy remembers. Default for root: /var/lib/proxyctl; otherwise $XDG_STATE_HOME/proxyctl."""

    workers: Annotated[int, Field(ge=0, le=1024), Whole] = 0
    """Processes that relay; 0 is one per CPU that this process may use."""

    lame_duck: Duration = 0.0
    """On stop, /readyz says 503 for so long before the listeners close, for a balancer in front."""

    admin: Admin = Field(default_factory=Admin)

    steering: Steering = Field(default_factory=Steering)

    services: Annotated[dict[str, Service], Field(min_length=1, json_schema_extra=_NAMES)]
