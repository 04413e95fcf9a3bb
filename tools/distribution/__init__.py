"""Makes what is published: wheels, the source distribution, checksums and the list of what is inside."""
