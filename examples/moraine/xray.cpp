// xray: runs one module on given weights and inputs and writes all that happened; compares two such
// files; lists the modules.
#include <charconv>
#include <limits>

#include "arguments.hpp"
#include "commands.hpp"
#include "xray_module.hpp"

namespace program {
namespace {

using namespace moraine;
using xray::Field;
using xray::Kind;
using xray::Module;

constexpr const char* xray_usage =
    "usage: xray run --module NAME --preset paper|official --config cfg.json\n"
    "                --weights w.safetensors --input in.safetensors --output out.safetensors\n"
    "                [--grad] [--dtype f32|f64] [--device cpu|cuda] [--threads N]\n"
    "       xray diff a.safetensors b.safetensors [--tol 1e-4]\n"
    "       xray list [NAME]\n"
    "\n"
    "Exit status: 0 success, 1 diff found a difference, 2 bad usage or bad input.\n";

[[noreturn]] void bad(const std::string& why) { fail(ErrorKind::value, "xray: " + why); }

/// A file's tensors; what is wrong with it is said in xray's name.
SafetensorsFile read_tensors(const std::string& path) {
  try {
    return read_safetensors(path);
  } catch (const Error& e) {
    fail(e.kind(), std::string("xray: ") + e.what());
  }
}

std::vector<const Module*> sorted_modules() {
  std::vector<const Module*> all;
  for (const Module& m : xray::modules()) all.push_back(&m);
  std::sort(all.begin(), all.end(),
            [](const Module* a, const Module* b) { return std::string_view(a->name) < b->name; });
  return all;
}

const Module& find_module(const std::string& name) {
  std::string all;
  for (const Module* m : sorted_modules()) {
    if (name == m->name) return *m;
    all += std::string(all.empty() ? "" : ", ") + m->name;
  }
  for (const char* planned :
       {"mamol.adapter", "mamol.layer", "mamol.classifier", "mfnet.mmadapter", "mfnet.mmlora",
        "mfnet.block", "mfnet.dfm", "mfnet.decoder", "mask2former.pixel_decoder",
        "mask2former.decoder", "mask2former.criterion"})
    if (name == planned)
      bad("module " + quoted(name) + " is not in this version yet; it has " + all);
  bad("unknown module " + quoted(name) + "; this version has " + all);
}

// ---- run
std::string text_of(const std::vector<const char*>& words) {
  std::string out;
  for (const char* w : words) out += std::string(out.empty() ? "" : ", ") + w;
  return out;
}

void check_field(const Field& f, const Json& j) {
  const std::string what = std::string("cfg.json: ") + f.name;
  const auto wrong = [&](const std::string& wanted) {
    bad(what + " must be " + wanted + "; it is " + json_text(j, {.indent = -1}).substr(0, 60));
  };
  const auto is_choice = [&](const Json& w) {
    if (!w.is_string()) return false;
    for (const char* c : f.choices)
      if (w.as_string() == c) return true;
    return false;
  };
  switch (f.kind) {
    case Kind::integer: {
      if (!j.is_integer()) wrong("a whole number");
      // The sign first: a number beyond 2^63 is natural and would not fit.
      if (j.as_double() < f.least || j.as_double() > 1 << 24)
        wrong("a whole number from " + std::to_string(static_cast<int>(f.least)) + " to 2^24");
      return;
    }
    case Kind::number:
      if (!j.is_number()) wrong("a number");
      if (j.as_double() < f.least) wrong("a number of at least " + number_text(f.least));
      return;
    case Kind::flag:
      if (!j.is_bool()) wrong("true or false");
      return;
    case Kind::word:
      if (!is_choice(j)) wrong("one of " + text_of(f.choices));
      return;
    case Kind::words: {
      if (!j.is_array()) wrong("a list of " + text_of(f.choices));
      const Json::Array& a = j.as_array();
      for (std::size_t i = 0; i < a.size(); ++i) {
        if (!is_choice(a[i])) wrong("a list of " + text_of(f.choices));
        for (std::size_t k = 0; k < i; ++k)
          if (a[k] == a[i]) wrong("a list of different words");
      }
      return;
    }
  }
}

/// cfg.json over the preset's defaults; every field of the module, none else.
Json merged_config(const Module& m, std::size_t preset, const std::string& path) {
  const Json given = read_json(path);
  if (!given.is_object())
    bad("cfg.json must be one object; " + quoted(path) + " is " + name_of(given.kind()));
  for (const JsonMember& member : given.as_object()) {
    bool known = false;
    for (const Field& f : m.fields) known |= member.key == f.name;
    if (!known)
      bad("cfg.json: unknown field " + quoted(member.key) + "; xray list " + m.name +
          " shows the fields");
  }
  Json out = Json::object();
  for (const Field& f : m.fields) {
    const Json* j = given.find(f.name);
    if (!j && f.defaults.empty())
      bad(std::string("cfg.json: field \"") + f.name + "\" is missing; it is " + f.meaning);
    out.set(f.name, j ? *j : parse_json(f.defaults[preset]));
    check_field(f, *out.find(f.name));
  }
  return out;
}

/// L = sum over outputs of sum(o * cot.o), backward; fills `out` with all gradients.
template <class T>
void add_gradients(xray::Run<T>& r, TensorMap& out) {
  Tensor<T> loss;
  for (const auto& [name, cot] : r.inputs) {
    if (name.rfind("cot.", 0) != 0) continue;
    const Tensor<T>* o = nullptr;
    for (const auto& [n, t] : r.outputs)
      if (n == name.substr(4)) o = &t;
    if (!o)
      fail(
          ErrorKind::key, "xray: " + quoted(name) + " belongs to no output; outputs " + [&] {
            std::string all;
            for (const auto& [n, t] : r.outputs) all += (all.empty() ? "" : ", ") + n;
            return all;
          }());
    if (cot.shape != o->shape())
      fail(ErrorKind::shape, "xray: " + name + " has another shape than its output; expected " +
                                 str(o->shape()) + ", found " + str(cot.shape));
    if (!is_float(cot.dtype))
      fail(ErrorKind::dtype,
           "xray: " + name + " is not of a floating type; it is " + name_of(cot.dtype));
    const Tensor<T> part = sum(mul(*o, cot.template as<T>()));
    loss = loss.defined() ? add(loss, part) : part;
  }
  if (loss.defined() && loss.tracked()) backward(loss);
  const auto put = [&](const std::string& name, const Tensor<T>& leaf) {
    const Tensor<T> g = leaf.grad();
    out.emplace(name, g.defined() ? g.detach() : zeros_like(leaf));
  };
  for (const auto& [name, leaf] : r.parameters) put("grad.param." + name, leaf);
  for (const auto& [name, leaf] : r.read) put("grad.input." + name, leaf);
}

struct Files {
  std::string weights, input, output;
};

template <class T>
std::string run_in(const Module& m, Json config, const Files& files, bool grad) {
  const SafetensorsFile w = files.weights.empty() ? SafetensorsFile{} : read_tensors(files.weights);
  const SafetensorsFile in = read_tensors(files.input);
  xray::Run<T> r{
      .config = std::move(config), .weights = w.tensors, .inputs = in.tensors, .grad = grad};
  TensorMap out;
  std::string line;
  {
    std::unique_ptr<NoGrad> off(grad ? nullptr : new NoGrad);
    if constexpr (std::is_same_v<T, float>)
      m.run32(r);
    else
      m.run64(r);
    for (const auto& [name, t] : r.outputs) {
      out.emplace(name, t.detach());
      line += name + ' ' + str(t.shape()) + "  ";
    }
    out.insert(r.mid.begin(), r.mid.end());
    line += std::to_string(r.mid.size()) + " intermediates";
    for (const auto& [name, t] : r.buffers) out.emplace("buffer." + name, t);
    if (!r.buffers.empty()) line += "  " + std::to_string(r.buffers.size()) + " buffers";
    if (grad) {
      add_gradients(r, out);
      line += "  " + std::to_string(r.parameters.size()) + " parameter gradients  " +
              std::to_string(r.read.size()) + " input gradients";
    }
  }
  write_safetensors(files.output, out);
  return r.sizes + "; " + (sizeof(T) == 8 ? "f64" : "f32") + " cpu\n" + line + " -> " +
         files.output;
}

int run(int argc, char** argv) {
  const Arguments a("xray", argc, argv,
                    {{"--module"},
                     {"--preset"},
                     {"--config"},
                     {"--weights"},
                     {"--input"},
                     {"--output"},
                     {"--grad", true},
                     {"--dtype"},
                     {"--device"},
                     {"--threads"}});
  if (a.help) return std::fputs(xray_usage, stdout), 0;
  const Module& m = find_module(a.required("--module"));
  const std::string preset = a.required("--preset");
  std::size_t at = m.presets.size();
  for (std::size_t i = 0; i < m.presets.size(); ++i)
    if (preset == m.presets[i] ||
        (preset == "official" && std::string_view(m.presets[i]) == "release"))
      at = i;
  if (at == m.presets.size())
    bad("option --preset has the value " + quoted(preset) + "; " + m.name + " has " +
        text_of(m.presets));
  Files files;
  const std::string config = a.required("--config");
  files.weights = m.has_weights || a.has("--weights") ? a.required("--weights") : "";
  files.input = a.required("--input");
  files.output = a.required("--output");
  const bool twice = a.choice("--dtype", {"f32", "f64"}) == "f64";
  a.check_device();
  a.apply_threads();
  if (is_directory(files.output))
    bad("the output " + quoted(files.output) + " is a directory; name a file in it");
  if (!is_directory(dir_name(files.output)))
    bad("cannot write " + quoted(files.output) + "; there is no directory " +
        quoted(dir_name(files.output)));
  Json cfg = merged_config(m, at, config);
  const std::string report = twice ? run_in<double>(m, std::move(cfg), files, a.has("--grad"))
                                   : run_in<float>(m, std::move(cfg), files, a.has("--grad"));
  std::printf("%s %s: %s\n", m.name, preset.c_str(), report.c_str());
  return 0;
}

// ---- diff
struct Row {
  std::string name = {}, shape = {}, max_abs = {}, max_rel = {}, first = {};
  double order = 0;  ///< worst first
  bool beyond = false;
};

std::string short_number(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1e", v);
  return text;
}

std::string index_text(Index at, const Shape& s) {
  Shape index = s;
  for (int i = s.rank; i-- > 0;) {
    index.dim[i] = at % s.dim[i];
    at /= s.dim[i];
  }
  return str(index);
}

Row compare(const std::string& name, const AnyTensor& a, const AnyTensor& b, double tol) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  Row row{.name = name, .shape = str(a.shape)};
  if (a.shape != b.shape) {
    row.shape += " " + str(b.shape);
    row.max_abs = row.max_rel = "-";
    row.first = "shapes differ";
    row.order = inf;
    row.beyond = true;
    return row;
  }
  if (a.dtype == Dtype::other || b.dtype == Dtype::other)
    fail(ErrorKind::dtype, "xray: tensor " + quoted(name) +
                               " has an element type that is not compared; shape " + str(a.shape));
  const Tensor<double> ta = a.as<double>(), tb = b.as<double>();
  const double *x = ta.data(), *y = tb.data();
  const Index n = ta.numel();
  double scale = 1, worst = 0;
  for (Index i = 0; i < n; ++i)
    if (std::isfinite(y[i])) scale = std::max(scale, std::abs(y[i]));
  Index first = -1;
  bool lone_nan = false;
  for (Index i = 0; i < n; ++i) {
    const bool nx = std::isnan(x[i]), ny = std::isnan(y[i]);
    lone_nan |= nx != ny;
    const double d = x[i] == y[i] || (nx && ny) ? 0 : nx != ny ? inf : std::abs(x[i] - y[i]);
    if (nx == ny) worst = std::max(worst, d);
    if (first < 0 && (nx != ny || d / scale > tol)) first = i;
  }
  row.max_abs = lone_nan ? "nan" : short_number(worst);
  row.max_rel = lone_nan ? "nan" : short_number(worst / scale);
  row.beyond = first >= 0;
  row.first = first < 0 ? "-" : index_text(first, a.shape);
  row.order = lone_nan ? inf : worst / scale;
  return row;
}

int diff(int argc, char** argv) {
  const Arguments a("xray", argc, argv, {{"--tol"}}, 2);
  if (a.help) return std::fputs(xray_usage, stdout), 0;
  if (a.words.size() != 2)
    bad("diff takes two files; " + std::to_string(a.words.size()) + " given");
  const std::string tol_text = a.text("--tol", "1e-4");
  double tol = 0;
  const auto parsed = std::from_chars(tol_text.data(), tol_text.data() + tol_text.size(), tol);
  if (parsed.ec != std::errc() || parsed.ptr != tol_text.data() + tol_text.size() || !(tol >= 0))
    bad("option --tol has the value " + quoted(tol_text) + "; it takes a number of at least 0");
  const SafetensorsFile fa = read_tensors(a.words[0]), fb = read_tensors(a.words[1]);
  std::vector<Row> rows;
  const auto lonely = [&](const std::string& name, const AnyTensor& t, const std::string& file) {
    rows.push_back({.name = name,
                    .shape = str(t.shape),
                    .max_abs = "-",
                    .max_rel = "-",
                    .first = "only in " + file,
                    .order = std::numeric_limits<double>::infinity(),
                    .beyond = true});
  };
  for (const auto& [name, t] : fa.tensors) {
    const auto at = fb.tensors.find(name);
    if (at == fb.tensors.end())
      lonely(name, t, a.words[0]);
    else
      rows.push_back(compare(name, t, at->second, tol));
  }
  for (const auto& [name, t] : fb.tensors)
    if (!fa.tensors.count(name)) lonely(name, t, a.words[1]);
  std::stable_sort(rows.begin(), rows.end(), [](const Row& p, const Row& q) {
    return p.order != q.order ? p.order > q.order : p.name < q.name;
  });
  std::size_t wide = 6, shape_wide = 5, beyond = 0;
  for (Row& r : rows) {
    r.name = one_line(r.name);
    wide = std::max(wide, r.name.size());
    shape_wide = std::max(shape_wide, r.shape.size());
    beyond += r.beyond;
  }
  const auto print = [&](const std::string& name, const std::string& shape, const std::string& abs,
                         const std::string& rel, const std::string& first) {
    std::printf("%-*s %-*s %-9s %-9s %s\n", static_cast<int>(wide), name.c_str(),
                static_cast<int>(shape_wide + 1), shape.c_str(), abs.c_str(), rel.c_str(),
                first.c_str());
  };
  print("tensor", "shape", "max abs", "max rel", "first beyond " + tol_text);
  for (const Row& r : rows) print(r.name, r.shape, r.max_abs, r.max_rel, r.first);
  std::printf("%zu tensors, %zu beyond %s\n", rows.size(), beyond, tol_text.c_str());
  return beyond ? 1 : 0;
}

// ---- list
void print_ports(const char* title, const std::vector<xray::Port>& ports) {
  if (ports.empty()) return;
  std::printf("\n%s\n", title);
  for (const xray::Port& p : ports)
    std::printf("  %-30s %-10s%s%s\n", p.name, p.shape, *p.note ? " " : "", p.note);
}

int list(int argc, char** argv) {
  const Arguments a("xray", argc, argv, {}, 1);
  if (a.help) return std::fputs(xray_usage, stdout), 0;
  if (a.words.empty()) {
    for (const Module* m : sorted_modules()) std::printf("%-28s %s\n", m->name, m->sentence);
    return 0;
  }
  const Module& m = find_module(a.words[0]);
  std::printf("%s: %s\n\nconfiguration\n  %-16s %-10s", m.name, m.sentence, "field", "type");
  for (const char* p : m.presets) std::printf(" %-23s", p);
  std::printf(" meaning\n");
  for (const Field& f : m.fields) {
    const char* type = f.kind == Kind::integer  ? "integer"
                       : f.kind == Kind::number ? "number"
                       : f.kind == Kind::flag   ? "true/false"
                       : f.kind == Kind::word   ? "word"
                                                : "words";
    std::printf("  %-16s %-10s", f.name, type);
    for (std::size_t i = 0; i < m.presets.size(); ++i)
      std::printf(" %-23s", f.defaults.empty() ? "required" : f.defaults[i]);
    std::printf(" %s%s%s\n", f.meaning, f.choices.empty() ? "" : ": ", text_of(f.choices).c_str());
  }
  print_ports("inputs", m.inputs);
  print_ports("outputs", m.outputs);
  print_ports("intermediates", m.intermediates);
  print_ports("parameters", m.parameters);
  print_ports("ignored keys of the weights", m.ignored);
  return 0;
}

}  // namespace

int xray_main(int argc, char** argv) {
  return guarded(nullptr, 2, [&] {
    const std::string command = argc > 0 ? argv[0] : "";
    if (command == "run") return run(argc - 1, argv + 1);
    if (command == "diff") return diff(argc - 1, argv + 1);
    if (command == "list") return list(argc - 1, argv + 1);
    if (command == "--help" || command == "-h") return std::fputs(xray_usage, stdout), 0;
    bad((command.empty() ? std::string("no command") : "unknown command " + quoted(command)) +
        "; there are run, diff and list");
  });
}

}  // namespace program
