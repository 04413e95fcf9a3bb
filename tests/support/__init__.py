"""What tests share: environments with Ray, clusters on loopback, processes and small disks."""
