"""The networks, and the builder they share."""
