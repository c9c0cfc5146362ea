import trio

from proxy.control import events
from proxy.control.events import Bus


async def test_every_reader_sees_every_event_from_when_it_came():
    bus = Bus()
    bus.publish("early")
    with bus.subscribe() as one, bus.subscribe() as two:
        bus.publish("swap", service="web")
        for reader in (one, two):
            event = await reader.receive()
            assert (event["type"], event["service"]) == ("swap", "web")


async def test_a_reader_that_does_not_read_holds_nobody_up_and_is_let_go(monkeypatch):
    monkeypatch.setattr(events, "BACKLOG", 3)
    bus = Bus()
    with bus.subscribe() as lazy, bus.subscribe() as keen:
        for number in range(5):
            bus.publish("tick", number=number)
            assert (await keen.receive())["number"] == number
        assert [event["number"] async for event in lazy] == [0, 1, 2]


async def test_the_end_of_the_proxy_ends_every_stream_after_what_is_in_it():
    bus = Bus()
    with bus.subscribe() as reader:
        bus.publish("stop")
        bus.close()
        with trio.fail_after(1):
            assert [event["type"] async for event in reader] == ["stop"]
    with bus.subscribe() as late, trio.fail_after(1):
        assert [event async for event in late] == []


async def test_a_reader_that_left_is_forgotten():
    bus = Bus()
    with bus.subscribe():
        pass
    bus.publish("tick")
    assert not bus._channels
