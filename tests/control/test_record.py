from __future__ import annotations

import json

from proxy.control.mark import Mark
from proxy.control.record import Record
from proxy.core.address import Address
from proxy.kernel.procfs import ProcessId


def test_a_backend_is_found_again_from_what_was_written_down() -> None:
    mark = Mark("boot:1:2:/state", "web", 3, 1)
    record = Record.of(mark, "v1", ProcessId(77, 1234), Address(path="/s/a.sock"), None)
    again = Record(**json.loads(json.dumps(record.to_json())))
    assert again == record
    assert again.mark == mark
    assert again.identity == ProcessId(77, 1234)
    assert Address.parse(again.address) == Address(path="/s/a.sock")
