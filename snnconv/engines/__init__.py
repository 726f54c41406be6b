"""Engines: ways to run the same spiking network, equal to its plain forward bit for bit."""
