#pragma once
// Keeps what a model shows of itself: every value that is observed under a name that matches one of
// the patterns, copied, in order, up to a limit of bytes. For looking at one forward by hand; for
// routing over many windows see inspect/routing.hpp, which keeps counts instead of tensors.
//
//   inspect::Recorder seen({.patterns = {"moe.*.visual.gates"}});
//   {
//     const Observing listen(seen);
//     model(x);
//   }
//   Tensor<float> gates = seen.last("moe.3.visual.gates").as<float>();  // (n,E)
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <moraine/core/any_tensor.hpp>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/nn/module.hpp>
#include <moraine/nn/observe.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine::inspect {

/// What happens to a value that would pass the limit.
enum class WhenFull : unsigned char {
  error,  ///< Error of kind memory, from inside the forward
  forget  ///< it is counted in forgotten() and not kept
};

struct RecorderOptions {
  /// Globs over dotted names: '*' within one segment, "**" across segments. The pattern "**" alone
  /// stands for all that costs nothing to show; attention maps, "blocks.*.attn.weights", are made
  /// for a pattern that asks for them.
  std::vector<std::string> patterns{"**"};
  std::size_t max_bytes = std::size_t{256} << 20;  ///< of all values together
  WhenFull when_full = WhenFull::error;
};

class Recorder final : public Observer {
 public:
  explicit Recorder(RecorderOptions o = {}) : options_(std::move(o)) {}

  bool asks_for(const std::string& name) const override {
    for (const std::string& p : options_.patterns)
      if (p != "**" && matches(p.c_str(), name.c_str())) return true;
    return false;
  }
  void observed(const std::string& name, const AnyTensor& value) override {
    bool wanted = false;
    for (const std::string& p : options_.patterns) wanted |= matches(p.c_str(), name.c_str());
    if (!wanted) return;
    if (value.bytes > options_.max_bytes - bytes_) {
      if (options_.when_full == WhenFull::error)
        fail(ErrorKind::memory, "recorder: " + name + " " + str(value.shape) + " does not fit; " +
                                    std::to_string(bytes_) + " of at most " +
                                    std::to_string(options_.max_bytes) +
                                    " bytes are in use -> narrow the patterns or raise max_bytes");
      ++forgotten_;
      return;
    }
    bytes_ += value.bytes;
    kept_[name].push_back(copy(value));
  }

  /// Names in alphabetical order.
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& [name, values] : kept_) out.push_back(name);
    return out;
  }
  /// Everything observed under a name, in order; empty when there was nothing.
  const std::vector<AnyTensor>& all(const std::string& name) const {
    static const std::vector<AnyTensor> none;
    const auto at = kept_.find(name);
    return at == kept_.end() ? none : at->second;
  }
  /// The value observed last. Throws ErrorKind::key when there is none.
  const AnyTensor& last(const std::string& name) const {
    const std::vector<AnyTensor>& values = all(name);
    if (values.empty())
      fail(ErrorKind::key, "recorder: nothing was observed as \"" + name + "\"; " +
                               std::to_string(kept_.size()) + " other names" +
                               (kept_.empty() ? " -> does the model run while Observing lives?"
                                              : ", for example \"" + kept_.begin()->first + "\""));
    return values.back();
  }
  std::size_t bytes() const { return bytes_; }
  /// How many values were not kept for want of room.
  std::size_t forgotten() const { return forgotten_; }
  void clear() { kept_.clear(), bytes_ = forgotten_ = 0; }

 private:
  /// A copy of its own: a view would keep a whole storage alive, which the limit would not see.
  static AnyTensor copy(const AnyTensor& v) {
    AnyTensor out = v;
    Tensor<std::uint8_t> bytes = Tensor<std::uint8_t>::empty({static_cast<Index>(v.bytes)});
    if (v.bytes) std::memcpy(bytes.data(), v.data, v.bytes);
    out.owner = bytes.storage();
    out.data = reinterpret_cast<const std::byte*>(bytes.data());
    return out;
  }
  RecorderOptions options_;
  std::map<std::string, std::vector<AnyTensor>> kept_;
  std::size_t bytes_ = 0, forgotten_ = 0;
};

}  // namespace moraine::inspect
