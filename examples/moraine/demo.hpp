#pragma once
// What the parts of the demo hand to each other.
#include <cstdint>
#include <memory>
#include <moraine/recipes/domain_shift.hpp>
#include <string>
#include <vector>

#include "commands.hpp"

namespace program {

struct Trunks {
  std::string vision, depth;  ///< files
};

/// One training of one method and what it reached.
struct MethodRun {
  moraine::Index trained = 0;
  double seconds = 0;
  std::vector<double> loss, balance;          ///< per step
  std::vector<moraine::Confusion> confusion;  ///< per domain, source first
  /// Mean mIoU of all domains but the source.
  double target_mean() const {
    double sum = 0;
    for (std::size_t d = 1; d < confusion.size(); ++d) sum += confusion[d].mean_iou();
    return sum / static_cast<double>(confusion.size() - 1);
  }
};
struct MethodRow {
  std::string key, title, note;
  std::vector<MethodRun> runs;  ///< one per seed
};
struct DemoResult {
  std::vector<std::string> domains;
  std::vector<MethodRow> rows;
};

void write_result_table(const std::string& path, const DemoResult& result);

/// Makes the large scene, draws its map and routing, and writes the report.
void draw_large_scene(const DemoOptions& o, moraine::Segmenter<float>& net, const Trunks& trunks,
                      const DemoResult& result,
                      const std::vector<std::vector<moraine::data::Sample>>& test);

}  // namespace program
