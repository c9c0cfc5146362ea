"""Every metric, declared once, and how it is put together when it is scraped.

What control does itself (swaps, drains, checks) is counted in `Metrics` as it happens. What the workers count comes in
a `ServiceSample` for each scrape.
"""

from proxy.metrics.metrics import Metrics
from proxy.metrics.sample import DrainSample, ReplicaSample, Sample, ServiceSample

__all__ = ["DrainSample", "Metrics", "ReplicaSample", "Sample", "ServiceSample"]
