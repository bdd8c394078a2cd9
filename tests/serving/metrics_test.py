from atlas_jax.serving import metrics


def test_prometheus_text():
    figures = metrics.Metrics(lambda: 3)
    figures.requests.add(path='/a', status='200')
    figures.requests.add(path='/a', status='200')
    for size in (1, 2, 3, 100):
        figures.batches.add(size)
    lines = figures.text().splitlines()
    assert 'atlas_jax_requests_total{path="/a",status="200"} 2' in lines and 'atlas_jax_queue_depth 3' in lines
    counts = [line.split() for line in lines if line.startswith('atlas_jax_batch_size_bucket')]
    # Cumulative, a bound included in its bucket.
    assert [count for _, count in counts] == ['1', '2', '3', '3', '3', '3', '3', '4'] and 'le="+Inf"' in counts[-1][0]
    assert 'atlas_jax_batch_size_sum 106' in lines and 'atlas_jax_batch_size_count 4' in lines
    assert '# TYPE atlas_jax_request_seconds histogram' in lines and figures.text().endswith('\n')
