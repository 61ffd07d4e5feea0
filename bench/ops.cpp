// Times every op that has a row in tests/ops, at the row's large sizes, in float: the value alone,
// and the value with all its gradients.
//
//   bench/ops --benchmark_filter=softmax        all options are Google Benchmark's
//   OMP_NUM_THREADS=1 bench/ops                 on one thread
//
// `elements` counts the elements of inputs and output that pass per second.
#define DOCTEST_CONFIG_IMPLEMENT  // the rows are doctest cases; none is run here
#include <benchmark/benchmark.h>

#include <memory>
#include <moraine/autograd/backward.hpp>
#include <moraine/core/parallel.hpp>
#include <string>

#include "op_case.hpp"

using namespace moraine;
using namespace moraine::op_test;

namespace {

void time_row(benchmark::State& state, const Row& row, bool gradient) {
  try {
    const Inputs<float> inputs = make_inputs<float>(row, large_shapes(row));
    Inputs<float> x = inputs;
    Index elements = 0;
    for (Tensor<float>& t : x) {
      if (gradient) t.requires_grad();
      elements += t.numel();
    }
    Tensor<float> y = row.f32(x);
    elements += y.numel();
    const auto dy = Tensor<float>::ones(y.shape());
    y = {};
    for (auto _ : state) {
      y = row.f32(x);
      if (gradient) {
        backward(y, dy);
        for (Tensor<float>& t : x) t.zero_grad();
      }
      benchmark::DoNotOptimize(y.data());
    }
    state.counters["elements"] = benchmark::Counter(static_cast<double>(elements),
                                                    benchmark::Counter::kIsIterationInvariantRate);
  } catch (const Error& e) {
    state.SkipWithError(e.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (Row (*make)() : all_rows()) {
    const auto row = std::make_shared<Row>(make());
    for (bool gradient : {false, true}) {
      if (gradient && !row->options.gradient) continue;
      benchmark::RegisterBenchmark(
          (row->name + (gradient ? "/gradient" : "/value")).c_str(),
          [row, gradient](benchmark::State& state) { time_row(state, *row, gradient); })
          ->UseRealTime()
          ->Unit(benchmark::kMicrosecond);
    }
  }
  benchmark::AddCustomContext("moraine threads", std::to_string(threads()));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
