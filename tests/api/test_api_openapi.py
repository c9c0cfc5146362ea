"""The description says what the API does: the same endpoints, bodies, statuses and forms of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

from proxy.api import answers, bodies
from proxy.api.endpoints import ENDPOINTS
from proxy.api.openapi import document
from tests.fakes import result_of

if TYPE_CHECKING:
    from tests.ask import Api


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, each) for path, methods in document()["paths"].items() for method, each in methods.items()]


async def test_it_can_be_had_from_the_api_itself(api: Api) -> None:
    answer = await api.get("/v1/openapi.json")
    assert (answer.status, answer.json) == (200, document())
    assert answer.json["openapi"] == "3.1.0"


async def test_every_endpoint_is_in_it_and_answers(api: Api) -> None:
    assert len(operations()) == len(ENDPOINTS)
    for path, method, _ in operations():
        target = path.replace("{service}", "web").replace("{version}", "v1")
        other = "POST" if method == "get" else "GET"
        assert (await api._ask(other, target, {})).status == 405, target


def test_every_reference_leads_somewhere() -> None:
    schemas = document()["components"]["schemas"]

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [each for item in value.values() for each in references(item)]
        return [each for item in value for each in references(item)] if isinstance(value, list) else []

    found = references(document())
    assert len(found) > 100
    assert {each.removeprefix("#/components/schemas/") for each in found} <= schemas.keys()


def test_bodies_are_described_by_the_models_that_check_them() -> None:
    schemas = document()["components"]["schemas"]
    swap = schemas["SwapBody"]
    assert swap["required"] == ["version"]
    assert swap["additionalProperties"] is False
    assert swap["properties"].keys() == bodies.SwapBody.model_fields.keys()
    assert schemas["Nothing"]["additionalProperties"] is False
    for _, method, operation in operations():
        assert ("requestBody" in operation) == (method == "post")


def test_every_operation_says_what_it_does_and_how_it_can_be_refused() -> None:
    for path, method, operation in operations():
        assert operation["summary"], path
        expected = set() if path in {"/livez", "/readyz"} else {"400", "401", "403", "429"}
        expected |= {"408", "413", "415", "503"} if method == "post" else set()
        assert expected <= operation["responses"].keys(), path
        assert all(each["description"] for each in operation["responses"].values())
        assert ("404" in operation["responses"]) == ("{service}" in path or path == "/v1/history")


def test_results_have_the_form_that_is_described() -> None:
    by = {"via": "tcp", "from": "127.0.0.1:1", "as": "token"}
    TypeAdapter(answers.Result).validate_python({**result_of(), "by": by})


@pytest.mark.parametrize("text", ["1h", "1m30s", "90", "1.5s", "250ms", "0", "1h30m15s500ms", "8760h"])
def test_durations_that_are_taken_are_described(text: str) -> None:
    import re

    pattern = bodies._DURATION["oneOf"][1]["pattern"]
    assert bodies.OperateBody(deadline=text).deadline is not None
    assert re.search(pattern, text)


@pytest.mark.parametrize("text", ["", "soon", "1x", "s", "1s1h", "--1", "-5s", "1 h"])
def test_durations_that_are_refused_are_not_described(text: str) -> None:
    import re

    with pytest.raises(ValueError, match="deadline"):
        bodies.OperateBody(deadline=text)
    assert not re.search(bodies._DURATION["oneOf"][1]["pattern"], text)
