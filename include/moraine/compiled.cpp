// The common instantiations, built once: the source of the target moraine::compiled.
#include <moraine/moraine.hpp>
