"""Search of an index: one interface, several backends."""
