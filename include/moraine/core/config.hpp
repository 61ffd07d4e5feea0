#pragma once
// What every header needs to know about the compiler. Macros here add or remove declarations; none
// of them changes a function body or a class layout (docs/design/0001-shape-of-the-library.md).

#define MORAINE_VERSION_MAJOR 0
#define MORAINE_VERSION_MINOR 1
#define MORAINE_VERSION_PATCH 0
#define MORAINE_VERSION "0.1.0"

/// On a namespace that holds kernels, shared state or the exception type: the slots of a program
/// and of its plugins must be one object even under -fvisibility=hidden.
#define MORAINE_API __attribute__((visibility("default")))

/// Around all kernels: g++ optimises them even where the file is compiled without (a user's Debug
/// build, whose products would be thirty times slower). clang cannot: link moraine::compiled there.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__OPTIMIZE__) && !defined(__CUDACC__)
#define MORAINE_OPTIMISED_BEGIN _Pragma("GCC push_options") _Pragma("GCC optimize(\"O2\")")
#define MORAINE_OPTIMISED_END _Pragma("GCC pop_options")
#else
#define MORAINE_OPTIMISED_BEGIN
#define MORAINE_OPTIMISED_END
#endif

/// Callable from host and device code. `__CUDACC__` is the only test for CUDA in this library.
#if defined(__CUDACC__)
#define MORAINE_HD __host__ __device__
#else
#define MORAINE_HD
#endif

/// A translation unit sees host sections (ops, CPU code, autograd), device sections (CUDA kernels),
/// or both. cuda.cuh defines MORAINE_DEVICE alone, all.cuh both, a plain C++ file neither.
#if !defined(MORAINE_DEVICE) && !defined(MORAINE_HOST)
#define MORAINE_HOST 1
#endif

/// One line at the end of a kernel's CPU section. Header-only: nothing. With the target
/// moraine::compiled: a promise that compiled.cpp holds the instantiation. In compiled.cpp: the
/// instantiation itself.
#if defined(MORAINE_COMPILING)
#define MORAINE_INSTANTIATE(...)      \
  template struct __VA_ARGS__<float>; \
  template struct __VA_ARGS__<double>;
#elif defined(MORAINE_COMPILED)
#define MORAINE_INSTANTIATE(...)             \
  extern template struct __VA_ARGS__<float>; \
  extern template struct __VA_ARGS__<double>;
#else
#define MORAINE_INSTANTIATE(...)
#endif
