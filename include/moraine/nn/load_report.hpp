#pragma once
// The account of a load: what became of every key of the file, for a user to print, and the hints
// of a message when names do not fit.
#include <moraine/core/edit_distance.hpp>
#include <moraine/core/shape.hpp>

#include <string>
#include <vector>

namespace moraine MORAINE_API {

/// What load() did, key by key. A load that misses or does not know a key is an error: nothing else
/// happens to a file than what stands here.
struct LoadReport {
  Index tensors = 0, converted = 0;      ///< read; of these stored as another element type
  std::vector<std::string> used;         ///< keys, in the order of the parameters
  std::vector<std::string> ignored;      ///< keys that the family has no use for
  std::vector<std::string> conversions;  ///< "key: F16 -> F32"
  std::vector<std::string> reshaped;     ///< "key: (24) -> (1,1,24)"
  std::vector<std::string> joined;       ///< "path: key + key + zeros": rows of several keys
  Index shared = 0;                      ///< parameters that point into the file's memory

  /// A few lines: counts, and the first `most` of each list.
  std::string text(std::size_t most = 4) const {
    const auto list = [&](const char* name, const std::vector<std::string>& v) {
      std::string out = std::string(name) + std::to_string(v.size());
      for (std::size_t i = 0; i < v.size() && i < most; ++i) out += "\n  " + v[i];
      return out + (v.size() > most ? "\n  ...\n" : "\n");
    };
    return "used " + std::to_string(used.size()) + " (missing 0, unexpected 0), " +
           std::to_string(shared) + " of them in the file's memory\n" + list("ignored ", ignored) +
           list("converted ", conversions) + list("reshaped ", reshaped) + list("joined ", joined);
  }
};

/// Per thread: who wants the accounts of the loads to come; null: nobody.
inline LoadReport*& load_listener() {
  static thread_local LoadReport* report = nullptr;
  return report;
}
/// While it lives, every load() of this thread adds its account to `report`: for loads that happen
/// within other functions.
class LoadAccount {
 public:
  explicit LoadAccount(LoadReport* report) : before_(load_listener()) {
    if (report) load_listener() = report;
  }
  ~LoadAccount() { load_listener() = before_; }
  LoadAccount(const LoadAccount&) = delete;
  LoadAccount& operator=(const LoadAccount&) = delete;

 private:
  LoadReport* before_;
};

namespace detail {
/// "a, b, c and 4 more".
inline std::string some_of(const std::vector<std::string>& names) {
  std::string out;
  for (std::size_t i = 0; i < names.size() && i < 4; ++i) out += (i ? ", " : "") + names[i];
  if (names.size() > 4) out += " and " + std::to_string(names.size() - 4) + " more";
  return out;
}
inline void add_report(LoadReport& to, const LoadReport& r) {
  to.tensors += r.tensors, to.converted += r.converted, to.shared += r.shared;
  for (auto list : {&LoadReport::used, &LoadReport::ignored, &LoadReport::conversions,
                    &LoadReport::reshaped, &LoadReport::joined})
    (to.*list).insert((to.*list).end(), (r.*list).begin(), (r.*list).end());
}

/// What does not fit, in one line; "" when all does. Missing names get the nearest unexpected one,
/// if one is near; a prefix that all of the file has is named.
[[gnu::cold, gnu::noinline]] inline std::string misfit(const std::vector<std::string>& missing,
                                                       const std::vector<std::string>& shapes,
                                                       const std::vector<std::string>& dtypes,
                                                       const std::vector<std::string>& unexpected) {
  std::string wrong;
  const auto tell = [&](const char* kind, const std::vector<std::string>& names) {
    if (names.empty()) return;
    wrong += (wrong.empty() ? "" : "; ") + std::to_string(names.size()) + ' ' + kind + ": " +
             some_of(names);
  };
  std::vector<std::string> hinted = missing;
  std::string prefix;
  if (!missing.empty())
    for (const std::string& u : unexpected)
      if (prefix.empty() && u.size() > missing[0].size() + 1 && u.ends_with("." + missing[0]))
        prefix = u.substr(0, u.size() - missing[0].size());
  for (std::size_t i = 0; prefix.empty() && i < hinted.size() && i < 4; ++i) {
    std::size_t least = missing[i].size() / 8 + 3;  // further away is another name
    const std::string* best = nullptr;
    for (std::size_t j = 0; j < unexpected.size() && j < 4000; ++j) {
      const std::string& u = unexpected[j];
      if (u.size() + least < missing[i].size() || missing[i].size() + least < u.size()) continue;
      const std::size_t d = edit_distance(missing[i], u);
      if (d < least) least = d, best = &u;
    }
    if (best) hinted[i] += " (is it " + *best + "?)";
  }
  tell("missing", hinted);
  tell("of another shape", shapes);
  tell("not of a floating type", dtypes);
  tell("unexpected", unexpected);
  if (!prefix.empty())
    wrong +=
        " -> the file's names begin with \"" + prefix + "\": moraine convert --prefix " + prefix;
  return wrong;
}
}  // namespace detail

}  // namespace moraine
