"""From measured results to tables and figures; plain dicts in, no torch, and the only place that imports matplotlib."""
