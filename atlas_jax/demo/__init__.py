"""The demo: the World Factbook as documents and questions, from ordinary pip packages. No library."""
