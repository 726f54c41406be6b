// Fill an instruction set's table of functions.
#pragma once
#include "vectors.hpp"

#include "convolve.hpp"
#include "units.hpp"

#define SNNCONV_KERNELS(NAME, ISA) \
    const Kernels NAME = {#NAME, ISA::width, convolve<ISA>, encode<ISA>, combine<ISA>, tally<ISA>, remove_spikes<ISA>};
