"""Nobody should have to know pydantic to repair a config at night."""

from collections.abc import Callable

import pytest

from proxy.errors import Problem

ProblemsOf = Callable[[str], list[Problem]]


@pytest.mark.parametrize(
    ("addition", "hint"),
    [
        ("[services.api]\nactive = 'v1'\n", 'for example listen = "0.0.0.0:8080"'),
        (
            "[services.api]\nlisten = '[::]:1'\nactive = 'v1'\n",
            "add a table [services.api.versions.v1] with its command",
        ),
        ("[services]\napi = 5\n", "write [services.api] and its keys below"),
        ("[services.api.versions]\nv1 = './x'\n", 'write [services.api.versions.v1] and in it command = "./x"'),
        ("[[services.api]]\nx = 1\n", "write [services.api] with single brackets, or a name below it"),
    ],
)
def test_the_hint_shows_the_line_that_is_missing(
    minimal: str, problems_of: ProblemsOf, addition: str, hint: str
) -> None:
    assert hint in [
        problem.hint for problem in problems_of(minimal.replace("[services.web]", f"{addition}[services.web]"))
    ]


def test_no_message_speaks_the_validators_language(problems_of: ProblemsOf) -> None:
    text = """
        services.a = 1
        services.b = { listen = [1, []], active = {}, versions = [], health = { rise = -1, type = 1, status = [] } }
        services.c = { listen = "", versions.v = { env = [], address = [1], user = 1, cwd = 1, replicas = "x" } }
        admin = []
        workers = 1e3
        state_dir = {}
        lame_duck = []
    """
    problems = problems_of(text)

    assert len(problems) > 15
    for problem in problems:
        assert not any(
            word in str(problem).lower() for word in ("input", "valid", "dictionary", "tuple", "instance", "field")
        )


def test_a_key_that_is_missing_because_it_is_misspelt_is_one_error(minimal: str, problems_of: ProblemsOf) -> None:
    (problem,) = problems_of(minimal.replace("active", "actve"))

    assert problem.hint == 'did you mean "active"?'


def test_a_service_may_be_called_name(problems_of: ProblemsOf) -> None:
    (problem,) = problems_of("services.name = 3")

    assert problem.key == "services.name"


def test_a_list_has_its_limit(problems_of: ProblemsOf, minimal: str) -> None:
    addresses = [f"10.0.0.1:{port}" for port in range(1, 1002)]
    (problem,) = problems_of(minimal.replace('command = "./app --port {port}"', f"address = {addresses}"))

    assert problem.message == "has more than 1000 items"
