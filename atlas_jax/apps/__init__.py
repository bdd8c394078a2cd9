"""The programs: nothing in the library imports them."""
