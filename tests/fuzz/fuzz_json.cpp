// Any text: refused, or written and read back as the same value.
#include <moraine/io/json.hpp>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::run([&] {
    const moraine::Json j = moraine::parse_json({reinterpret_cast<const char*>(data), size});
    for (int indent : {-1, 2}) {
      const std::string text = moraine::json_text(j, {.indent = indent});
      fuzz::require(moraine::parse_json(text) == j);
    }
  });
  return 0;
}
