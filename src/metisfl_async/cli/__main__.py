"""Allows ``python -m metisfl_async.cli``."""

from metisfl_async.cli import main

if __name__ == "__main__":  # not in the processes that learners may have
    main()
