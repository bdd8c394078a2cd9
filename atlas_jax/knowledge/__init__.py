"""An index together with its passage store, and several of them searched as one."""
