"""From the traced ANN to the spiking network, and the proof that nothing was lost."""
