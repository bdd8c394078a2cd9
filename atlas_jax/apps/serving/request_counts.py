"""The server's metrics, in Prometheus's format."""

from collections.abc import Callable

import prometheus_client

MEDIA_TYPE = prometheus_client.CONTENT_TYPE_LATEST
SECONDS = (.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The figures of one server.

    Attributes:
      requests: a counter with labels path and status.
      seconds: a histogram of requests' seconds with the label path.
      batches: a histogram of the number of questions computed together.
    """

    def __init__(self, waiting: Callable[[], float]):
        """Takes a function that returns the number of waiting questions."""
        # A separate registry: the default one would refuse a second server in the process.
        self._registry = prometheus_client.CollectorRegistry()
        # The creation time of each figure would double the number of samples.
        prometheus_client.disable_created_metrics()
        self.requests = prometheus_client.Counter('atlas_jax_requests_total',
                                                  'Requests, by path and status.',
                                                  ['path', 'status'], registry=self._registry)
        self.seconds = prometheus_client.Histogram(
            'atlas_jax_request_seconds', 'Seconds from a request to its last byte, by path.',
            ['path'], buckets=SECONDS, registry=self._registry)
        self.batches = prometheus_client.Histogram('atlas_jax_batch_size',
                                                   'Questions that were computed together.',
                                                   buckets=SIZES, registry=self._registry)
        depth = prometheus_client.Gauge('atlas_jax_queue_depth', 'Questions that wait.',
                                        registry=self._registry)
        depth.set_function(waiting)

    def text(self) -> bytes:
        """Returns all figures in the format of MEDIA_TYPE."""
        return prometheus_client.generate_latest(self._registry)
