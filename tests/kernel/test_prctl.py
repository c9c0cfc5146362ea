from __future__ import annotations

from proxy.kernel import prctl


def test_orphans_come_to_us_only_while_we_ask_for_them() -> None:
    assert not prctl.is_child_subreaper()
    prctl.set_child_subreaper()
    try:
        assert prctl.is_child_subreaper()
    finally:
        prctl.set_child_subreaper(on=False)
    assert not prctl.is_child_subreaper()
