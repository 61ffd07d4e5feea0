#pragma once
// Weights from file to file: any kind that is read here into safetensors, renamed and converted,
// with a config.json beside them where one can be read off the weights, and an account of all of
// it. The whole of `moraine convert`.
#include <map>
#include <moraine/io/file.hpp>
#include <moraine/io/json.hpp>
#include <moraine/io/weights.hpp>
#include <moraine/recipes/convert.hpp>
#include <moraine/recipes/weight_sizes.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

struct ConvertFileOptions {
  std::string input, output;
  TorchOptions torch = {};
  ConvertOptions names = {};
  bool config = true;  ///< write config.json beside the output, where names are changed
  SizedConfigOptions sizes = {};
  std::string account{};  ///< a JSON file with the fate of every tensor; empty: none
};

struct ConvertFileReport {
  ConvertReport names;
  std::string format, selected;
  std::vector<std::string> others, no_tensors;
  std::size_t tensors = 0;
  std::uint64_t bytes = 0;
  WeightSizes sizes;
  SizedConfig config;
  std::string config_path;  ///< where it was written; empty: it was not
};

/// The account as JSON: every name, where it went.
inline Json account_json(const ConvertFileReport& r) {
  const auto list = [](const std::vector<std::string>& v) {
    Json a = Json::array();
    for (const std::string& s : v) a.push(s);
    return a;
  };
  const auto pairs = [](const std::vector<std::pair<std::string, std::string>>& v) {
    Json o = Json::object();
    for (const auto& [a, b] : v) o.set(a, b);
    return o;
  };
  Json j = Json::object();
  j.set("format", r.format);
  j.set("selected", r.selected);
  j.set("recognised", r.names.from.what());
  j.set("prefix", r.names.from.prefix);
  j.set("preset", r.sizes.preset);
  j.set("kept", list(r.names.kept));
  j.set("renamed", pairs(r.names.renamed));
  j.set("dropped", pairs(r.names.dropped));
  j.set("converted", list(r.names.converted));
  j.set("notes", list(r.names.notes));
  j.set("other_parts", list(r.others));
  j.set("no_tensors", list(r.no_tensors));
  j.set("config_assumed", list(r.config.assumed));
  return j;
}

/// Reads, converts and writes. Nothing is written unless everything could be: neither the weights
/// nor config.json nor the account. An existing config.json with other content is an error, not
/// replaced.
inline ConvertFileReport convert_file(const ConvertFileOptions& o) {
  WeightsFile file = read_weights(o.input, o.torch);
  Converted made = convert_weights(file.tensors, o.names);
  ConvertFileReport r;
  r.names = std::move(made.report);
  r.format = file.format, r.selected = file.selected;
  r.others = file.others, r.no_tensors = file.no_tensors;
  r.tensors = made.tensors.size();
  for (const auto& [key, t] : made.tensors) r.bytes += t.bytes;
  const RecognisedWeights after = recognise_weights(made.tensors);
  if (after.family) r.sizes = weight_sizes(made.tensors, after);
  for (const auto& [key, t] : made.tensors)
    if (t.dtype == Dtype::other)
      fail(ErrorKind::dtype,
           "convert: tensor " + quoted(key) + " is of the type " +
               (file.other_dtypes.count(key) ? file.other_dtypes.at(key) : std::string("OTHER")) +
               ", which is not written -> leave it out with --drop");
  std::map<std::string, std::string> metadata = file.metadata;
  metadata["format"] = "pt";
  metadata["source"] = base_name(o.input);
  if (!file.selected.empty()) metadata["source_part"] = file.selected;
  if (after.family) metadata["names"] = name_of(after.naming);

  std::optional<AtomicFile> config, account;
  if (o.config && o.names.rename) {
    r.config = sized_config(made.tensors, after, o.sizes);
    if (!r.config.config.is_null()) {
      const std::string path = dir_name(o.output) + "/config.json";
      const std::string text = json_text(r.config.config) + "\n";
      if (is_file(path)) {
        if (read_file(path) != text)
          fail(ErrorKind::file, "convert: " + quoted(path) +
                                    " is there already and says something else -> choose an empty "
                                    "folder, or --no-config");
      } else {
        config.emplace(path);
        config->write(text);
      }
      r.config_path = path;
    }
  }
  if (!o.account.empty()) {
    account.emplace(o.account);
    account->write(json_text(account_json(r)) + "\n");
  }
  write_safetensors(o.output, made.tensors, metadata);
  if (config) config->commit();
  if (account) account->commit();
  return r;
}

}  // namespace moraine
