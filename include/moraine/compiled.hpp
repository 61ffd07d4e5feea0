#pragma once
// Which front ends of ops moraine::compiled holds beside the kernels (those name themselves, by
// MORAINE_INSTANTIATE). Included by moraine.hpp; without the target it says nothing. A front end
// that is not listed is compiled where it is used, as ever.
#if defined(MORAINE_COMPILED) || defined(MORAINE_COMPILING)

#define MORAINE_RULES_OF_ONE(LINK, T, X)                                               \
  X(LINK, T, Neg)                                                                      \
  X(LINK, T, Exp) X(LINK, T, Log) X(LINK, T, Sqrt) X(LINK, T, Square) X(LINK, T, Tanh) \
      X(LINK, T, Sigmoid) X(LINK, T, Relu) X(LINK, T, Gelu) X(LINK, T, GeluTanh)       \
          X(LINK, T, QuickGelu) X(LINK, T, Silu)
#define MORAINE_RULES_OF_TWO(LINK, T, X) \
  X(LINK, T, Add) X(LINK, T, Sub) X(LINK, T, Mul) X(LINK, T, Div)
#define MORAINE_ONE(LINK, T, Rule) LINK template Tensor<T> unary<rules::Rule, T>(const Tensor<T>&);
#define MORAINE_TWO(LINK, T, Rule)                                                    \
  LINK template Tensor<T> binary<rules::Rule, T>(const Tensor<T>&, const Tensor<T>&); \
  LINK template Tensor<T> binary_values<rules::Rule, T>(const Tensor<T>&, const Tensor<T>&);

#define MORAINE_FRONT_ENDS(LINK, T)                                                             \
  LINK template struct NodeOf<T>;                                                               \
  LINK template void backward(const Tensor<T>&, Tensor<T>);                                     \
  MORAINE_RULES_OF_ONE(LINK, T, MORAINE_ONE)                                                    \
  MORAINE_RULES_OF_TWO(LINK, T, MORAINE_TWO)                                                    \
  LINK template Tensor<T> mul(const Tensor<T>&, const Tensor<T>&);                              \
  LINK template Tensor<T> sum_values(const Tensor<T>&, const std::vector<int>&);                \
  LINK template Tensor<T> sum_to(const Tensor<T>&, const Shape&);                               \
  LINK template Tensor<T> sum(const Tensor<T>&, const ReduceOptions&);                          \
  LINK template Tensor<T> mean(const Tensor<T>&, const ReduceOptions&);                         \
  LINK template Tensor<T> scaled(const Tensor<T>&, T);                                          \
  LINK template Tensor<T> reshape(const Tensor<T>&, Shape);                                     \
  LINK template Tensor<T> permute(const Tensor<T>&, const std::vector<int>&);                   \
  LINK template Tensor<T> transpose(const Tensor<T>&, int, int);                                \
  LINK template Tensor<T> expand(const Tensor<T>&, const Shape&);                               \
  LINK template Tensor<T> slice(const Tensor<T>&, int, Index, Index, Index);                    \
  LINK template Tensor<T> concat(const std::vector<Tensor<T>>&, int);                           \
  LINK template Tensor<T> matmul_values(const Tensor<T>&, const Tensor<T>&, T);                 \
  LINK template Tensor<T> matmul(const Tensor<T>&, const Tensor<T>&, T);                        \
  LINK template Tensor<T> linear(const Tensor<T>&, const Tensor<T>&, const Tensor<T>&,          \
                                 const LinearOptions<T>&);                                      \
  LINK template Tensor<T> linear_composed(const Tensor<T>&, const Tensor<T>&, const Tensor<T>&, \
                                          const LinearOptions<T>&);                             \
  LINK template Tensor<T> softmax_rows(const Tensor<T>&, bool);                                 \
  LINK template Tensor<T> softmax(const Tensor<T>&, int);                                       \
  LINK template Tensor<T> log_softmax(const Tensor<T>&, int);                                   \
  LINK template Tensor<T> layer_norm(const Tensor<T>&, const Tensor<T>&, const Tensor<T>&, double);

namespace moraine MORAINE_API {
#if defined(MORAINE_COMPILING)
MORAINE_FRONT_ENDS(, float)
MORAINE_FRONT_ENDS(, double)
#else
MORAINE_FRONT_ENDS(extern, float)
MORAINE_FRONT_ENDS(extern, double)
#endif
}  // namespace moraine

#undef MORAINE_RULES_OF_ONE
#undef MORAINE_RULES_OF_TWO
#undef MORAINE_ONE
#undef MORAINE_TWO
#undef MORAINE_FRONT_ENDS
#endif
