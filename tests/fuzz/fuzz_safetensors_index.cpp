// Any index of shards: refused, or plain file names only.
#include <moraine/io/safetensors.hpp>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::run([&] {
    for (const auto& [tensor, shard] :
         moraine::parse_safetensors_index({reinterpret_cast<const char*>(data), size}, "index")) {
      fuzz::require(!shard.empty() && shard != "..");
      fuzz::require(shard.find('/') == std::string::npos);
    }
  });
  return 0;
}
