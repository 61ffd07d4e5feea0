#include <moraine/cuda.cuh>
