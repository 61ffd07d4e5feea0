// Any safetensors file: refused, or tensors that tile the data and are written back the same.
#include <moraine/io/safetensors.hpp>
#include <string>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::run([&] {
    const moraine::SafetensorsFile f =
        moraine::parse_safetensors(reinterpret_cast<const std::byte*>(data), size, nullptr, "fuzz",
                                   {.refuse_non_finite = false});
    std::size_t sum = 0;
    moraine::TensorMap writable;
    for (const auto& [name, t] : f.tensors) {
      fuzz::touch(t.data, t.bytes);
      sum += t.bytes;
      if (t.dtype != moraine::Dtype::other) {
        fuzz::require(t.as<double>().numel() == t.shape.numel());
        writable.emplace(name, t);
      }
    }
    fuzz::require(sum <= size);
    std::vector<const moraine::AnyTensor*> order;
    std::string file = moraine::safetensors_header(writable, f.metadata, order);
    for (const auto* t : order) file.append(reinterpret_cast<const char*>(t->data), t->bytes);
    const auto back = moraine::parse_safetensors(reinterpret_cast<const std::byte*>(file.data()),
                                                 file.size(), nullptr, "back");
    fuzz::require(back.tensors.size() == writable.size() && back.metadata == f.metadata);
  });
  return 0;
}

// Changes to the header's text alone nearly always end at its length or in its grammar. This keeps
// the length right and puts hostile numbers where numbers stand.
extern "C" __attribute__((weak)) std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size,
                                                              std::size_t max);
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  std::uint64_t n = 0;
  if (size >= 8) std::memcpy(&n, data, 8);
  if (size < 8 || n > size - 8 || seed % 4 == 0) return LLVMFuzzerMutate(data, size, max);
  seed /= 4;
  std::string header(reinterpret_cast<char*>(data) + 8, n);
  std::string rest(reinterpret_cast<char*>(data) + 8 + n, size - 8 - n);
  if (seed % 3 == 0) {
    rest.resize(seed / 3 % 64);
  } else if (seed % 3 == 1 && !header.empty()) {
    std::string room = header + std::string(64, ' ');
    room.resize(
        LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(room.data()), header.size(), room.size()));
    header = room;
  } else {
    const char* hostile[] = {"0",
                             "1",
                             "2",
                             "4",
                             "8",
                             "16",
                             "-1",
                             "-0",
                             "1.5",
                             "4e0",
                             "9223372036854775807",
                             "9223372036854775808",
                             "18446744073709551615",
                             "18446744073709551616",
                             "4611686018427387904",
                             "[0]",
                             "\"0\"",
                             "null",
                             "[]",
                             "{}"};
    const std::size_t from = header.find_first_of("0123456789", seed / 3 % (header.size() + 1));
    if (from != std::string::npos) {
      const std::size_t to = std::min(header.find_first_not_of("0123456789", from), header.size());
      header.replace(from, to - from, hostile[seed / 7 % (sizeof hostile / sizeof *hostile)]);
    }
  }
  n = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &n, 8);
  file += header + rest;
  if (file.size() > max) return LLVMFuzzerMutate(data, size, max);
  std::memcpy(data, file.data(), file.size());
  return file.size();
}
