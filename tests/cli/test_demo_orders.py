"""The accounts behind the demo's "each processed exactly once"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.cli.demo.orders import Balance, balance, note

if TYPE_CHECKING:
    from pathlib import Path


def test_orders_that_were_lost_or_processed_twice_are_told_from_the_others(tmp_path: Path) -> None:
    file = tmp_path / "orders"
    for order in ("good", "twice", "thrice", "twice", "thrice", "thrice", "somebody else's"):
        note(file, order)
    found = balance(file, ["good", "twice", "thrice", "lost"])
    assert found == Balance(sent=4, lost=1, repeated=2)
    assert found.once == 1


def test_where_nothing_was_processed_all_is_lost(tmp_path: Path) -> None:
    assert balance(tmp_path / "orders", ["one", "two"]) == Balance(sent=2, lost=2, repeated=0)
