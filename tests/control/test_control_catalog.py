import pytest

from proxy.config import load
from proxy.control import decision
from proxy.control.catalog import Catalog
from proxy.control.state import ServiceRecord
from proxy.errors import UnknownVersionError, UsageError


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "proxy.toml"
    path.write_text(
        '[services.web]\nlisten = "127.0.0.1:0"\nactive = "v1"\n'
        '[services.web.versions]\nv1.command = "a"\nv2.command = "b"\n'
    )
    return load(path).services["web"]


@pytest.mark.parametrize(
    ("active", "configured", "due"),
    [
        (None, None, "v1"),  # a first start
        ("v2", "v1", "v2"),  # swapped to v2, and the file still says what it said then
        ("v2", "v0", "v1"),  # edited after the swap: the file is newer
        ("gone", "v1", "v1"),  # the version is no longer there
        ("x", "v1", "x"),  # one that came with --command
    ],
)
def test_the_newest_decision_says_which_version_serves_after_a_restart(settings, active, configured, due):
    record = ServiceRecord(active=active, configured=configured, known={"x": ["run"]})
    assert Catalog(settings, record).first().name == due


def test_a_version_given_on_the_command_line_is_remembered(settings):
    record = ServiceRecord()
    Catalog(settings, record).learn("x", ("run", "{port}"))
    again = Catalog(settings, record)
    assert again.find("x").command == ("run", "{port}")
    assert again.names == ["v1", "v2", "x"]


def test_a_configured_version_is_not_overridden_from_the_command_line(settings):
    with pytest.raises(UsageError, match="v1 is configured"):
        Catalog(settings, ServiceRecord()).learn("v1", ("run",))


def test_an_unknown_version_lists_the_known_ones_nearest_first(settings):
    with pytest.raises(UnknownVersionError, match="it has v2, v1"):
        Catalog(settings, ServiceRecord()).find("v22")


def test_a_remembered_version_that_cannot_be_used_any_more_does_not_stop_the_proxy(settings, caplog):
    assert Catalog(settings, ServiceRecord(known={"x": []})).get("x") is None
    assert "can no longer be used" in caplog.text


def test_a_file_that_cannot_be_read_says_nothing(tmp_path):
    assert decision.configured_active(tmp_path / "missing", "web") is None
    (tmp_path / "broken").write_text("[[[")
    assert decision.configured_active(tmp_path / "broken", "web") is None


def learn_many(catalog, count=60):
    for number in range(count):
        catalog.learn(f"build-{number}", ("run", str(number)))


def test_a_version_for_each_deployment_does_not_pile_up(settings):
    record = ServiceRecord()
    catalog = Catalog(settings, record)
    learn_many(catalog)
    assert list(record.known) == [f"build-{number}" for number in range(10, 60)]
    assert catalog.names == ["v1", "v2", *record.known]


def test_however_many_came_after_them_the_active_and_the_previous_version_are_known(settings):
    record = ServiceRecord(active="build-3", previous="build-1", configured="v1")
    catalog = Catalog(settings, record)
    learn_many(catalog)
    assert catalog.find("build-1").command == ("run", "1")
    assert Catalog(settings, record).first().name == "build-3"
    assert len(record.known) == 52


def test_a_version_that_is_deployed_again_counts_as_new(settings):
    record = ServiceRecord()
    catalog = Catalog(settings, record)
    learn_many(catalog, 50)
    catalog.learn("build-0", ("run", "again"))
    catalog.learn("one-more", ("run",))
    assert catalog.find("build-0").command == ("run", "again")
    assert catalog.get("build-1") is None


def test_a_remembered_version_that_cannot_be_used_any_more_can_be_forgotten(settings):
    record = ServiceRecord(known={"broken": []})
    learn_many(Catalog(settings, record))
    assert "broken" not in record.known
