#pragma once
// All losses.
#include <moraine/ops/cross_entropy.hpp>
