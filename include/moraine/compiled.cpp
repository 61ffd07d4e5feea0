// The common instantiations, built once: the source of the target moraine::compiled. Beside what a
// first program includes, whatever else holds kernels.
#include <moraine/moraine.hpp>
#include <moraine/ops/bf16.hpp>
#include <moraine/ops/deform_attention.hpp>
#include <moraine/ops/routed_mixture.hpp>
