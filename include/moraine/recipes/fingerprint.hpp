#pragma once
// A fingerprint of weights: which base an adapter or a plugin belongs to. Of the tensors, not of
// the file: the same for one file and for shards, mapped or copied, whatever stands in the
// metadata.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <moraine/core/any_tensor.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/io/file.hpp>
#include <string>
#include <vector>

namespace moraine MORAINE_API {

namespace detail {
/// Eight bytes at a time: xor, rotate, multiply by the prime of FNV-1a. Every bit of the input
/// reaches every bit of the sum; no defence against an attacker.
struct WordSum {
  std::uint64_t value = 0xcbf29ce484222325u;
  void word(std::uint64_t w) {
    const std::uint64_t x = value ^ w;
    value = ((x << 29) | (x >> 35)) * 0x9e3779b97f4a7c15u;
  }
  void add(const void* data, std::size_t n) {
    const auto* p = static_cast<const unsigned char*>(data);
    for (; n >= 8; p += 8, n -= 8) {
      std::uint64_t w;
      std::memcpy(&w, p, 8);
      word(w);
    }
    std::uint64_t rest = std::uint64_t{n} << 56;  // how many bytes are left, and these
    std::memcpy(&rest, p, n);
    word(rest);
  }
};
}  // namespace detail

/// 16 hexadecimal digits over names, types, shapes and bytes of all tensors. Reads every byte once.
inline std::string weights_fingerprint(const TensorMap& map) {
  std::vector<const TensorMap::value_type*> all;
  for (const auto& entry : map) all.push_back(&entry);
  std::vector<std::uint64_t> sums(all.size());
  parallel_for(static_cast<Index>(all.size()), 1, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i) {
      const auto& [name, t] = *all[static_cast<std::size_t>(i)];
      detail::WordSum s;
      s.add(name.data(), name.size());
      s.word(static_cast<std::uint64_t>(t.dtype));
      for (Index d : t.shape) s.word(static_cast<std::uint64_t>(d));
      if (t.bytes) s.add(t.data, t.bytes);
      sums[static_cast<std::size_t>(i)] = s.value;
    }
  });
  detail::WordSum s;
  for (std::uint64_t v : sums) s.word(v);
  s.word(sums.size());
  std::string out(16, '0');
  for (int i = 0; i < 16; ++i)
    out[static_cast<std::size_t>(i)] = "0123456789abcdef"[(s.value >> (60 - 4 * i)) & 15u];
  return out;
}

}  // namespace moraine
