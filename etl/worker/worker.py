"""A worker of an ETL pool: loads one user function and applies it to samples.

The node starts this file as ``python3 worker.py``, the package beside it. File descriptor 3 is a
stream socket to the node, 4 a shared page whose first word names the sample in hand, 5 the memory
in which large payloads cross: its first half is what the node sends, the second what the worker
answers. Stdout and stderr belong to user code and end in the log.
"""

from shardstream_worker.serve import main

if __name__ == "__main__":
    main()
