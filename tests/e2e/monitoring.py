"""A real Prometheus that runs the config of conf/, and the dashboard's queries as Grafana would ask them."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.e2e.harness import PATIENCE, eventually, free_port
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Mapping

CONF = Path(__file__).parents[2] / "conf"
Json = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Line:
    """A series over time: Unix times with values."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class Prometheus:
    """conf/prometheus/prometheus.yml, for one proxy on port `target`, but in a hurry; use as a context manager."""

    def __init__(self, folder: Path, target: int, *, interval: float) -> None:
        """`interval`: seconds between two scrapes, and two looks at the rules."""
        self.interval = interval
        self.target = f"127.0.0.1:{target}"
        self._program = need("prometheus", package="prometheus")
        self._port = free_port()
        self._folder = folder
        self._log = folder / "prometheus.log"
        self._config = folder / "prometheus.yml"
        self._config.write_text(_config(target, interval))

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, f"--config.file={self._config}", f"--storage.tsdb.path={self._folder / 'data'}",
                 f"--web.listen-address=127.0.0.1:{self._port}", "--log.level=warn"],
                stdout=log, stderr=log, cwd=self._folder,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # nobody wants its data any more
        self._process.wait()

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self._process.poll() is None, self._log.read_text()
            try:
                return self._get("/-/ready") != b""
            except OSError:
                return False

        eventually(ready, what="Prometheus is ready")

    def query(self, expression: str, at: float | None = None) -> list[Sample]:
        """What it says now, or at a Unix time."""
        found = self._ask("query", {"query": expression} | ({"time": str(at)} if at else {}))
        if found["resultType"] == "scalar":
            return [Sample({}, float(found["result"][1]))]
        return [Sample(each["metric"], float(each["value"][1])) for each in found["result"]]

    def value(self, expression: str, at: float | None = None) -> float | None:
        """The one value; None when there is none."""
        found = self.query(expression, at)
        assert len(found) < 2, f"{expression}: {found}"
        return found[0].value if found else None

    def wait(self, expression: str) -> None:
        """Wait until this has a result. There is nothing new between two scrapes: it is not asked all the time."""
        eventually(lambda: self.query(expression) or time.sleep(self.interval / 6), what=expression)

    def lines(self, expression: str, start: float, end: float, step: float) -> list[Line]:
        parameters = {"query": expression, "start": str(start), "end": str(end), "step": str(step)}
        found = self._ask("query_range", parameters)["result"]
        return [Line(each["metric"], [(at, float(value)) for at, value in each["values"]]) for each in found]

    def rules(self) -> list[Json]:
        return [rule for group in self._ask("rules", {})["groups"] for rule in group["rules"]]

    def _ask(self, what: str, parameters: Mapping[str, str]) -> Any:
        try:
            answer = json.loads(self._get(f"/api/v1/{what}?{urllib.parse.urlencode(parameters)}"))
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{what} {dict(parameters)}: {error.read().decode()}") from error
        assert answer["status"] == "success", answer
        assert not answer.get("warnings"), answer
        return answer["data"]

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=PATIENCE) as answer:
            content: bytes = answer.read()
            return content


def _config(target: int, interval: float) -> str:
    text = (CONF / "prometheus/prometheus.yml").read_text()
    for pattern, replacement in (
        (r"(?m)^  (scrape|evaluation)_interval: 15s$", rf"  \1_interval: {round(interval * 1000)}ms"),
        (r"(?m)^  - (\w+\.yml)$", rf"  - {CONF}/prometheus/\1"),
        (r'(?m)^(      - targets: \["127.0.0.1):9900', rf"\1:{target}"),
    ):
        text, count = re.subn(pattern, replacement, text)
        assert count, f"nothing in prometheus.yml is like {pattern}"
    return text


class Dashboard:
    """conf/grafana/dashboard.json, asked for a stretch of time."""

    def __init__(self, prometheus: Prometheus, start: float, end: float, **chosen: str) -> None:
        """`chosen`: what is chosen above it, as a regular expression, by variable; all of it where nothing is."""
        self.start, self.end = start, end
        self.prometheus = prometheus
        self.board: Json = json.loads((CONF / "grafana/dashboard.json").read_text())
        # About as many points as a panel has pixels for; but there is nothing to see between two scrapes.
        self.step = max(prometheus.interval, (end - start) / 240)
        milliseconds = round(max(4 * prometheus.interval, self.step + prometheus.interval) * 1000)
        self._variables = {
            **{each["name"]: each["allValue"] for each in self.board["templating"]["list"][1:]},
            **chosen,
            "__interval": f"{round(self.step * 1000)}ms",
            "__rate_interval": f"{milliseconds}ms",
            "__range": f"{round(end - start)}s",
        }

    @cached_property
    def panels(self) -> list[Json]:
        found: list[Json] = self.board["panels"]
        return found

    def fill_in(self, expression: str) -> str:
        filled = re.sub(r"\$(\w+)", lambda found: self._variables[found[1]], expression)
        assert "$" not in filled
        return filled

    def choices(self, variable: str) -> set[str]:
        """What Grafana would let people choose from."""
        (query,) = [each["definition"] for each in self.board["templating"]["list"] if each["name"] == variable]
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found, query
        series = self.prometheus.query(self.fill_in(found[1]), self.end)
        return {each.labels[found[2]] for each in series}

    def ask(self, target: Json) -> list[Line]:
        """The answer to a panel's query; of an instant one with a single point."""
        expression = self.fill_in(target["expr"])
        if target["instant"]:
            found = self.prometheus.query(expression, self.end)
            return [Line(each.labels, [(self.end, each.value)]) for each in found]
        return self.prometheus.lines(expression, self.start, self.end, self.step)

    def events(self, annotation: Json) -> list[tuple[float, str]]:
        """Unix times, with titles, of one whose values are times."""
        assert annotation["useValueForTime"]
        lines = self.prometheus.lines(self.fill_in(annotation["expr"]), self.start, self.end, self.step)
        found = {
            (round(value / 1000, 3), named(annotation["titleFormat"], line))
            for line in lines
            for _, value in line.points
        }
        return sorted((at, title) for at, title in found if self.start <= at <= self.end)


def named(form: str, line: Line) -> str:
    """What a legend or a title makes of a series: "{{version}}" is that label."""
    return re.sub(r"{{(\w+)}}", lambda found: line.labels[found[1]], form)


class Nagging:
    """A client that asks for a path again and again, whatever is answered; use as a context manager."""

    def __init__(self, port: int, path: str, *, rest: float) -> None:
        self._url = f"http://127.0.0.1:{port}{path}"
        self._rest = rest
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._rest):
            try:
                with urllib.request.urlopen(self._url, timeout=PATIENCE) as answer:
                    answer.read()
            except OSError:
                continue
