"""From a float network to one with codes: where quantizers go, and their steps."""
