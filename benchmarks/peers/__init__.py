"""Adapters: how each peer is called. The table of all is in `table.py`; this file stays empty, since a
program that measures its own start imports no more than the adapter that it needs."""
