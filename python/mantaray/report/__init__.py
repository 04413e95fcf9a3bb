"""One HTML page about a running cluster: patches, disks, stalls, waits and relays. For `mantaray report`.

The page contains everything that it shows. It opens without a network and needs no script.
"""
