#pragma once
// Weights of any kind that is read here, told by content: safetensors (one file, shards, a
// directory) and what torch.save writes (one file, or the shards of a
// pytorch_model.bin.index.json).
#include <map>
#include <moraine/core/any_tensor.hpp>
#include <moraine/io/recognise.hpp>
#include <moraine/io/safetensors.hpp>
#include <moraine/io/torch_file.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

struct WeightsFile {
  TensorMap tensors;
  std::map<std::string, std::string> other_dtypes, metadata;
  std::string format;    ///< "safetensors", "torch zip", "torch legacy", "torch torchscript"
  std::string selected;  ///< the part of a checkpoint that was read; "" is all of it
  std::vector<std::string> others, no_tensors;  ///< as in TorchFile
};

/// Whether a path holds weights of torch.save: such a file, or a directory (or index) of them with
/// no safetensors beside.
inline bool is_torch_weights(const std::string& path) {
  if (is_directory(path))
    return !is_file(path + "/model.safetensors") &&
           !is_file(path + "/model.safetensors.index.json") &&
           (is_file(path + "/pytorch_model.bin") ||
            is_file(path + "/pytorch_model.bin.index.json"));
  if (path.ends_with(".bin.index.json")) return true;
  std::size_t size = 0;
  const detail::Fd f = detail::open_to_read(path, size);
  char head[300];
  const std::size_t n = size < sizeof head ? size : sizeof head;
  if (!detail::read_at(f.fd, head, n, 0, path)) return false;
  const FileKind kind = recognise(std::string_view(head, n), size);
  return kind == FileKind::npz_or_zip || kind == FileKind::torch_legacy ||
         (kind == FileKind::unknown && head[0] == '\x80');  // a pickle: refused with its reason
}

/// Opens the weights at `path`. Tensors point into the mapped files where they can.
inline WeightsFile read_weights(const std::string& path, const TorchOptions& options = {}) {
  WeightsFile out;
  if (!is_torch_weights(path)) {
    SafetensorsFile f = read_sharded(path, {.map = options.map});
    out.tensors = std::move(f.tensors);
    out.other_dtypes = std::move(f.other_dtypes);
    out.metadata = std::move(f.metadata);
    out.format = "safetensors";
    return out;
  }
  std::string index = path;
  if (is_directory(path)) {
    index = path + "/pytorch_model.bin.index.json";
    if (is_file(path + "/pytorch_model.bin")) index = path + "/pytorch_model.bin";
  }
  std::map<std::string, std::vector<std::string>> shards;
  const bool sharded = index.ends_with(".json");
  if (sharded)
    for (const auto& [tensor, shard] : parse_safetensors_index(read_file(index), base_name(index)))
      shards[dir_name(index) + "/" + shard].push_back(tensor);
  else
    shards[index];
  for (const auto& [file, names] : shards) {
    TorchFile f = read_torch(file, options);
    for (const std::string& n : names)
      if (!f.tensors.count(n))
        fail(ErrorKind::key, "torch: " + quoted(base_name(index)) + ": tensor " + quoted(n) +
                                 " is not in its shard " + quoted(base_name(file)));
    for (auto& [n, t] : f.tensors)
      if (!out.tensors.emplace(n, std::move(t)).second)
        fail(ErrorKind::key,
             "torch: " + quoted(base_name(index)) + ": tensor " + quoted(n) + " is in two shards");
    out.other_dtypes.merge(f.other_dtypes);
    out.format = "torch " + f.format;
    out.selected = f.selected;
    out.others = f.others;
    out.no_tensors = f.no_tensors;
  }
  return out;
}

}  // namespace moraine
