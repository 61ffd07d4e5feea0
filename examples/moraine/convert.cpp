// convert: weights into safetensors, and into the names of another publisher.
#include <cstdio>
#include <moraine/recipes/convert_files.hpp>

#include "arguments.hpp"
#include "commands.hpp"

using namespace moraine;

namespace program {

int run_convert(const ConvertCommand& c) {
  ConvertFileOptions o{.input = c.input, .output = c.output};
  o.torch = {.select = c.select, .also = c.pass_over};
  o.names.rename = !c.to.empty();
  o.names.to = c.to == "meta" ? Naming::meta : c.to == "timm" ? Naming::timm : Naming::hf;
  o.names.prefix = c.prefix;
  o.names.drop = c.drop;
  o.names.convert = !c.dtype.empty();
  o.names.dtype = c.dtype == "f16" ? Dtype::f16 : c.dtype == "bf16" ? Dtype::bf16 : Dtype::f32;
  o.config = !c.no_config;
  o.sizes = {.heads = c.heads, .activation = c.activation};
  o.account = c.account;
  const ConvertFileReport r = convert_file(o);

  const auto line = [](const char* name, const std::string& value) {
    std::printf("  %-12s %s\n", name, one_line(value).c_str());
  };
  const auto few = [](const std::vector<std::string>& v) {
    std::string s;
    for (std::size_t i = 0; i < v.size() && i < 6; ++i) s += (i ? ", " : "") + v[i];
    return s + (v.size() > 6 ? " ..." : "");
  };
  std::printf("%s -> %s: %zu tensors, %llu bytes\n", one_line(c.input).c_str(),
              one_line(c.output).c_str(), r.tensors, static_cast<unsigned long long>(r.bytes));
  line("read", r.format + (r.selected.empty() ? "" : ", part \"" + r.selected + "\""));
  if (!r.others.empty()) line("other parts", few(r.others));
  if (!r.no_tensors.empty()) line("no tensors", few(r.no_tensors));
  line("recognised", r.names.from.what() + (r.sizes.preset.empty() ? "" : ", " + r.sizes.preset));
  line("kept", std::to_string(r.names.kept.size()));
  line("renamed", std::to_string(r.names.renamed.size()));
  if (c.verbose)
    for (const auto& [from, to] : r.names.renamed) line("", from + " -> " + to);
  line("dropped", std::to_string(r.names.dropped.size()));
  for (std::size_t i = 0; i < r.names.dropped.size() && (c.verbose || i < 6); ++i)
    line("", r.names.dropped[i].first + ": " + r.names.dropped[i].second);
  line("converted", std::to_string(r.names.converted.size()));
  for (const std::string& n : r.names.notes) line("note", n);
  if (!r.config_path.empty())
    line("config.json",
         few(r.config.assumed) + (r.config.assumed.empty() ? "every field is read off the weights"
                                                           : ": as published, not in the weights"));
  else if (!r.config.missing.empty())
    line("config.json", "not written: " + r.config.missing);
  return 0;
}

}  // namespace program
