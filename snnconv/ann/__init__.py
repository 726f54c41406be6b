"""The quantized ANN: quantizers, weight parametrizations, networks and training."""
