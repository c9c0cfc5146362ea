"""Where a request goes, in words that another worker understands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxy.relay.generation import Endpoint, Generation
    from proxy.relay.service import Service


def place_of(generation: Generation, endpoint: Endpoint) -> dict[str, Any]:
    """Name an endpoint of a generation."""
    return {
        "generation": generation.number,
        "version": generation.version,
        "endpoint": endpoint.address,
        "replica": endpoint.replica,
    }


def find_place(service: Service, place: dict[str, Any]) -> tuple[Endpoint, Generation]:
    """Return what `place_of` has named; both are made if they are not known here.

    Raises ValueError or KeyError for a name that makes no sense.
    """
    generation = service.find_generation(place["generation"], place["version"])
    return generation.endpoint(place["endpoint"], place["replica"]), generation
