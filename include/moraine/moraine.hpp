#pragma once
// The umbrella for a first program: tensors, gradients and ops, modules, and what a training loop
// needs. Models, adapters, files and inspection are one further include each.
#include <moraine/autograd/backward.hpp>
#include <moraine/autograd/checkpoint.hpp>
#include <moraine/core/any_tensor.hpp>
#include <moraine/core/random.hpp>
#include <moraine/ops/attention.hpp>
#include <moraine/ops/binary.hpp>
#include <moraine/ops/linear.hpp>
#include <moraine/ops/matmul.hpp>
#include <moraine/ops/norm.hpp>
#include <moraine/ops/reduce.hpp>
#include <moraine/ops/shape.hpp>
#include <moraine/ops/softmax.hpp>
#include <moraine/ops/unary.hpp>
