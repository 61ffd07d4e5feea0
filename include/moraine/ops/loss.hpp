#pragma once
// All losses.
#include <moraine/ops/cross_entropy.hpp>
#include <moraine/ops/dice_loss.hpp>
#include <moraine/ops/pointwise_loss.hpp>
