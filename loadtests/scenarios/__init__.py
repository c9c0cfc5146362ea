"""What relays are made to do: each scenario in a file, its servers and clients as programs beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.model import Scenario


def scenarios(capacity: Callable[[], float]) -> list[Scenario]:
    """All of them, in the order of the table.

    `capacity`: requests per second of the slowest peer under kept-32, asked when a scenario of fixed rate runs.
    """
    # Not above: the servers and clients are programs of this package, and each start of one would load everything.
    from loadtests.scenarios.apart import apart
    from loadtests.scenarios.bulk import bulk_down, bulk_up
    from loadtests.scenarios.fixed_rate import fixed_rate
    from loadtests.scenarios.idle import idle
    from loadtests.scenarios.kept import kept, varied
    from loadtests.scenarios.new import new
    from loadtests.scenarios.swap_cost import swap_cost
    from loadtests.scenarios.websocket import websocket

    return [
        *(kept(connections) for connections in (1, 32, 256)),
        kept(1024, rounds=2),
        *(apart(connections) for connections in (32, 256)),
        varied(32),
        new(32),
        bulk_down(),
        bulk_up(),
        idle(),
        fixed_rate(0.3, capacity, rounds=1),
        fixed_rate(0.7, capacity),
        websocket(),
        swap_cost(),
    ]
