"""The spiking network: neurons, layers, wiring, noise, counting and simulation."""
