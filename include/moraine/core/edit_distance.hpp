#pragma once
// How far two words are apart, for hints at misspelled options, fields and keys.
#include <moraine/core/config.hpp>

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <vector>

namespace moraine MORAINE_API {

/// Least number of letters to insert, delete or replace that makes one word the other.
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t corner = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replace = corner + (a[i - 1] != b[j - 1]);
      corner = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replace});
    }
  }
  return row[b.size()];
}

}  // namespace moraine
