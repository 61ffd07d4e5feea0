// The half that leaves the common instantiations to moraine::compiled.
#include "mixed.hpp"

std::vector<float> other_float() { return computed<float>(); }
std::vector<double> other_double() { return computed<double>(); }
