import prometheus_client.parser

from atlas_jax.apps.serving import request_counts


def test_names_and_numbers():
    figures, other = request_counts.Metrics(lambda: 3), request_counts.Metrics(lambda: 0)
    figures.requests.labels('/a', '200').inc()
    figures.seconds.labels('/a').observe(.3)
    for size in (1, 2, 3, 100):
        figures.batches.observe(size)
    found = {(sample.name, *sorted(sample.labels.values())): sample.value for family in
             prometheus_client.parser.text_string_to_metric_families(figures.text().decode()) for sample in family.samples}
    assert found['atlas_jax_requests_total', '/a', '200'] == 1 and found['atlas_jax_queue_depth',] == 3
    assert found['atlas_jax_request_seconds_bucket', '/a', '0.25'] == 0 and found['atlas_jax_request_seconds_bucket', '/a', '0.5'] == 1
    assert [found['atlas_jax_batch_size_bucket', bound] for bound in ('1.0', '2.0', '4.0', '64.0', '+Inf')] == [1, 2, 3, 3, 4]
    assert (found['atlas_jax_batch_size_sum',], found['atlas_jax_batch_size_count',]) == (106, 4)
    # Without creation times, figures of the process and figures of another server.
    assert {name.split('_')[0] for name, *_ in found} == {'atlas'} and not [name for name, *_ in found if 'created' in name]
    assert b'path="/a"' not in other.text()
