"""What is measured. The table of all works is in `table.py`."""
