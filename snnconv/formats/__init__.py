"""Files: the network's own format."""
