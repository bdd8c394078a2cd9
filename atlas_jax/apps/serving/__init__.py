"""A project served over HTTP: answers, retrieval and changes of its passages (docs/serve.md)."""
