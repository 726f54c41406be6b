"""Spiking neurons: pure step functions in thin shells on SpikingJelly's MemoryModule."""
