"""Self-contained HTML reports with tables, charts and answers."""
