// Any checkpoint: refused, or tensors whose bytes are all there and whose sum keeps to the bound.
#include <moraine/io/safetensors.hpp>
#include <moraine/io/torch_file.hpp>
#include <string>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  constexpr std::uint64_t most = std::uint64_t{1} << 22;
  fuzz::run([&] {
    for (const char* select : {"", "*"}) {
      const moraine::TorchFile f = moraine::parse_torch(bytes, size, nullptr, "fuzz",
                                                        {.select = select, .most_bytes = most});
      std::uint64_t sum = 0;
      moraine::TensorMap writable;
      for (const auto& [name, t] : f.tensors) {
        fuzz::touch(t.data, t.bytes);
        sum += t.bytes;
        if (t.dtype == moraine::Dtype::other) continue;
        fuzz::require(t.as<float>().numel() == t.shape.numel());
        writable.emplace(name, t);
      }
      fuzz::require(sum <= most);
      std::vector<const moraine::AnyTensor*> order;
      (void)moraine::safetensors_header(writable, {}, order);
    }
  });
  // The machine alone, past the archive around it.
  fuzz::run([&] {
    const moraine::TorchOptions options;
    const moraine::Pickle p = moraine::parse_pickle({reinterpret_cast<const char*>(data), size},
                                                    "fuzz", moraine::detail::torch_pickle(options));
    fuzz::require(p.used <= size && p.root < p.values.size());
    for (const moraine::PickleValue& v : p.values)
      for (std::uint32_t i : v.items) fuzz::require(i < p.values.size());
  });
  return 0;
}
