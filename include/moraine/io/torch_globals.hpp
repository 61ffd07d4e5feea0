#pragma once
// Which names may stand in a checkpoint of PyTorch, and what they mean: the whitelist of
// io/torch_file.hpp. Nothing here is ever called; a name says how the values beside it are read.
#include <cstdint>
#include <moraine/core/dtype.hpp>
#include <moraine/io/pickle.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace moraine MORAINE_API {

struct TorchOptions {
  /// Which dictionary of a checkpoint: a path such as "state_dict" or "teacher.backbone", "*" for
  /// everything in it. Empty: the first of torch_state_keys that holds tensors, else the top level,
  /// else the only one that does.
  std::string select = "";
  bool map = true;  ///< false: copy the file into memory instead of mapping it
  /// Names "module.name" beyond the list that may stand in the file and are passed over; a trailing
  /// '*' stands for anything. What they hold is still never run.
  std::vector<std::string> also = {};
  /// Most bytes of all tensors together; 0: four times the file and 64 MiB. Tensors may share
  /// memory in a file and no longer do in what is read.
  std::uint64_t most_bytes = 0;
};

namespace detail {

struct TorchType {
  const char* storage;  ///< torch.FloatStorage
  const char* dtype;    ///< torch.float32
  unsigned bytes;
  Dtype is;
  const char* name;  ///< where `is` is Dtype::other
};
inline constexpr TorchType torch_types[] = {
    {"FloatStorage", "float32", 4, Dtype::f32, ""},
    {"DoubleStorage", "float64", 8, Dtype::f64, ""},
    {"HalfStorage", "float16", 2, Dtype::f16, ""},
    {"BFloat16Storage", "bfloat16", 2, Dtype::bf16, ""},
    {"LongStorage", "int64", 8, Dtype::i64, ""},
    {"IntStorage", "int32", 4, Dtype::i32, ""},
    {"ShortStorage", "int16", 2, Dtype::i16, ""},
    {"CharStorage", "int8", 1, Dtype::i8, ""},
    {"ByteStorage", "uint8", 1, Dtype::u8, ""},
    {"BoolStorage", "bool", 1, Dtype::boolean, ""},
    {"ComplexFloatStorage", "complex64", 8, Dtype::other, "C64"},
    {"ComplexDoubleStorage", "complex128", 16, Dtype::other, "C128"},
    {"", "uint16", 2, Dtype::u16, ""},
    {"", "uint32", 4, Dtype::u32, ""},
    {"", "uint64", 8, Dtype::u64, ""},
    {"", "float8_e4m3fn", 1, Dtype::other, "F8_E4M3"},
    {"", "float8_e5m2", 1, Dtype::other, "F8_E5M2"},
    {"", "float8_e4m3fnuz", 1, Dtype::other, "F8_E4M3FNUZ"},
    {"", "float8_e5m2fnuz", 1, Dtype::other, "F8_E5M2FNUZ"}};

/// Every name that may stand in a file, beside the types above and TorchScript's classes.
enum class TorchGlobal {
  unknown,
  tensor_v1,      ///< (storage, offset, size, stride)
  tensor_v2,      ///< (storage, offset, size, stride, requires_grad, hooks[, metadata])
  tensor_v3,      ///< (storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])
  parameter,      ///< (tensor, requires_grad, hooks[, state])
  from_type,      ///< (one of the above, type, its arguments, state)
  dictionary,     ///< of its items
  script_object,  ///< attributes in its state
  list,           ///< of its argument
  type,           ///< a storage, a dtype, a class
  inert           ///< kept as a value that is no tensor
};
struct TorchGlobalRow {
  const char *module, *name;  ///< a name of "*" is any
  TorchGlobal is;
};
inline constexpr TorchGlobalRow torch_globals[] = {
    {"torch._utils", "_rebuild_tensor", TorchGlobal::tensor_v1},
    {"torch._utils", "_rebuild_tensor_v2", TorchGlobal::tensor_v2},
    {"torch._utils", "_rebuild_tensor_v3", TorchGlobal::tensor_v3},
    {"torch._utils", "_rebuild_parameter", TorchGlobal::parameter},
    {"torch._utils", "_rebuild_parameter_with_state", TorchGlobal::parameter},
    {"torch._tensor", "_rebuild_from_type_v2", TorchGlobal::from_type},
    {"collections", "OrderedDict", TorchGlobal::dictionary},
    {"collections", "defaultdict", TorchGlobal::dictionary},
    {"collections", "Counter", TorchGlobal::dictionary},
    {"pytorch_lightning.utilities.parsing", "AttributeDict", TorchGlobal::dictionary},
    {"lightning_fabric.utilities.data", "AttributeDict", TorchGlobal::dictionary},
    {"lightning.fabric.utilities.data", "AttributeDict", TorchGlobal::dictionary},
    {"torch.jit._pickle", "build_intlist", TorchGlobal::list},
    {"torch.jit._pickle", "build_doublelist", TorchGlobal::list},
    {"torch.jit._pickle", "build_boollist", TorchGlobal::list},
    {"torch.jit._pickle", "build_tensorlist", TorchGlobal::list},
    {"torch.jit._pickle", "restore_type_tag", TorchGlobal::list},
    {"torch", "Tensor", TorchGlobal::type},
    {"torch.nn.parameter", "Parameter", TorchGlobal::type},
    {"torch.nn.parameter", "Buffer", TorchGlobal::type},
    {"torch.storage", "UntypedStorage", TorchGlobal::type},
    {"torch", "UntypedStorage", TorchGlobal::type},
    {"torch", "Size", TorchGlobal::inert},
    {"torch", "device", TorchGlobal::inert},
    {"torch.serialization", "_get_layout", TorchGlobal::inert},
    {"torch.torch_version", "TorchVersion", TorchGlobal::inert},
    {"argparse", "Namespace", TorchGlobal::inert},
    {"pathlib", "PosixPath", TorchGlobal::inert},
    {"pathlib", "PurePosixPath", TorchGlobal::inert},
    {"pathlib", "WindowsPath", TorchGlobal::inert},
    {"_codecs", "encode", TorchGlobal::inert},
    {"datetime", "datetime", TorchGlobal::inert},
    {"datetime", "timedelta", TorchGlobal::inert},
    {"numpy", "dtype", TorchGlobal::inert},
    {"numpy", "ndarray", TorchGlobal::inert},
    {"numpy.core.multiarray", "scalar", TorchGlobal::inert},
    {"numpy._core.multiarray", "scalar", TorchGlobal::inert},
    {"numpy.core.multiarray", "_reconstruct", TorchGlobal::inert},
    {"numpy._core.multiarray", "_reconstruct", TorchGlobal::inert}};

inline const TorchType* torch_type(std::string_view module, std::string_view name) {
  if (module != "torch") return nullptr;
  for (const TorchType& t : torch_types)
    if (name == t.dtype || (*t.storage && name == t.storage)) return &t;
  return nullptr;
}
inline TorchGlobal torch_global(std::string_view module, std::string_view name,
                                const TorchOptions& o) {
  for (const TorchGlobalRow& r : torch_globals)
    if (module == r.module && name == r.name) return r.is;
  if (torch_type(module, name)) return TorchGlobal::type;
  if (module == "__torch__" || module.starts_with("__torch__.")) return TorchGlobal::script_object;
  // The builtin types that factories and hyperparameters name; none is called.
  if (module == "builtins" || module == "__builtin__")
    for (const char* n : {"dict", "list", "set", "int", "float", "bool", "str", "bytearray",
                          "complex", "slice", "tuple"})
      if (name == n) return TorchGlobal::inert;
  const std::string full = std::string(module) + "." + std::string(name);
  for (const std::string& a : o.also)
    if (full == a || (a.ends_with('*') && full.starts_with(a.substr(0, a.size() - 1))))
      return TorchGlobal::inert;
  return TorchGlobal::unknown;
}
inline bool torch_allows(std::string_view module, std::string_view name, const void* o) {
  return torch_global(module, name, *static_cast<const TorchOptions*>(o)) != TorchGlobal::unknown;
}
inline PickleOptions torch_pickle(const TorchOptions& o) {
  return {.allowed = torch_allows,
          .context = &o,
          .hint =
              " -> nothing of a file is ever run; save the state_dict alone, or name what may "
              "be passed over"};
}

}  // namespace detail

}  // namespace moraine
