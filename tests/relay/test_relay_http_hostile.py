"""What the corpus calls hostile, through a real worker: the client is told 400, and no backend gets a byte of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.core.http.conversations import smuggling
from tests.relay.harness import OK, read, read_response, read_to_end

if TYPE_CHECKING:
    from tests.core.http.conversations.conversation import Conversation
    from tests.relay.harness import HttpService

HOSTILE = [conversation for conversation in smuggling.CONVERSATIONS if conversation.client.end == 400]


def test_there_are_vectors_enough() -> None:
    assert len(HOSTILE) >= 150


@pytest.mark.parametrize("conversation", HOSTILE, ids=lambda conversation: conversation.name)
def test_nothing_hostile_reaches_a_backend(web: HttpService, conversation: Conversation) -> None:
    """It comes behind what is in order, on the same connection: that is answered, and then the connection ends."""
    web.route()
    client, server = web.pair()
    client.sendall(conversation.client.wire)
    for message in conversation.client.messages:
        asked = message.head + message.body
        assert read(server, len(asked)) == asked
        server.sendall(OK)
        assert read_response(client).status == 200
    refused = read_response(client)
    assert (refused.status, refused.fields.get("connection")) == (400, "close")
    assert read_to_end(client) == b""
    assert read_to_end(server) == b"", "bytes of what was refused"
