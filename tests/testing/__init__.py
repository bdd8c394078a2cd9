"""Small models and made-up knowledge for tests."""
